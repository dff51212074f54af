"""Between feature maps and the b x b logits, a block of images at a time.

Only these functions touch the visual features. They take the maps as they lie, channels by
positions [n, d, p], and multiply them with every audio vector; the length of each position scales
the similarity, which is smaller than the features. What remains of it is the maximum over the
positions and where that was. The gradient of a maximum goes to one position a pair, so on the way
back each pair costs one row of features instead of all of them.

With u = x / |x|, g the gradient of u and h = g / |x|, the gradient of x is h - x <u, g> / |x|^2. So
the backward pass gathers h, and beside it <u, g>, which for a maximum is a sum of similarities.
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

FEW = 96
"""Below so many audio vectors a product with many zeros is cheaper on a CPU too."""


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


def forward_blocks(visual: Tensor, audio: Tensor) -> Iterator[slice]:
    """Cut the images into blocks for :func:`similarity`."""
    positions = visual.shape[2] * visual.shape[3]
    m, d = audio.shape
    temporary = positions * (m + d)
    return blocks(visual.shape[0], temporary * audio.element_size(), block_bytes(visual))


def backward_blocks(visual: Tensor, audio: Tensor, again: bool = False) -> Iterator[slice]:
    """Cut the images into blocks for the way back, where their similarity may be made again."""
    positions = visual.shape[2] * visual.shape[3]
    m, d = audio.shape
    temporary = positions * d * 2 + 12 * m
    if again or _takes_products(audio):
        temporary += positions * m
    return blocks(visual.shape[0], temporary * audio.element_size(), block_bytes(visual))


def unit_vectors(vectors: Tensor, dtype: torch.dtype, normalize: bool) -> tuple[Tensor, Tensor]:
    """Return vectors (n, d), at unit length if asked for, and their lengths.  [n, 1]."""
    made = vectors.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not normalize:
        return made, made.new_ones(())
    length = torch.linalg.vector_norm(made, dim=1, keepdim=True)
    length = torch.where(length > NORM_EPS, length, torch.inf)  # so short a one counts as zero
    return made.div_(length), length


def unit_vectors_backward(grad: Tensor, unit: Tensor, length: Tensor, normalize: bool) -> Tensor:
    """Turn the gradient of unit vectors, in place, into that of what they were made from."""
    if not normalize:
        return grad
    along = (unit * grad).sum(1, keepdim=True)
    return grad.addcmul_(unit, along, value=-1).div_(length)


def maps_of(visual: Tensor, block: slice, dtype: torch.dtype) -> Tensor:
    """Return a block of visual features (b, d, h, w) as they are, a view where that can be."""
    return visual[block].flatten(2).to(dtype)


def scaling_of(maps: Tensor, normalize: bool) -> Tensor:
    """Return 1 over the length at each position, 0 where it counts as zero; or 1.  [n, p]."""
    if not normalize:
        return maps.new_ones(maps.shape[0], maps.shape[2])
    length = (maps * maps).sum(1).sqrt_()  # a third of the time of a norm across rows
    return torch.where(length > NORM_EPS, length.reciprocal(), 0)


def unit_rows(maps: Tensor, scaling: Tensor) -> Tensor:
    """Return one unit vector a position, contiguous.  [n, p, d]."""
    return maps.transpose(1, 2).mul(scaling[:, :, None]).contiguous()


def columns_of(audio: Tensor) -> Tensor:
    """Return the audio vectors as columns, which have to adjoin for a fast product.  [d, m]."""
    return audio.T.contiguous()


def similarity(maps: Tensor, scaling: Tensor, columns: Tensor) -> Tensor:
    """Return the similarity of a block of images with every audio at all positions.  [n, p, m]."""
    wide = columns.expand(maps.shape[0], *columns.shape)
    return torch.bmm(maps.transpose(1, 2), wide).mul_(scaling[:, :, None])


def weighed(maps: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over the positions, weighed by ``weights`` [n, p].  [n, d]."""
    return torch.bmm(maps, weights[:, :, None]).squeeze(2)


def products(maps: Tensor, vectors: Tensor) -> Tensor:
    """Return the products of all positions with one vector an image, [n, d].  [n, p]."""
    return torch.bmm(vectors[:, None], maps).squeeze(1)


def best_positions(similarity: Tensor, with_index: bool) -> tuple[Tensor, Tensor | None]:
    """Return the maximum over positions of every pair, [n, m], and the first position with it.

    Overwrites the similarity where an index is asked for.
    """
    best = similarity.amax(1)
    return best, first_best(similarity, best) if with_index else None


