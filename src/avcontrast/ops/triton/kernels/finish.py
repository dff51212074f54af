"""The way back from the mean features and the sources to the maps, one program an image."""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import RANGE_EPS, foreground


@triton.jit
def finish_kernel(
    maps,
    vectors,
    tau,
    lengths,
    own_map,
    grad_pooled,
    grad_sources,
    out,
    grad_vectors,
    tau_parts,
    image_stride,
    channel_stride,
    position_stride,
    out_image_stride,
    out_channel_stride,
    out_position_stride,
    threshold,
    POSITIONS: tl.constexpr,
    POSITIONS_PADDED: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    POOLED: tl.constexpr,
    SOURCES: tl.constexpr,
    SOFT: tl.constexpr,
    MAPS: tl.constexpr,
    ADD: tl.constexpr,
):
    """Write, or ADD to, the gradient of a map; of a SOFT mask also those of its audio and tau."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, POSITIONS_PADDED)
    inside = position < POSITIONS
    block = tl.arange(0, BLOCK)
    features = maps + image * image_stride + position[:, None].to(tl.int64) * position_stride
    length = tl.load(lengths + image * POSITIONS + position, mask=inside, other=1.0)
    of_pooled = tl.zeros([POSITIONS_PADDED], tl.float32)
    of_sources = tl.zeros([POSITIONS_PADDED], tl.float32)
    if NORMALIZE or SOFT:
        for first in range(0, CHANNELS, BLOCK):
            channel = first + block
            known = channel < CHANNELS
            x = tl.load(
                features + channel[None, :].to(tl.int64) * channel_stride,
                mask=inside[:, None] & known[None, :],
                other=0.0,
            )
            unit = x.to(tl.float32) / length[:, None]
            if POOLED:
                grad = tl.load(grad_pooled + image * CHANNELS + channel, mask=known, other=0.0)
                of_pooled += tl.sum(unit * grad[None, :], 1)
            if SOURCES:
                grad = tl.load(grad_sources + image * CHANNELS + channel, mask=known, other=0.0)
                of_sources += tl.sum(unit * grad[None, :], 1)

    along = of_pooled / POSITIONS
    if SOURCES:
        own = tl.load(own_map + image * POSITIONS + position, mask=inside, other=0.0)
        share = foreground(own, inside, threshold, SOFT)
        along += share * of_sources / POSITIONS
    if SOFT:
        lowest = tl.argmin(tl.where(inside, own, float("inf")), 0)
        highest = tl.argmax(tl.where(inside, own, float("-inf")), 0)
        low = tl.min(tl.where(inside, own, float("inf")), 0)
        high = tl.max(tl.where(inside, own, float("-inf")), 0)
        grad_share = tl.where(inside, of_sources / POSITIONS, 0.0)
        grad_own = grad_share
        grad_own += tl.where(position == lowest, tl.sum(grad_share * (share - 1.0), 0), 0.0)
        grad_own -= tl.where(position == highest, tl.sum(grad_share * share, 0), 0.0)
        grad_own = grad_own / (high - low + RANGE_EPS)
        tl.store(tau_parts + image, tl.sum(tl.where(inside, grad_own * own, 0.0), 0))
        along += grad_own * own
        grad_own = grad_own / tl.load(tau)

    for first in range(0, CHANNELS, BLOCK):
        channel = first + block
        known = channel < CHANNELS
        mask = inside[:, None] & known[None, :]
        x = tl.load(features + channel[None, :].to(tl.int64) * channel_stride, mask=mask, other=0.0)
        unit = x.to(tl.float32) / length[:, None]
        if MAPS:
            grad = tl.zeros([POSITIONS_PADDED, BLOCK], tl.float32)
            if POOLED:
                mean = tl.load(grad_pooled + image * CHANNELS + channel, mask=known, other=0.0)
                grad += mean[None, :] / POSITIONS
            if SOURCES:
                source = tl.load(grad_sources + image * CHANNELS + channel, mask=known, other=0.0)
                grad += share[:, None] * source[None, :] / POSITIONS
            if SOFT:
                vector = tl.load(vectors + image * CHANNELS + channel, mask=known, other=0.0)
                grad += grad_own[:, None] * vector[None, :]
            if NORMALIZE:
                grad = (grad - along[:, None] * unit) / length[:, None]
            at = (
                out
                + image * out_image_stride
                + position[:, None] * out_position_stride
                + channel[None, :] * out_channel_stride
            )
            if ADD:
                grad += tl.load(at, mask=mask, other=0.0).to(tl.float32)
            tl.store(at, grad.to(out.dtype.element_ty), mask=mask)
        if SOFT:
            tl.store(
                grad_vectors + image * CHANNELS + channel,
                tl.sum(tl.where(inside[:, None], grad_own[:, None] * unit, 0.0), 0),
                mask=known,
            )
