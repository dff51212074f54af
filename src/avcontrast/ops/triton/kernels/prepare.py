"""K0: one program an image reads its map and leaves what the other kernels need.

That is the length of every feature, the mean feature, the own map and the source it points to, and
the operands of the matrix products: rows of channels in 16 bits, padded with zeros.
"""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import (
    NORM_EPS,
    OPERAND_SCALE,
    foreground,
    split,
)


@triton.jit
def prepare_kernel(
    maps,
    audio,
    tau,
    largest,
    high,
    low,
    lengths,
    own_map,
    pooled,
    sources,
    image_stride,
    channel_stride,
    position_stride,
    audio_stride,
    threshold,
    POSITIONS: tl.constexpr,
    POSITIONS_PADDED: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    OPERAND: tl.constexpr,
    POOLED: tl.constexpr,
    SOURCES: tl.constexpr,
    SOFT: tl.constexpr,
):
    """OPERAND: "none", "raw" (as they are), "single" (one fp16 number) or "split" (two)."""
    image = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, POSITIONS_PADDED)
    inside = position < POSITIONS
    block = tl.arange(0, BLOCK)
    # A channel or a position may lie billions of numbers behind the first.
    features = maps + image * image_stride + position[:, None].to(tl.int64) * position_stride

    squares = tl.zeros([POSITIONS_PADDED], tl.float32)
    along = tl.zeros([POSITIONS_PADDED], tl.float32)
    audio_squares = tl.zeros([1], tl.float32)
    for first in range(0, CHANNELS, BLOCK):
        channel = first + block
        known = channel < CHANNELS
        x = tl.load(
            features + channel[None, :].to(tl.int64) * channel_stride,
            mask=inside[:, None] & known[None, :],
            other=0.0,
        ).to(tl.float32)
        squares += tl.sum(x * x, 1)
        if SOURCES:
            a = tl.load(audio + image * audio_stride + channel, mask=known, other=0.0)
            a = a.to(tl.float32)
            along += tl.sum(x * a[None, :], 1)
            audio_squares += tl.sum(a * a, 0)

    length = tl.zeros([POSITIONS_PADDED], tl.float32) + 1.0
    if NORMALIZE:
        length = tl.sqrt_rn(squares)
        length = tl.where(length > NORM_EPS, length, float("inf"))
    tl.store(lengths + image * POSITIONS + position, length, mask=inside)
    if SOURCES:
        if NORMALIZE:
            audio_length = tl.sqrt_rn(audio_squares)
            audio_length = tl.where(audio_length > NORM_EPS, audio_length, float("inf"))
            along = tl.div_rn(tl.div_rn(along, length), audio_length)
        own = tl.div_rn(along, tl.load(tau) + tl.zeros_like(along))
        tl.store(own_map + image * POSITIONS + position, own, mask=inside)
        share = foreground(own, inside, threshold, SOFT)

    scale = tl.div_rn(OPERAND_SCALE, tl.load(largest))
    for first in range(0, CHANNELS_PADDED, BLOCK):
        channel = first + block
        known = channel < CHANNELS
        x = tl.load(
            features + channel[None, :].to(tl.int64) * channel_stride,
            mask=inside[:, None] & known[None, :],
            other=0.0,
        )
        unit = tl.div_rn(x.to(tl.float32), tl.broadcast_to(length[:, None], x.shape))
        if POOLED:
            mean = tl.div_rn(tl.sum(unit, 0), tl.zeros([BLOCK], tl.float32) + POSITIONS)
            tl.store(pooled + image * CHANNELS + channel, mean, mask=known)
        if SOURCES:
            source = tl.sum(share[:, None] * unit, 0)
            source = tl.div_rn(source, tl.zeros([BLOCK], tl.float32) + POSITIONS)
            tl.store(sources + image * CHANNELS + channel, source, mask=known)
        if OPERAND != "none":
            row = (image * POSITIONS + position) * CHANNELS_PADDED
            where = row[:, None] + channel[None, :]
            room = inside[:, None] & (channel < CHANNELS_PADDED)[None, :]
            if OPERAND == "raw":
                tl.store(high + where, x, mask=room)
            else:
                unit_high, unit_low = split(unit * scale, tl.float16)
                tl.store(high + where, unit_high, mask=room)
                if OPERAND == "split":
                    tl.store(low + where, unit_low, mask=room)