def first_best(similarity: Tensor, best: Tensor | None = None) -> Tensor:
    """Return the first position of each maximum; overwrites the similarity.  [n, m]."""
    if on_accelerator(similarity):
        return similarity.argmax(1)
    # A CPU takes the maxima of many columns at once, but looks for their positions one by one. So
    # here that is a maximum too, of numbers that fall from the first position to the last.
    best = similarity.amax(1) if best is None else best
    last = similarity.shape[1] - 1
    from_last = torch.arange(last, -1, -1, dtype=similarity.dtype)[:, None]
    equal = torch.eq(similarity, best[:, None], out=similarity)  # as floats, faster than as bools
    return equal.mul_(from_last).amax(1).neg_().add_(last)


def empty_index(visual: Tensor, pairs: int, with_index: bool) -> Tensor:
    """Return room for a position a pair, in the smallest integer type that can name it."""
    positions = visual.shape[2] * visual.shape[3]
    dtype = torch.uint8 if positions <= 256 else torch.int32
    return visual.new_empty((visual.shape[0], pairs) if with_index else 0, dtype=dtype)


def to_positions(weights: Tensor, index: Tensor, positions: int) -> Tensor:
    """Return sum over m of [index = p] weights[n, m].  [n, p]."""
    if on_accelerator(weights):
        return _one_hot(weights, index, positions).sum(2)  # always in the same order
    return weights.new_zeros(len(weights), positions).scatter_add_(1, index.long(), weights)


def to_maps(weights: Tensor, index: Tensor, audio: Tensor, positions: int) -> Tensor:
    """Return sum over m of [index = p] weights[n, m] audio[m], laid out by rows.  [n, d, p]."""
    n, m = weights.shape
    if _takes_products(audio):
        return torch.matmul(_one_hot(weights, index, positions), audio).transpose(1, 2)
    key, order = index.sort(dim=1, stable=True)
    each = torch.arange(positions, dtype=index.dtype).expand(n, positions).contiguous()
    starts = torch.searchsorted(key, each).add_(torch.arange(0, n * m, m)[:, None])
    bags = embedding_bag(
        order.flatten(),
        audio,
        starts.flatten(),
        mode="sum",
        per_sample_weights=weights.gather(1, order).flatten(),
    )
    return bags.view(n, positions, -1).transpose(1, 2)


def to_vectors(weights: Tensor, index: Tensor, maps: Tensor) -> Tensor:
    """Return sum over n of weights[n, m] maps[n, :, index[n, m]].  [m, d]."""
    rows = maps.transpose(1, 2).contiguous()
    n, positions, _ = rows.shape
    if _takes_products(weights.T):
        return _one_hot(weights, index, positions).flatten(0, 1).T @ rows.flatten(0, 1)
    first = torch.arange(0, n * positions, positions, dtype=torch.int32)
    return embedding_bag(
        index.T + first,
        rows.flatten(0, 1),
        mode="sum",
        per_sample_weights=weights.T.contiguous(),
    )


def _takes_products(audio: Tensor) -> bool:
    """Whether a product with many zeros is cheaper than fetching rows for these audio vectors."""
    return on_accelerator(audio) or len(audio) < FEW


def _one_hot(weights: Tensor, index: Tensor, positions: int) -> Tensor:
    """Return the weights with zeros at all positions but those of the maxima.  [n, p, m]."""
    zeros = weights.new_zeros(weights.shape[0], positions, weights.shape[1])
    return zeros.scatter_(1, index[:, None].long(), weights[:, None])


def empty_maps(visual: Tensor) -> Tensor:
    """Return room for the gradient of ``visual``, channels-last if its channels adjoin."""
    last = visual.stride(1) == 1 and not visual.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty_like(visual, memory_format=layout)


def store(
    grad: Tensor, along: Tensor, maps: Tensor, scaling: Tensor, normalize: bool, into: Tensor
) -> None:
    """Finish the gradient of a block of maps, in place, and write it into ``into`` (n, d, h, w).

    Args:
        grad: that of the unit maps, scaled like the maps.  [n, d, p].
        along: how much of the unscaled one goes along the unit maps.  [n, p].
        maps: as they are.  [n, d, p].
        scaling: see :func:`scaling_of`.  [n, p].
        normalize: whether there are unit maps at all.
        into: the block's part of :func:`empty_maps`.
    """
    into = into.flatten(2)
    if not normalize:
        into.copy_(grad)
    elif into.dtype != grad.dtype:
        into.copy_(grad.addcmul_(maps, (along * scaling.square())[:, None], value=-1))
    else:
        into.copy_(grad).addcmul_(maps, (along * scaling.square())[:, None], value=-1)
