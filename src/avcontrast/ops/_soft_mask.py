"""Pooling by a soft mask: the mean over the positions, weighed by how clearly each one matches.

The weight of a similarity s is sigmoid((s - threshold) / temperature), over the sum of all weights.
A softmax over the logarithms of the weights is the same and never 0 / 0, however small all are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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
    return torch.linalg.vecdot(shares(similarity, threshold, temperature), similarity)


def backward(grad: Tensor, similarity: Tensor, threshold: float, temperature: float) -> Tensor:
    """Return the gradient of the similarity from that of the pooled one.  [..., p].

    A weight grows with its own similarity: share * (1 + (s - mean) (1 - sigmoid) / temperature).
    """
    of_position = shares(similarity, threshold, temperature)
    mean = torch.linalg.vecdot(of_position, similarity).unsqueeze(-1)
    slope = (similarity - threshold).div_(-temperature).sigmoid_().div_(temperature)
    slope.mul_(similarity - mean).add_(1)
    return of_position.mul_(slope).mul_(grad.unsqueeze(-1))
