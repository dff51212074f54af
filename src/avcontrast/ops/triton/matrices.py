"""K2 and K3: the b x b matrices after the maximum, and their gradients."""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from avcontrast.ops._settings import TERMS
from avcontrast.ops.triton.batch import Batch, ignored_bytes
from avcontrast.ops.triton.kernels.adjacency import (
    combine_kernel,
    gradients_kernel,
    statistics_kernel,
    terms_kernel,
)
from avcontrast.ops.triton.operands import Operand, vector_operand
from avcontrast.ops.triton.tiles import INTERPRETED, tile_for

SUMS = 15
"""Numbers a row of the adjacency terms: for each the term, and two sums of either side."""


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
        **tile.options(),
    )
    combine(parts, positives, scale)


class Grams(NamedTuple):
    """Operands of the Gram matrices of all samples; of one that no term needs, another's."""

    audio: Operand
    pooled: Operand
    sources: Operand


def audio_operand(batch: Batch, precision: str) -> tuple[Operand, Tensor]:
    """Return the audio vectors of all processes as operand, and their lengths."""
    return vector_operand(
        batch.audio, batch.largest_audio, normalize=batch.settings.normalize, precision=precision
    )


def gram_operands(
    batch: Batch, pooled: Tensor, sources: Tensor, audio: Operand | None = None
) -> Grams:
    """Return the operands of the Gram matrices; ``audio`` if that is already there."""
    precision = batch.gram_precision
    if audio is None:
        audio, _ = audio_operand(batch, precision)
    grams = {"audio": audio, "pooled": audio, "sources": audio}
    for name, vectors in (("pooled", pooled), ("sources", sources)):
        if vectors.numel():
            grams[name], _ = vector_operand(
                vectors, batch.largest_map, normalize=False, precision=precision
            )
    return Grams(**grams)


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
        LEAVES_OUT=batch.leaves_out,
        **tile.options(),
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
    limits: Tensor,
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
        ignored_bytes(batch, block, scales),
        limits,
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
        ELIMINATE=settings.eliminates,
        DETACH=settings.detach_adjacency,
        **tile.options(),
    )
    return result
