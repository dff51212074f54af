"""What the softmaxes over the logits are scaled by, once it is known which pairs they leave out."""

import triton
import triton.language as tl

from avcontrast.ops.triton.kernels.common import likely, store_statistics, tile_of


@triton.jit
def softmax_kernel(
    logits,
    limits,
    ignore,
    row_parts,
    column_parts,
    match_parts,
    positives,
    rows,
    count,
    first_row,
    IGNORE: tl.constexpr,
    MATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Leave the maximum and the sum of exponentials of every row and column of a tile of logits.

    The MATCH, of "rows" or "columns" (or "none"), has all pairs; the others lack those above their
    limits and, with IGNORE, some more.
    """
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(count, COLUMNS))
    own = row_tile * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    row_inside = own < rows
    column_inside = column < count
    inside = row_inside[:, None] & column_inside[None, :]
    row = first_row + tl.where(row_inside, own, 0)
    positive = row[:, None] == column[None, :]
    pair = own[:, None].to(tl.int64) * count + column[None, :]
    score = tl.load(logits + pair, mask=inside, other=float("-inf"))
    at_rows = column_tile.to(tl.int64) * 2 * rows + own
    at_columns = row_tile.to(tl.int64) * 2 * count + column
    if MATCH == "rows":
        store_statistics(score, positive, 1, match_parts + at_rows, rows, row_inside)
    if MATCH == "columns":
        store_statistics(score, positive, 0, match_parts + at_columns, count, column_inside)
    left_out = likely(score, limits, count, row, tl.where(column_inside, column, 0), positive)
    if IGNORE:
        left_out = left_out | (tl.load(ignore + pair, mask=inside, other=0) != 0)
    score = tl.where(left_out, float("-inf"), score)
    store_statistics(score, positive, 1, row_parts + at_rows, rows, row_inside)
    store_statistics(score, positive, 0, column_parts + at_columns, count, column_inside)
    tl.store(
        positives + own,
        tl.sum(tl.where(positive, score, 0.0), 1),
        mask=row_inside & (row // COLUMNS == column_tile),
    )
