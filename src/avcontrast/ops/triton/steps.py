"""The steps of a pass over a block of images: each launches one kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from avcontrast.distributed import Peers
from avcontrast.ops._settings import TERMS, Settings
from avcontrast.ops.triton.kernels.adjacency import (
    combine_kernel,
    gradients_kernel,
    statistics_kernel,
    terms_kernel,
)
from avcontrast.ops.triton.kernels.maximum import maximum_kernel
from avcontrast.ops.triton.kernels.products import (
    along_kernel,
    product_kernel,
    to_maps_kernel,
    to_vectors_kernel,
)
from avcontrast.ops.triton.operands import (
    Operand,
    Positions,
    empty_operand,
    prepare,
)
from avcontrast.ops.triton.tiles import (
    INTERPRETED,
    MAP_WARPS,
    along_columns,
    multiprocessors,
    padded_channels,
    power_of_two,
    tile_for,
)

GROUP = 8
"""Rows of tiles that are worked on together, so that what they read stays in the L2 cache."""

WORKSPACE_BYTES = 2**28
"""Room for the operands of a block of images; a share of the maps if these are smaller."""

BLOCK_ROWS = 32 if INTERPRETED else 128
"""Blocks of images are multiples of this, as tiles are its divisors."""

SUMS = 15
"""Numbers a row of the adjacency terms: for each the term, and two sums of either side."""


class Batch(NamedTuple):
    """What a call is about.

    Args:
        maps: own images.  [n, d, p].
        audio: of all processes.  [b, d].
        tau: the temperature, in fp32.
        largest_map: what operands of visual features are divided by.
        largest_audio: the same of audio features.
        settings: see :class:`Settings`.
        peers: the processes that share the batch.
        precision: of the product with the maps.
        ignore: pairs that are in no cross entropy.  [n, b] bool.
    """

    maps: Tensor
    audio: Tensor
    tau: Tensor
    largest_map: Tensor
    largest_audio: Tensor
    settings: Settings
    peers: Peers
    precision: str
    ignore: Tensor | None = None

    @property
    def own(self) -> slice:
        """Where the samples of this process lie."""
        return self.peers.own(len(self.maps))

    def rows(self, block: slice) -> slice:
        """Return where a block of own images lies among the samples of all processes."""
        return slice(self.own.start + block.start, self.own.start + block.stop)

    @property
    def match(self) -> str:
        """Along what the match is a softmax of its own, because cross entropies leave pairs out."""
        if self.ignore is None or not self.settings.suppresses:
            return "none"
        return "columns" if self.settings.anchor == "audio" else "rows"

    @property
    def gram_precision(self) -> str:
        """Precision of all other products."""
        return "split" if self.precision == "split" else "single"


def image_blocks(batch: Batch, bytes_each: int, budget: int) -> Iterator[slice]:
    """Cut the own images into blocks whose temporaries fit into a budget."""
    n = len(batch.maps)
    size = max(budget // bytes_each // BLOCK_ROWS, 1) * BLOCK_ROWS
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def operand_blocks(batch: Batch) -> Iterator[slice]:
    """Cut the own images so that their operands take no more bytes than the maps have numbers."""
    _, d, positions = batch.maps.shape
    each = positions * padded_channels(d) * (4 if batch.precision == "split" else 2)
    return image_blocks(batch, each, min(WORKSPACE_BYTES, max(2**24, batch.maps.numel())))


def row_blocks(batch: Batch) -> Iterator[slice]:
    """Cut the own images so that four rows of fp32 for each take no more than 2 b x b bytes."""
    b = len(batch.audio)
    operands = next(iter(operand_blocks(batch))).stop
    rows = next(iter(image_blocks(batch, 16 * b, max(2**24, 2 * b * b)))).stop
    size = min(operands, rows)
    return image_blocks(batch, 1, size)


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


def ignored_bytes(batch: Batch, block: slice) -> Tensor:
    """Return which pairs of a block the cross entropies leave out, as bytes."""
    assert batch.ignore is not None
    return batch.ignore[block].contiguous().view(torch.uint8)


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
        rows if batch.ignore is None else ignored_bytes(batch, block),
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
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return Statistics(rows, columns, match)


def combine(parts: Tensor, positives: Tensor, scale: Tensor) -> None:
    """Put parts [tiles, 2, n] together to the scale [3, n] of a softmax."""
    tiles, _, n = parts.shape
    block = 16 if INTERPRETED else 128
    combine_kernel[(triton.cdiv(n, block),)](
        parts, positives, *scale.unbind(), tiles, n, BLOCK=block
    )


def measure_gram(batch: Batch, operand: Operand, scale: Tensor) -> None:
    """Fill in the scales of the own rows of a Gram matrix.  [3, n]."""
    n, b = len(batch.maps), len(batch.audio)
    tile = tile_for(f"statistics {batch.gram_precision}", n, b, batch.maps.device)
    row_tiles, column_tiles = triton.cdiv(n, tile.rows), triton.cdiv(b, tile.columns)
    parts = scale.new_empty(column_tiles, 2, n)
    positives = scale.new_empty(n)
    statistics_kernel[(row_tiles * column_tiles,)](
        operand.high,
        operand.low,
        batch.tau,
        operand.largest,
        parts,
        positives,
        n,
        b,
        batch.own.start,
        CHANNELS_PADDED=operand.high.shape[1],
        SPLIT=batch.gram_precision == "split",
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    combine(parts, positives, scale)


class Grams(NamedTuple):
    """Operands of the Gram matrices of all samples; of one that no term needs, another's."""

    audio: Operand
    pooled: Operand
    sources: Operand


