"""Finds the samples that are nearest to each sample, exactly, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Of one block of similarities.
ROWS, COLUMNS = 1_024, 8_192
_LAST = 2**31 - 1
_NEVER = torch.iinfo(torch.int64).min


def nearest(features: Tensor, rows: range, k: int, *, columns: int = COLUMNS) -> Tensor:
    """Return the `k` nearest other samples of some samples, the nearest first.

    Near is a high cosine similarity; of samples that are equally near, the one with the lower
    number comes first. Nothing larger than `rows` by `columns + k` is held.

    Args:
        features: Vectors of unit length, float32 [n, d].
        rows: The samples whose neighbours are asked for.
        k: Number of neighbours, below n.
        columns: Number of samples that they are compared with at a time.

    Returns:
        Numbers of samples, int64 [rows, k].
    """
    queries = features[rows.start : rows.stop]
    own = torch.arange(rows.start, rows.stop, device=features.device)[:, None]
    best = own.new_empty(len(rows), 0)
    for start in range(0, len(features), columns):
        block = features[start : start + columns]
        numbers = torch.arange(start, start + len(block), device=features.device)
        keys = _keys(queries @ block.T, numbers).masked_fill_(numbers == own, _NEVER)
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1, sorted=False).values
    return _LAST - (best.sort(dim=1, descending=True).values & 0xFFFFFFFF)


def _keys(similarity: Tensor, numbers: Tensor) -> Tensor:
    """Return integers in the order of the similarities, of equal ones the lower number higher.

    Above are the 32 bits of the similarity, which are in its order once those of negative numbers
    are turned over; below is the number.
    """
    bits = (similarity + 0.0).view(torch.int32)  # which makes -0 the same as 0
    bits = bits ^ ((bits >> 31) & _LAST)
    return (bits.long() << 32) | (_LAST - numbers)


def purity(lists: Tensor, labels: Tensor, lengths: Sequence[int]) -> dict[int, float]:
    """Return the share of the first so many neighbours that are of the same class.

    Args:
        lists: Numbers of samples, the nearest first, [n, k].
        labels: Class of each sample, -1 where it is not known, int64 [n]. Those samples do not
            count, neither as neighbours nor as samples that have some.
        lengths: Numbers of neighbours, up to k.
    """
    totals = dict.fromkeys(lengths, 0.0)
    for part, own in zip(torch.split(lists, ROWS), torch.split(labels, ROWS), strict=True):
        near = labels[part[own >= 0]]
        same, known = near == own[own >= 0, None], near >= 0
        for length in lengths:
            of = known[:, :length].sum(dim=1).clamp(min=1).double()
            totals[length] += (same[:, :length].sum(dim=1) / of).sum().item()
    count = max(1, int((labels >= 0).sum()))
    return {length: total / count for length, total in totals.items()}


def best_purity(labels: Tensor, lengths: Sequence[int]) -> dict[int, float]:
    """Return the purity of lists in which all samples of the same class come first."""
    others = _others_alike(labels)
    return {k: (others.clamp(max=k) / min(k, len(others) - 1)).mean().item() for k in lengths}


def chance_purity(labels: Tensor) -> float:
    """Return the purity of lists in random order."""
    others = _others_alike(labels)
    return (others / (len(others) - 1)).mean().item()


def _others_alike(labels: Tensor) -> Tensor:
    """Return how many others have the class of each sample with a known one, as float64."""
    known = labels[labels >= 0]
    return (known.bincount()[known] - 1).double()
