"""Pooling by a soft mask: the mean over the positions, weighed by how clearly each one matches.

The weight of a similarity s is sigmoid((s - threshold) / temperature), over the sum of all weights.
A softmax over the logarithms of the weights is the same and never 0 / 0, however small all are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from avcontrast.ops._maps import block_bytes, blocks


def shares(similarity: Tensor, threshold: float, temperature: float) -> Tensor:
    """Return the weights of the positions, which add up to 1.  [..., p].

    Args:
        similarity: at all positions.  [..., p].
        threshold: where a weight is half of the highest possible.
        temperature: how soft the mask is; if negative, what lies below the threshold weighs.
    """
    return logsigmoid((similarity - threshold) / temperature).softmax(-1)


def pool(similarity: Tensor, threshold: float, temperature: float) -> Tensor:
    """Return the weighed mean over the positions.  [...]."""
    mean: Tensor = torch.linalg.vecdot(shares(similarity, threshold, temperature), similarity)
    return mean


def similarity(rows: Tensor, audio: Tensor) -> Tensor:
    """Return the similarity of every audio with a block of images at all positions.  [m, n, p]."""
    return (audio @ rows.flatten(0, 1).T).view(-1, *rows.shape[:2])


def pool_pairs(similarity: Tensor, soft_mask: tuple[float, float]) -> Tensor:
    """Return the same of a block of images, [m, n, p], a part of the audios at a time.  [n, m]."""
    pooled = similarity.new_empty(similarity.shape[:2])
    for part in _parts(similarity):
        pooled[part] = pool(similarity[part], *soft_mask)
    return pooled.T


def backward(grad: Tensor, similarity: Tensor, soft_mask: tuple[float, float]) -> Tensor:
    """Turn the similarity of a block, in place, into its gradient, from that of :func:`pool_pairs`.

    A weight grows with its own similarity: share * (1 + (s - mean) (1 - sigmoid) / temperature).
    """
    threshold, temperature = soft_mask
    for part in _parts(similarity):
        values = similarity[part]
        of_position = shares(values, threshold, temperature)
        mean = torch.linalg.vecdot(of_position, values).unsqueeze(-1)
        slope = (values - threshold).div_(-temperature).sigmoid_().div_(temperature)
        values.sub_(mean).mul_(slope).add_(1).mul_(of_position).mul_(grad.T[part].unsqueeze(-1))
    return similarity


def _parts(similarity: Tensor) -> Iterator[slice]:
    """Cut the audios into parts whose few copies stay in the cache."""
    bytes_each = 5 * similarity[0].numel() * similarity.element_size()
    return blocks(similarity.shape[0], bytes_each, block_bytes(similarity))