def adjacency_terms(
    batch: Batch, block: slice, logits: Tensor, grams: Grams, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sums of the adjacency terms over the rows, and over the columns, of a block.

    Returns:
        [15, block] and [15, b]; what the terms do not need is undefined.
    """
    settings = batch.settings
    n, b = block.stop - block.start, len(batch.audio)
    tile = tile_for(f"matrices {batch.gram_precision}", n, b, batch.maps.device)
    row_tiles, column_tiles = triton.cdiv(n, tile.rows), triton.cdiv(b, tile.columns)
    by_column = settings.anchor == "audio"
    rows = scales.new_empty(column_tiles, SUMS, n)
    columns = scales.new_empty((row_tiles if by_column else 0, SUMS, b))
    terms_kernel[(row_tiles * column_tiles,)](
        logits,
        *(tensor for operand in grams for tensor in operand[:2]),
        scales,
        batch.tau,
        batch.largest_map,
        batch.largest_audio,
        rows,
        columns,
        n,
        b,
        batch.own.start + block.start,
        CHANNELS_PADDED=grams.audio.high.shape[1],
        SPLIT=batch.gram_precision == "split",
        FNS_AUDIO="fns_audio" in settings.terms,
        FNS_VISUAL="fns_visual" in settings.terms,
        TNE="tne" in settings.terms,
        BY_COLUMN=by_column,
        IGNORE=batch.ignore is not None,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return rows.sum(0), columns.sum(0)


class MatrixGradients(NamedTuple):
    """Gradients of a block of rows of each b x b matrix, over the temperature.  [block, b]."""

    logits: Tensor
    audio: Tensor
    pooled: Tensor
    sources: Tensor
    tau: Tensor  # the sum of gradient times matrix


def matrix_gradients(
    batch: Batch,
    block: slice,
    grads: Tensor,
    logits: Tensor,
    grams: Grams,
    scales: Tensor,
    sums: Tensor,
) -> MatrixGradients:
    """K3: return the gradients of a block of rows of all matrices."""
    settings = batch.settings
    n, b = block.stop - block.start, len(batch.audio)
    tile = tile_for(f"matrices {batch.gram_precision}", n, b, batch.maps.device)
    programs = triton.cdiv(n, tile.rows) * triton.cdiv(b, tile.columns)
    has = {term: term in settings.terms for term in TERMS}

    def room(needed: bool) -> Tensor:
        return scales.new_empty((n, b) if needed else 0)

    result = MatrixGradients(
        room(settings.needs_logits),
        room((has["fns_audio"] or has["tne"]) and not settings.detach_adjacency),
        room(has["fns_visual"] and not settings.detach_adjacency),
        room(has["tne"]),
        scales.new_empty(programs),
    )
    gradients_kernel[(programs,)](
        grads,
        logits,
        *(tensor for operand in grams for tensor in operand[:2]),
        scales,
        sums,
        scales if batch.ignore is None else ignored_bytes(batch, block),
        batch.tau,
        batch.largest_map,
        batch.largest_audio,
        *result,
        n,
        b,
        batch.own.start + block.start,
        CHANNELS_PADDED=grams.audio.high.shape[1],
        SPLIT=batch.gram_precision == "split",
        CE_AUDIO=has["visual_to_audio"],
        CE_VISUAL=has["audio_to_visual"],
        FNS_AUDIO=has["fns_audio"],
        FNS_VISUAL=has["fns_visual"],
        TNE=has["tne"],
        BY_COLUMN=settings.anchor == "audio",
        IGNORE=batch.ignore is not None,
        DETACH=settings.detach_adjacency,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return result


def add_product(
    weights: Tensor, bound: Tensor, vectors: Operand, into: Tensor, precision: str
) -> None:
    """Add weights @ vectors to ``into``; no weight is larger than ``bound``."""
    rows, inner = weights.shape
    channels = into.shape[1]
    tile = tile_for(f"product {precision}", rows, channels, into.device)
    product_kernel[(triton.cdiv(rows, tile.rows), triton.cdiv(channels, tile.columns))](
        weights,
        bound,
        vectors.high,
        vectors.low,
        vectors.largest,
        into,
        rows,
        inner,
        *weights.stride(),
        CHANNELS=channels,
        CHANNELS_PADDED=vectors.high.shape[1],
        SPLIT=precision == "split",
        ROWS=tile.rows,
        CHANNELS_TILE=tile.columns,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def rows_of(operand: Operand, rows: slice) -> Operand:
    """Return some rows of an operand."""
    low = operand.low[rows] if operand.low.numel() else operand.low
    return Operand(operand.high[rows], low, operand.largest)


def add_gram_gradient(
    grad: Tensor, bound: Tensor, own: slice, vectors: Operand, into: Tensor, precision: str
) -> None:
    """Add what rows of the gradient of a Gram matrix mean for its vectors.  [b, d]."""
    add_product(grad, bound, vectors, into[own], precision)
    add_product(grad.T, bound, rows_of(vectors, own), into, precision)


def add_to_vectors(
    grad: Tensor, index: Tensor, bound: Tensor, maps: Operand, into: Tensor, precision: str
) -> None:
    """K4: add the sum over a block of images of grad[n, m] maps[n, index[n, m]].  [b, d]."""
    n, b = grad.shape
    channels = into.shape[1]
    tile = tile_for(f"to vectors {precision}", b, channels, into.device)
    grid = (triton.cdiv(b, tile.rows), triton.cdiv(channels, tile.columns))
    wanted = max(1, multiprocessors(into.device) // (grid[0] * grid[1]))
    each = triton.cdiv(triton.cdiv(n, wanted), tile.depth) * tile.depth
    parts = into.new_empty(triton.cdiv(n, each), *into.shape)
    to_vectors_kernel[(*grid, len(parts))](
        grad,
        index,
        bound,
        maps.high,
        maps.low,
        maps.largest,
        parts,
        n,
        b,
        each,
        POSITIONS=maps.high.shape[0] // n,
        CHANNELS=channels,
        CHANNELS_PADDED=maps.high.shape[1],
        SPLIT=precision == "split",
        ROWS=tile.rows,
        CHANNELS_TILE=tile.columns,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    into += parts.sum(0)


def store_to_maps(
    grad: Tensor,
    logits: Tensor,
    index: Tensor,
    bound: Tensor,
    tau: Tensor,
    vectors: Operand,
    maps: Tensor,
    lengths: Tensor,
    out: Tensor,
    *,
    normalize: bool,
    precision: str,
) -> None:
    """K5: write the gradient of a block of maps, normalisation included.  [n, d, p]."""
    n, channels, positions = maps.shape
    b = len(vectors.high)
    along = lengths.new_empty(n, positions)
    if normalize:
        along_kernel[(n,)](
            grad,
            logits,
            index,
            tau,
            along,
            b,
            POSITIONS=positions,
            POSITIONS_PADDED=power_of_two(positions),
            COLUMNS=along_columns(positions),
            num_warps=MAP_WARPS,
        )
    tile = tile_for(f"to maps {precision}", n * positions, channels, out.device)
    to_maps_kernel[(triton.cdiv(n * positions, tile.rows), triton.cdiv(channels, tile.columns))](
        grad,
        index,
        bound,
        vectors.high,
        vectors.low,
        vectors.largest,
        maps,
        lengths,
        along,
        out,
        n,
        b,
        *maps.stride(),
        *out.stride(),
        POSITIONS=positions,
        CHANNELS=channels,
        CHANNELS_PADDED=vectors.high.shape[1],
        NORMALIZE=normalize,
        SPLIT=precision == "split",
        ROWS=tile.rows,
        CHANNELS_TILE=tile.columns,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
