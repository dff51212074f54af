"""K4 and K5: from the gradients of b x b matrices back to the features."""

from __future__ import annotations

import triton
from torch import Tensor

from avcontrast.ops.triton.kernels.products import (
    along_kernel,
    product_kernel,
    to_maps_kernel,
    to_vectors_kernel,
)
from avcontrast.ops.triton.operands import Operand, rows_of
from avcontrast.ops.triton.tiles import (
    MAP_WARPS,
    along_columns,
    multiprocessors,
    power_of_two,
    tile_for,
)


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
        **tile.options(),
    )


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
        **tile.options(),
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
        **tile.options(),
    )
