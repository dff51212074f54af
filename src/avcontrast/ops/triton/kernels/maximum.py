"""K1: the product of all maps with all audio vectors, of which only the maximum is kept.

A program owns a tile of images x audios and goes through the positions, so that the maximum is a
comparison of registers and no position is padded. Beside the logits it leaves the position of each
maximum, and of its tile the maximum and the sum of exponentials of every row and column.
"""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import (
    OPERAND_SCALE,
    dot,
    dot_split,
    store_statistics,
    tile_of,
)


@triton.jit
def maximum_kernel(
    maps_high,
    maps_low,
    audio_high,
    audio_low,
    lengths,
    audio_lengths,
    tau,
    largest_map,
    largest_audio,
    logits,
    index,
    row_parts,
    column_parts,
    positives,
    ignore,
    match_parts,
    images,
    audios,
    first_positive,
    image_stride,
    position_stride,
    POSITIONS: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
    RAW: tl.constexpr,
    SPLIT: tl.constexpr,
    INDEX: tl.constexpr,
    SOFTMAX: tl.constexpr,
    IGNORE: tl.constexpr,
    MATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """RAW operands are divided by their lengths here; others came divided.

    With IGNORE some pairs are not in the softmaxes. The MATCH still has all of them, and with it
    statistics of its own, of "rows" or "columns" (or "none").
    """
    row_tiles = tl.cdiv(images, ROWS)
    column_tiles = tl.cdiv(audios, COLUMNS)
    row_tile, column_tile = tile_of(tl.program_id(0), row_tiles, column_tiles)
    row = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    row_inside = row < images
    column_inside = column < audios
    image = tl.where(row_inside, row, 0)
    audio = tl.where(column_inside, column, 0)
    channel = tl.arange(0, DEPTH)
    from_maps = image[:, None].to(tl.int64) * image_stride + channel[None, :]
    from_audio = audio[:, None] * CHANNELS_PADDED + channel[None, :]

    best = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    where = tl.zeros([ROWS, COLUMNS], tl.int32)
    sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    STEPS: tl.constexpr = CHANNELS_PADDED // DEPTH
    for step in tl.range(0, POSITIONS * STEPS):
        position = step // STEPS
        part = step % STEPS
        x_at = from_maps + position.to(tl.int64) * position_stride + part * DEPTH
        a_at = from_audio + part * DEPTH
        x = tl.load(maps_high + x_at)
        a = tl.load(audio_high + a_at)
        if SPLIT:
            x_low = tl.load(maps_low + x_at)
            a_low = tl.load(audio_low + a_at)
            sum = dot_split(x, x_low, tl.trans(a), tl.trans(a_low), sum)
        else:
            sum = dot(x, tl.trans(a), sum)
        if part == STEPS - 1:
            if RAW:
                sum = sum / tl.load(lengths + image * POSITIONS + position)[:, None]
            where = tl.where(sum > best, position, where)
            best = tl.maximum(best, sum, propagate_nan=tl.PropagateNan.ALL)
            sum = tl.zeros([ROWS, COLUMNS], tl.float32)

    if RAW:
        best = best / tl.load(audio_lengths + audio)[None, :]
    else:
        unscale = tl.load(largest_map) * tl.load(largest_audio)
        best *= unscale / (OPERAND_SCALE * OPERAND_SCALE)
    score = best / tl.load(tau)
    inside = row_inside[:, None] & column_inside[None, :]
    pair = row[:, None].to(tl.int64) * audios + column[None, :]
    tl.store(logits + pair, score, mask=inside)
    if INDEX:
        tl.store(index + pair, where.to(index.dtype.element_ty), mask=inside)
    if SOFTMAX:
        score = tl.where(inside, score, float("-inf"))
        positive = (first_positive + row)[:, None] == column[None, :]
        at_rows = column_tile.to(tl.int64) * 2 * images + row
        at_columns = row_tile.to(tl.int64) * 2 * audios + column
        if MATCH == "rows":
            store_statistics(score, positive, 1, match_parts + at_rows, images, row_inside)
        if MATCH == "columns":
            store_statistics(score, positive, 0, match_parts + at_columns, audios, column_inside)
        if IGNORE:
            ignored = tl.load(ignore + pair, mask=inside, other=0) != 0
            score = tl.where(ignored, float("-inf"), score)
        store_statistics(score, positive, 1, row_parts + at_rows, images, row_inside)
        store_statistics(score, positive, 0, column_parts + at_columns, audios, column_inside)
        tl.store(
            positives + row,
            tl.sum(tl.where(positive, score, 0.0), 1),
            mask=row_inside & ((first_positive + row) // COLUMNS == column_tile),
        )
