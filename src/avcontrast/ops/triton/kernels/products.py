"""K4 and K5: the products that carry gradients of b x b matrices to the features.

The gradient of a pair goes to the one position of its maximum. On tensor cores that is a product
with a matrix in which all other positions are zero: gathering single rows would move more bytes
than the product takes time.
"""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import OPERAND_SCALE, dot, dot_split, split

WEIGHT_SCALE = tl.constexpr(4096.0)


@triton.jit
def product_kernel(
    weights,
    bound,
    high,
    low,
    largest,
    out,
    rows,
    inner,
    row_stride,
    inner_stride,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Add weights @ vectors to ``out``; no weight is larger than ``bound``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, DEPTH)
    row_inside = row < rows
    padded = channel < CHANNELS_PADDED
    scale = WEIGHT_SCALE / tl.load(bound)
    sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, inner, DEPTH):
        sample = first + step
        inside = sample < inner
        weight = tl.load(
            weights
            + row[:, None].to(tl.int64) * row_stride
            + sample[None, :].to(tl.int64) * inner_stride,
            mask=row_inside[:, None] & inside[None, :],
            other=0.0,
        )
        weight_high, weight_low = split(weight * scale, tl.float16)
        vector_at = sample[:, None] * CHANNELS_PADDED + channel[None, :]
        mask = inside[:, None] & padded[None, :]
        vector = tl.load(high + vector_at, mask=mask, other=0.0)
        if SPLIT:
            vector_low = tl.load(low + vector_at, mask=mask, other=0.0)
            sum = dot_split(weight_high, weight_low, vector, vector_low, sum)
        else:
            sum = dot(weight_high, vector, sum)
    sum *= tl.load(largest) / (scale * OPERAND_SCALE)
    mask = row_inside[:, None] & (channel < CHANNELS)[None, :]
    at = out + row[:, None].to(tl.int64) * CHANNELS + channel[None, :]
    tl.store(at, tl.load(at, mask=mask, other=0.0) + sum, mask=mask)


@triton.jit
def to_vectors_kernel(
    grad,
    index,
    bound,
    high,
    low,
    largest,
    out,
    images,
    audios,
    images_each,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """K4: write sum over n of grad[n, m] maps[n, index[n, m]], for a part of the images."""
    audio = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(2)
    step = tl.arange(0, DEPTH)
    audio_inside = audio < audios
    padded = channel < CHANNELS_PADDED
    scale = WEIGHT_SCALE / tl.load(bound)
    sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, images_each, DEPTH):
        image = part * images_each + first + step
        known = (first + step < images_each) & (image < images)
        pair = image[None, :].to(tl.int64) * audios + audio[:, None]
        mask = known[None, :] & audio_inside[:, None]
        weight = tl.load(grad + pair, mask=mask, other=0.0)
        where = tl.load(index + pair, mask=mask, other=0).to(tl.int32)
        weight_high, weight_low = split(weight * scale, tl.float16)
        from_maps = (
            tl.where(known, image, 0)[:, None].to(tl.int64) * POSITIONS * CHANNELS_PADDED
            + channel[None, :]
        )
        for position in range(POSITIONS):
            vector_at = from_maps + position * CHANNELS_PADDED
            vector = tl.load(high + vector_at, mask=padded[None, :], other=0.0)
            here = where == position
            picked = tl.where(here, weight_high, 0.0)
            if SPLIT:
                vector_low = tl.load(low + vector_at, mask=padded[None, :], other=0.0)
                picked_low = tl.where(here, weight_low, 0.0)
                sum = dot_split(picked, picked_low, vector, vector_low, sum)
            else:
                sum = dot(picked, vector, sum)
    sum *= tl.load(largest) / (scale * OPERAND_SCALE)
    at = (part * audios + audio[:, None]).to(tl.int64) * CHANNELS + channel[None, :]
    tl.store(out + at, sum, mask=audio_inside[:, None] & (channel < CHANNELS)[None, :])


