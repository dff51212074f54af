"""K2 and K3: the adjacency terms and every gradient of a b x b matrix, a tile at a time.

The Gram matrices are made anew in each of them. What is computed is explained in
``ops/_adjacency``; the softmaxes, the sums on both sides of a sign and the terms are numbered as
there.
"""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import (
    dot,
    dot_split,
    likely,
    store_statistics,
    tile_of,
    unscale_of,
)

TO_AUDIO, TO_VISUAL, AUDIO, POOLED, SOURCES, ALL = (tl.constexpr(n) for n in range(6))


@triton.jit
def gram_tile(
    high,
    low,
    unscale,
    row,
    column,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return a tile of a Gram matrix times ``unscale``."""
    channel = tl.arange(0, DEPTH)
    rows_at = row[:, None] * CHANNELS_PADDED + channel[None, :]
    columns_at = column[:, None] * CHANNELS_PADDED + channel[None, :]
    sum = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    for first in range(0, CHANNELS_PADDED, DEPTH):
        y = tl.load(high + rows_at + first)
        z = tl.load(high + columns_at + first)
        if SPLIT:
            y_low = tl.load(low + rows_at + first)
            z_low = tl.load(low + columns_at + first)
            sum = dot_split(y, y_low, tl.trans(z), tl.trans(z_low), sum)
        else:
            sum = dot(y, tl.trans(z), sum)
    return sum * unscale


@triton.jit
def softmax_tile(
    scores, scales, SOFTMAX: tl.constexpr, count, row, column, inside, BY_COLUMN: tl.constexpr
):
    """Return a tile of a softmax, zero outside, from how its rows or columns were scaled."""
    highest = scales + SOFTMAX * 3 * count
    if BY_COLUMN:
        shifted = scores - tl.load(highest + column)[None, :]
        total = tl.load(highest + count + column)[None, :]
    else:
        shifted = scores - tl.load(highest + row)[:, None]
        total = tl.load(highest + count + row)[:, None]
    return tl.exp(tl.where(inside, shifted, float("-inf"))) / total


@triton.jit
def complement(scales, SOFTMAX: tl.constexpr, count, sample):
    """Return 1 minus the diagonal of a softmax."""
    total = scales + (SOFTMAX * 3 + 1) * count + sample
    return tl.load(total + count) / tl.load(total)


@triton.jit
def gap_sign(
    left,
    right,
    scales,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    count,
    row,
    diagonal,
):
    """Return the difference of two softmax tiles and its sign, exact on the diagonal."""
    exact = complement(scales, RIGHT, count, row) - complement(scales, LEFT, count, row)
    gap = tl.where(diagonal, exact[:, None], left - right)
    return gap, tl.where(gap > 0, 1.0, tl.where(gap < 0, -1.0, 0.0))


@triton.jit
def statistics_kernel(
    high,
    low,
    tau,
    largest,
    parts,
    positives,
    rows,
    count,
    first_row,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Leave the maximum and the sum of exponentials of every row of a tile of a Gram matrix."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(count, COLUMNS))
    own = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    row_inside = own < rows
    column_inside = column < count
    row = first_row + tl.where(row_inside, own, 0)
    score = gram_tile(
        high,
        low,
        unscale_of(largest, tau),
        row,
        tl.where(column_inside, column, 0),
        CHANNELS_PADDED,
        SPLIT,
        DEPTH,
    )
    score = tl.where(column_inside[None, :], score, float("-inf"))
    positive = row[:, None] == column[None, :]
    at = column_tile.to(tl.int64) * 2 * rows + own
    store_statistics(score, positive, 1, parts + at, rows, row_inside)
    tl.store(
        positives + own,
        tl.sum(tl.where(positive, score, 0.0), 1),
        mask=row_inside & (row // COLUMNS == column_tile),
    )


@triton.jit
def combine_kernel(parts, positives, highest, total, others, tiles, count, BLOCK: tl.constexpr):
    """Put the maxima and sums of all tiles together, in the order of the tiles."""
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = sample < count
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for tile in range(tiles):
        part = parts + tl.cast(tile, tl.int64) * 2 * count + sample
        best = tl.maximum(best, tl.load(part, mask=inside, other=float("-inf")))
    # A column of which this process leaves out all pairs has a maximum in another one.
    base = tl.where(best > float("-inf"), best, 0.0)
    sum = tl.zeros([BLOCK], tl.float32)
    for tile in range(tiles):
        part = parts + tl.cast(tile, tl.int64) * 2 * count + sample
        shift = tl.load(part, mask=inside, other=0.0) - base
        sum += tl.load(part + count, mask=inside, other=0.0) * tl.exp(shift)
    positive = tl.load(positives + sample, mask=inside, other=0.0)
    tl.store(highest + sample, best, mask=inside)
    tl.store(others + sample, sum, mask=inside)
    tl.store(total + sample, sum + tl.exp(positive - base), mask=inside)


@triton.jit
def sums_of_term(
    left,
    right,
    scales,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    out,
    count,
    row,
    diagonal,
    mask,
    stride,
    AXIS: tl.constexpr,
):
    """Store the sums over a tile that one term needs: |Q - T|, and Q and T on both sides of it."""
    gap, sign = gap_sign(left, right, scales, LEFT, RIGHT, count, row, diagonal)
    tl.store(out, tl.sum(tl.abs(gap), AXIS), mask=mask)
    tl.store(out + stride, tl.sum((1 + sign) * left, AXIS), mask=mask)
    tl.store(out + 2 * stride, tl.sum((1 - sign) * left, AXIS), mask=mask)
    tl.store(out + 3 * stride, tl.sum((1 + sign) * right, AXIS), mask=mask)
    tl.store(out + 4 * stride, tl.sum((1 - sign) * right, AXIS), mask=mask)


@triton.jit
def terms_kernel(
    logits,
    audio_high,
    audio_low,
    pooled_high,
    pooled_low,
    sources_high,
    sources_low,
    scales,
    tau,
    largest_map,
    largest_audio,
    row_parts,
    column_parts,
    rows,
    count,
    first_row,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    FNS_AUDIO: tl.constexpr,
    FNS_VISUAL: tl.constexpr,
    TNE: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    LEAVES_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Sum the adjacency terms over a tile; BY_COLUMN, suppression compares columns."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(count, COLUMNS))
    own = row_tile * ROWS + tl.arange(0, ROWS)
    column_raw = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    row_inside = own < rows
    column_inside = column_raw < count
    own = tl.where(row_inside, own, row_tile * ROWS)
    column = tl.where(column_inside, column_raw, 0)
    row = first_row + own
    inside = row_inside[:, None] & column_inside[None, :]
    diagonal = (row[:, None] == column[None, :]) & inside
    unscale_map = unscale_of(largest_map, tau)
    unscale_audio = unscale_of(largest_audio, tau)
    row_out = row_parts + column_tile.to(tl.int64) * 15 * rows + own
    MATCH: tl.constexpr = ALL if LEAVES_OUT else (TO_VISUAL if BY_COLUMN else TO_AUDIO)
    AXIS: tl.constexpr = 0 if BY_COLUMN else 1
    if BY_COLUMN:
        out = column_parts + row_tile.to(tl.int64) * 15 * count + column
        mask = column_inside
        stride = count
    else:
        out = row_out
        mask = row_inside
        stride = rows

    # One matrix after the other, and the logits anew for each: registers are what is scarce here.
    at = logits + (row_tile * ROWS).to(tl.int64) * count
    at += (own - row_tile * ROWS)[:, None] * count + column[None, :]
    if FNS_VISUAL:
        gram = gram_tile(
            pooled_high, pooled_low, unscale_map, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
        left = softmax_tile(gram, scales, POOLED, count, row, column, inside, BY_COLUMN)
        match = softmax_tile(tl.load(at), scales, MATCH, count, row, column, inside, BY_COLUMN)
        sums_of_term(
            left,
            match,
            scales,
            POOLED,
            MATCH,
            out + 5 * stride,
            count,
            row,
            diagonal,
            mask,
            stride,
            AXIS,
        )
    if FNS_AUDIO or TNE:
        audio = gram_tile(
            audio_high, audio_low, unscale_audio, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
    if FNS_AUDIO:
        left = softmax_tile(audio, scales, AUDIO, count, row, column, inside, BY_COLUMN)
        match = softmax_tile(tl.load(at), scales, MATCH, count, row, column, inside, BY_COLUMN)
        sums_of_term(
            left, match, scales, AUDIO, MATCH, out, count, row, diagonal, mask, stride, AXIS
        )
    if TNE:
        gram = gram_tile(
            sources_high, sources_low, unscale_map, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
        left = softmax_tile(audio, scales, AUDIO, count, row, column, inside, False)
        right = softmax_tile(gram, scales, SOURCES, count, row, column, inside, False)
        sums_of_term(
            left,
            right,
            scales,
            AUDIO,
            SOURCES,
            row_out + 10 * rows,
            count,
            row,
            diagonal,
            row_inside,
            rows,
            1,
        )


@triton.jit
def centred(sign, sums, SIDE: tl.constexpr, count, row, column, BY_COLUMN: tl.constexpr):
    """Return s - <s, Q> from the sums of Q on both sides."""
    above = sums + SIDE * 2 * count
    if BY_COLUMN:
        high = tl.load(above + column)[None, :]
        low = tl.load(above + count + column)[None, :]
    else:
        high = tl.load(above + row)[:, None]
        low = tl.load(above + count + row)[:, None]
    return tl.where(sign > 0, low, tl.where(sign < 0, -high, 0.5 * (low - high)))


@triton.jit
def along(vector, row, column, BY_COLUMN: tl.constexpr):
    """Load one number a row of a tile, or a column."""
    return tl.load(vector + column)[None, :] if BY_COLUMN else tl.load(vector + row)[:, None]


@triton.jit
def gradients_kernel(
    grads,
    logits,
    audio_high,
    audio_low,
    pooled_high,
    pooled_low,
    sources_high,
    sources_low,
    scales,
    sums,
    ignore,
    limits,
    tau,
    largest_map,
    largest_audio,
    grad_logits,
    grad_audio,
    grad_pooled,
    grad_sources,
    tau_parts,
    rows,
    count,
    first_row,
    CHANNELS_PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    CE_AUDIO: tl.constexpr,
    CE_VISUAL: tl.constexpr,
    FNS_AUDIO: tl.constexpr,
    FNS_VISUAL: tl.constexpr,
    TNE: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    IGNORE: tl.constexpr,
    ELIMINATE: tl.constexpr,
    DETACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write a tile of the gradients of the logits and of the Gram matrices, over tau."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(count, COLUMNS))
    own = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = (own < rows)[:, None] & (column < count)[None, :]
    own = tl.where(own < rows, own, row_tile * ROWS)
    column = tl.where(column < count, column, 0)
    row = first_row + own
    diagonal = (row[:, None] == column[None, :]) & inside
    temperature = tl.load(tau)
    unscale_map = unscale_of(largest_map, tau)
    unscale_audio = unscale_of(largest_audio, tau)
    LEAVES_OUT: tl.constexpr = IGNORE or ELIMINATE
    MATCH: tl.constexpr = ALL if LEAVES_OUT else (TO_VISUAL if BY_COLUMN else TO_AUDIO)
    # Offsets within a tile fit into 32 bits; addresses in 64, and matrices that are not needed at
    # the moment, would fill the registers.
    tile = (row_tile * ROWS).to(tl.int64) * count
    pair = (own - row_tile * ROWS)[:, None] * count + column[None, :]
    tau_part = 0.0
    grad = tl.zeros([ROWS, COLUMNS], tl.float32)
    audio_grad = tl.zeros([ROWS, COLUMNS], tl.float32)

    if FNS_VISUAL:
        gram = gram_tile(
            pooled_high, pooled_low, unscale_map, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
        weight = along(grads + 3 * count, row, column, BY_COLUMN)
        left = softmax_tile(gram, scales, POOLED, count, row, column, inside, BY_COLUMN)
        score = tl.load(logits + tile + pair)
        match = softmax_tile(score, scales, MATCH, count, row, column, inside, BY_COLUMN)
        _, sign = gap_sign(left, match, scales, POOLED, MATCH, count, row, diagonal)
        grad -= weight * match * centred(sign, sums, 3, count, row, column, BY_COLUMN)
        if not DETACH:
            left *= weight * centred(sign, sums, 2, count, row, column, BY_COLUMN)
            tl.store(grad_pooled + tile + pair, left / temperature, mask=inside)
            tau_part += tl.sum(left * gram)
    if FNS_AUDIO or TNE:
        audio = gram_tile(
            audio_high, audio_low, unscale_audio, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
    if FNS_AUDIO:
        weight = along(grads + 2 * count, row, column, BY_COLUMN)
        left = softmax_tile(audio, scales, AUDIO, count, row, column, inside, BY_COLUMN)
        score = tl.load(logits + tile + pair)
        match = softmax_tile(score, scales, MATCH, count, row, column, inside, BY_COLUMN)
        _, sign = gap_sign(left, match, scales, AUDIO, MATCH, count, row, diagonal)
        grad -= weight * match * centred(sign, sums, 1, count, row, column, BY_COLUMN)
        audio_grad += weight * left * centred(sign, sums, 0, count, row, column, BY_COLUMN)
    if CE_AUDIO or CE_VISUAL or FNS_AUDIO or FNS_VISUAL:
        score = tl.load(logits + tile + pair)
        counted = inside
        if IGNORE:
            counted = counted & (tl.load(ignore + tile + pair) == 0)
        if ELIMINATE:
            counted = counted & (likely(score, limits, count, row, column, diagonal) == 0)
        if CE_AUDIO:
            softmax = softmax_tile(score, scales, TO_AUDIO, count, row, column, counted, False)
            missing = complement(scales, TO_AUDIO, count, row)[:, None]
            softmax = tl.where(diagonal, -missing, softmax)
            grad += softmax * along(grads, row, column, False)
        if CE_VISUAL:
            softmax = softmax_tile(score, scales, TO_VISUAL, count, row, column, counted, True)
            missing = complement(scales, TO_VISUAL, count, row)[:, None]
            softmax = tl.where(diagonal, -missing, softmax)
            grad += softmax * along(grads + count, row, column, True)
        tl.store(grad_logits + tile + pair, grad / temperature, mask=inside)
        tau_part += tl.sum(grad * score)
    if TNE:
        gram = gram_tile(
            sources_high, sources_low, unscale_map, row, column, CHANNELS_PADDED, SPLIT, DEPTH
        )
        weight = along(grads + 4 * count, row, column, False)
        left = softmax_tile(audio, scales, AUDIO, count, row, column, inside, False)
        right = softmax_tile(gram, scales, SOURCES, count, row, column, inside, False)
        _, sign = gap_sign(left, right, scales, AUDIO, SOURCES, count, row, diagonal)
        audio_grad += weight * left * centred(sign, sums, 4, count, row, column, False)
        right *= -weight * centred(sign, sums, 5, count, row, column, False)
        tl.store(grad_sources + tile + pair, right / temperature, mask=inside)
        tau_part += tl.sum(right * gram)
    if (FNS_AUDIO or TNE) and not DETACH:
        tl.store(grad_audio + tile + pair, audio_grad / temperature, mask=inside)
        tau_part += tl.sum(audio_grad * audio)
    tl.store(tau_parts + tl.program_id(0), tau_part)
