"""K0 and K1: from the maps to the logits, a block of images at a time."""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from avcontrast.ops.triton.batch import Batch, ignored_bytes
from avcontrast.ops.triton.kernels.maximum import maximum_kernel
from avcontrast.ops.triton.kernels.softmax import softmax_kernel
from avcontrast.ops.triton.matrices import Grams, audio_operand
from avcontrast.ops.triton.operands import (
    Operand,
    Positions,
    empty_operand,
    is_operand,
    prepare,
    rows_of,
)
from avcontrast.ops.triton.tiles import padded_channels, tile_for


def read_maps(
    batch: Batch,
    block: slice,
    into: Positions,
    operand: Operand | None = None,
    precision: str = "none",
) -> None:
    """K0: fill in what is wanted of a block of maps."""
    settings = batch.settings
    prepare(
        batch.maps[block],
        operand,
        into,
        batch.largest_map,
        normalize=settings.normalize,
        precision=precision,
        audio=batch.audio[batch.rows(block)],
        tau=batch.tau,
        threshold=settings.threshold,
        soft=settings.mask == "soft",
    )


def map_operand(batch: Batch, block: slice, into: Positions, precision: str) -> Operand:
    """K0: return a block of maps as operand, and fill in what else is wanted of them."""
    maps = batch.maps[block]
    n, d, positions = maps.shape
    operand = empty_operand(n * positions, d, precision, maps, batch.largest_map)
    read_maps(batch, block, into, operand, precision)
    return operand


class Statistics(NamedTuple):
    """What the tiles of the logits leave for the softmaxes, by rows and by columns.

    Those of the match are of rows, of columns, or empty, as :attr:`Batch.match` says.
    """

    rows: Tensor  # [column tiles, 2, n]
    columns: Tensor  # [row tiles, 2, b]
    match: Tensor


def maximum(
    batch: Batch,
    block: slice,
    operand: Operand | None,
    lengths: Tensor,
    audio: tuple[Operand, Tensor],
    logits: Tensor,
    index: Tensor,
    positives: Tensor | None = None,
) -> Statistics:
    """K1: fill in the logits of a block of images; return what its tiles say of rows and columns.

    Args:
        batch: the call.
        block: which images.
        operand: their maps; None where these are an operand as they are.
        lengths: of their features.
        audio: operand and lengths of the audio vectors.
        logits: [block, b].
        index: [block, b], or empty.
        positives: the logits of the positives, [block]; None when no softmax is wanted.
    """
    maps = batch.maps[block]
    n, d, positions = maps.shape
    b = len(batch.audio)
    tile = tile_for(f"maximum {batch.precision}", n, b, maps.device)
    row_tiles, column_tiles = triton.cdiv(n, tile.rows), triton.cdiv(b, tile.columns)
    softmax = positives is not None
    rows = logits.new_empty((column_tiles, 2, n) if softmax else 0)
    columns = logits.new_empty((row_tiles, 2, b) if softmax else 0)
    shapes = {"none": (0,), "rows": rows.shape, "columns": columns.shape}
    match = logits.new_empty(shapes[batch.match])
    vectors, audio_lengths = audio
    padded = padded_channels(d)
    strides = (maps.stride(0), maps.stride(2)) if operand is None else (positions * padded, padded)
    maximum_kernel[(row_tiles * column_tiles,)](
        maps if operand is None else operand.high,
        maps if operand is None else operand.low,
        vectors.high,
        vectors.low,
        lengths,
        audio_lengths,
        batch.tau,
        batch.largest_map,
        batch.largest_audio,
        logits,
        index,
        rows,
        columns,
        rows if positives is None else positives,
        ignored_bytes(batch, block, rows),
        match,
        n,
        b,
        batch.own.start + block.start,
        *strides,
        POSITIONS=positions,
        CHANNELS_PADDED=padded,
        RAW=batch.precision == "raw",
        SPLIT=batch.precision == "split",
        INDEX=index.numel() > 0,
        SOFTMAX=softmax,
        IGNORE=batch.ignore is not None,
        MATCH=batch.match if softmax else "none",
        **tile.options(),
    )
    return Statistics(rows, columns, match)


def measure(
    batch: Batch, block: slice, logits: Tensor, limits: Tensor, positives: Tensor
) -> Statistics:
    """Return the same of logits that are there, without the pairs above their limits.

    Args:
        batch: the call.
        block: which images.
        logits: of them.  [block, b].
        limits: see :mod:`avcontrast.ops._elimination`.
        positives: where to write the logits of the positives.  [block].
    """
    n, b = logits.shape
    tile = tile_for(f"statistics {batch.gram_precision}", n, b, logits.device)
    row_tiles, column_tiles = triton.cdiv(n, tile.rows), triton.cdiv(b, tile.columns)
    rows = logits.new_empty(column_tiles, 2, n)
    columns = logits.new_empty(row_tiles, 2, b)
    shapes = {"none": (0,), "rows": rows.shape, "columns": columns.shape}
    match = logits.new_empty(shapes[batch.match])
    softmax_kernel[(row_tiles * column_tiles,)](
        logits,
        limits,
        ignored_bytes(batch, block, rows),
        rows,
        columns,
        match,
        positives,
        n,
        b,
        batch.own.start + block.start,
        IGNORE=batch.ignore is not None,
        MATCH=batch.match,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        num_warps=tile.warps,
    )
    return Statistics(rows, columns, match)


class LogitsSource(NamedTuple):
    """What the logits of a block are made of; of mean features, these are the maps."""

    batch: Batch
    audio: tuple[Operand, Tensor]
    pooled: Operand | None


def logits_source(batch: Batch, grams: Grams, pooled: Tensor) -> LogitsSource:
    """Return what the logits of any block can be made from."""
    if batch.settings.pools_mean:
        means = batch._replace(maps=pooled[batch.own, :, None], precision=batch.gram_precision)
        return LogitsSource(means, (grams.audio, pooled), rows_of(grams.pooled, batch.own))
    if batch.precision == "raw":
        return LogitsSource(batch, audio_operand(batch, "raw"), None)
    return LogitsSource(batch, (grams.audio, pooled), None)


def make_logits(
    source: LogitsSource,
    block: slice,
    read: Positions,
    logits: Tensor,
    index: Tensor,
    positives: Tensor | None = None,
) -> Statistics:
    """Fill in the logits of a block, and what else is wanted of its maps."""
    batch = source.batch
    operand = None
    if source.pooled is not None:
        operand = rows_of(source.pooled, block)
    elif is_operand(batch.maps, batch.precision):
        read_maps(batch, block, read)
    else:
        operand = map_operand(batch, block, read, batch.precision)
    return maximum(batch, block, operand, read.lengths, source.audio, logits, index, positives)