@triton.jit
def along_kernel(
    grad,
    logits,
    index,
    tau,
    out,
    audios,
    POSITIONS: tl.constexpr,
    POSITIONS_PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write how much of the gradient of each unit feature points along it.  [n, p].

    It is the sum over m of grad[n, m] times the similarity, which is known.
    """
    image = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, POSITIONS_PADDED)
    sums = tl.zeros([POSITIONS_PADDED, COLUMNS], tl.float32)
    for first in range(0, audios, COLUMNS):
        audio = first + tl.arange(0, COLUMNS)
        mask = audio < audios
        pair = image * audios + audio
        weight = tl.load(grad + pair, mask=mask, other=0.0)
        weight *= tl.load(logits + pair, mask=mask, other=0.0)
        where = tl.load(index + pair, mask=mask, other=0).to(tl.int32)
        sums += tl.where(where[None, :] == position[:, None], weight[None, :], 0.0)
    tl.store(
        out + image * POSITIONS + position,
        tl.sum(sums, 1) * tl.load(tau),
        mask=position < POSITIONS,
    )


@triton.jit
def to_maps_kernel(
    grad,
    index,
    bound,
    high,
    low,
    largest,
    maps,
    lengths,
    along,
    out,
    images,
    audios,
    image_stride,
    channel_stride,
    position_stride,
    out_image_stride,
    out_channel_stride,
    out_position_stride,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """K5: write the gradient of the maps, whose unit features get sum of grad[n, m] audio[m]."""
    feature = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, DEPTH)
    inside = feature < images * POSITIONS
    # In the loop, offsets from the first image of a tile fit into 32 bits; those in 64 would fill
    # the registers.
    first_feature = tl.program_id(0) * ROWS
    first_image = (first_feature // POSITIONS).to(tl.int64)
    feature = tl.where(inside, feature, first_feature)
    image = feature // POSITIONS - first_feature // POSITIONS
    position = feature % POSITIONS
    grad += first_image * audios
    index += first_image * audios
    maps += first_image * image_stride
    out += first_image * out_image_stride
    padded = channel < CHANNELS_PADDED
    scale = WEIGHT_SCALE / tl.load(bound)
    sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, audios, DEPTH):
        audio = first + step
        known = audio < audios
        pair = image[:, None] * audios + audio[None, :]
        mask = inside[:, None] & known[None, :]
        weight = tl.load(grad + pair, mask=mask, other=0.0)
        where = tl.load(index + pair, mask=mask, other=0).to(tl.int32)
        weight = tl.where(where == position[:, None], weight * scale, 0.0)
        weight_high, weight_low = split(weight, tl.float16)
        vector_at = audio[:, None] * CHANNELS_PADDED + channel[None, :]
        mask = known[:, None] & padded[None, :]
        vector = tl.load(high + vector_at, mask=mask, other=0.0)
        if SPLIT:
            vector_low = tl.load(low + vector_at, mask=mask, other=0.0)
            sum = dot_split(weight_high, weight_low, vector, vector_low, sum)
        else:
            sum = dot(weight_high, vector, sum)
    sum *= tl.load(largest) / (scale * OPERAND_SCALE)
    mask = inside[:, None] & (channel < CHANNELS)[None, :]
    if NORMALIZE:
        length = tl.load(lengths + feature)[:, None]
        x = tl.load(
            maps
            + image[:, None].to(tl.int64) * image_stride
            + position[:, None].to(tl.int64) * position_stride
            + channel[None, :].to(tl.int64) * channel_stride,
            mask=mask,
            other=0.0,
        ).to(tl.float32)
        sum = (sum - tl.load(along + feature)[:, None] * (x / length)) / length
    at = (
        image[:, None] * out_image_stride
        + position[:, None] * out_position_stride
        + channel[None, :] * out_channel_stride
    )
    tl.store(out + at, sum.to(out.dtype.element_ty), mask=mask)
