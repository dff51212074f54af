"""Between feature maps and the b x b logits, a block of images at a time.

Only these functions touch the visual features. A block of images is copied to rows (one position
a row), scaled to unit length and multiplied with every audio vector; what remains of it is the
maximum over its positions and where that was. The gradient of a maximum goes to one position a
pair, so on the way back each pair costs one row instead of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from avcontrast.ops._settings import NORM_EPS

BLOCK_BYTES = 2 * 2**20
"""Temporary memory that one block may take, by measurement on a CPU: with more, small batches lose
time to memory that goes back to the system between blocks; with less, large products slow down."""


ACCELERATOR_BLOCK_BYTES = 64 * 2**20
"""The same elsewhere, where a block costs launches rather than cache: an estimate, not measured.
Small batches get by with less, a quarter of what an fp16 copy of their maps would take."""


def on_accelerator(tensor: Tensor) -> bool:
    """Whether a product with many zeros is cheaper here than fetching single rows."""
    return tensor.device.type != "cpu"


def block_bytes(data: Tensor) -> int:
    """Return the temporary memory that one block of some data may take."""
    if not on_accelerator(data):
        return BLOCK_BYTES
    return min(ACCELERATOR_BLOCK_BYTES, max(4 * BLOCK_BYTES, data.numel() // 2))


def blocks(count: int, bytes_each: int, budget: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices whose temporaries fit into ``budget``."""
    size = max(1, budget // bytes_each)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


KEPT_BYTES = 8 * 2**20
"""Unit rows of up to this size are kept for the backward pass: making them is a quarter of the time
of a small batch. Larger ones are made again, which is what bounds the memory."""


def inverse_lengths(features: Tensor) -> Tensor:
    """Return 1 over the length along the last dimension, 0 for a vector that counts as zero."""
    norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return torch.where(norm > NORM_EPS, norm.reciprocal(), 0)


def unit_rows(
    features: Tensor, dtype: torch.dtype, normalize: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``features`` (..., d), at unit length if asked for, and what scaled them, [..., 1]."""
    if out is None:
        rows = features.to(dtype, copy=True, memory_format=torch.contiguous_format)
    else:
        rows = out.copy_(features)
    if not normalize:
        return rows, rows.new_ones(())
    scale = inverse_lengths(rows)
    return rows.mul_(scale), scale


def unit_rows_backward(grad: Tensor, rows: Tensor, scale: Tensor, normalize: bool) -> Tensor:
    """Turn the gradient of unit rows, in place, into that of the features they were made from."""
    if not normalize:
        return grad
    along = (rows * grad).sum(-1, keepdim=True)
    return grad.addcmul_(rows, along, value=-1).mul_(scale)


def map_rows(
    visual: Tensor,
    block: slice,
    dtype: torch.dtype,
    normalize: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a block of maps (b, d, h, w) as contiguous unit rows [n, p, d] and their scales."""
    return unit_rows(visual[block].flatten(2).transpose(1, 2), dtype, normalize, out)


def keeps_rows(visual: Tensor, dtype: torch.dtype) -> bool:
    """Whether the unit rows of all maps are few enough to be kept for the backward pass.

    Vectors are not: they need no transposing.
    """
    is_map = visual.shape[2] * visual.shape[3] > 1
    return is_map and visual.numel() * dtype.itemsize <= KEPT_BYTES


def empty_maps(visual: Tensor) -> Tensor:
    """Return room for the gradient of ``visual``, channels-last if its channels adjoin."""
    last = visual.stride(1) == 1 and not visual.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(visual, memory_format=layout)


def store_map(rows: Tensor, maps: Tensor, block: slice) -> None:
    """Write rows [n, p, d] into a block of maps (b, d, h, w) made by :func:`empty_maps`."""
    maps[block].flatten(2).copy_(rows.transpose(1, 2))


def forward_blocks(visual: Tensor, audio: Tensor, kept: bool = False) -> Iterator[slice]:
    """Cut the images into blocks for :func:`similarity`, whose rows may be kept."""
    positions = visual.shape[2] * visual.shape[3]
    m, d = audio.shape
    temporary = positions * (m if kept else m + d)
    return blocks(visual.shape[0], temporary * audio.element_size(), block_bytes(visual))


def backward_blocks(
    visual: Tensor, audio: Tensor, kept: bool = False, again: bool = False
) -> Iterator[slice]:
    """Cut the images into blocks for the way back.

    Their rows may have been kept, and their similarity may have to be made again.
    """
    positions = visual.shape[2] * visual.shape[3]
    m, d = audio.shape
    temporary = positions * d * (1 if kept else 2) + 12 * m
    if again or on_accelerator(visual):
        temporary += positions * m
    return blocks(visual.shape[0], temporary * audio.element_size(), block_bytes(visual))


def similarity(rows: Tensor, audio: Tensor) -> Tensor:
    """Return the similarity of a block of images with every audio at all positions.  [n, p, m]."""
    return (rows.flatten(0, 1) @ audio.T).view(*rows.shape[:2], -1)


def best_positions(similarity: Tensor, with_index: bool) -> tuple[Tensor, Tensor | None]:
    """Return the maximum over positions of every pair, [n, m], and the first position with it.

    Overwrites the similarity where an index is asked for.
    """
    if not with_index:
        return similarity.amax(1), None
    if on_accelerator(similarity):
        best, index = similarity.max(1)
        return best, index
    # A CPU takes the maxima of many columns at once, but looks for their positions one by one. So
    # here that is a maximum too, of numbers that fall from the first position to the last.
    best = similarity.amax(1)
    last = similarity.shape[1] - 1
    from_last = torch.arange(last, -1, -1, dtype=similarity.dtype)[:, None]
    highest = torch.eq(similarity, best[:, None], out=similarity).mul_(from_last).amax(1)
    return best, highest.neg_().add_(last)


def index_dtype(positions: int) -> torch.dtype:
    """Return the smallest integer type that can name a position."""
    return torch.uint8 if positions <= 256 else torch.int32


def empty_index(visual: Tensor, pairs: int, with_index: bool) -> Tensor:
    """Return room for a position a pair."""
    dtype = index_dtype(visual.shape[2] * visual.shape[3])
    return visual.new_empty((visual.shape[0], pairs) if with_index else 0, dtype=dtype)


def scatter_to_rows(grad: Tensor, index: Tensor, audio: Tensor, positions: int) -> Tensor:
    """Return sum over m of [index = p] grad[n, m] audio[m] for a block of images.  [n, p, d]."""
    n, m = grad.shape
    if on_accelerator(grad):
        return torch.matmul(_one_hot(grad, index, positions), audio)
    key, order = _flat_rows(index, positions).flatten().sort(stable=True)
    starts = torch.searchsorted(key, torch.arange(n * positions, device=key.device))
    weights = grad.flatten()[order]
    bags = embedding_bag(order % m, audio, starts, mode="sum", per_sample_weights=weights)
    return bags.view(n, positions, -1)


def gather_from_rows(grad: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Return sum over n of grad[n, m] rows[n, index[n, m]] for a block of images.  [m, d]."""
    if on_accelerator(grad):
        return _one_hot(grad, index, rows.shape[1]).flatten(0, 1).T @ rows.flatten(0, 1)
    picked = _flat_rows(index, rows.shape[1]).T.contiguous()
    weights = grad.T.contiguous()
    return embedding_bag(picked, rows.flatten(0, 1), mode="sum", per_sample_weights=weights)


def _one_hot(grad: Tensor, index: Tensor, positions: int) -> Tensor:
    """Return the gradients with zeros at all positions but those of the maxima.  [n, p, m]."""
    zeros = grad.new_zeros(grad.shape[0], positions, grad.shape[1])
    return zeros.scatter_(1, index[:, None].long(), grad[:, None])


def _flat_rows(index: Tensor, positions: int) -> Tensor:
    first = torch.arange(index.shape[0], dtype=torch.int32, device=index.device) * positions
    return index.int() + first[:, None]
