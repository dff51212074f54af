"""The localised source of each image: its features where it matches its own audio.

The own map, as logits, is scaled to [0, 1]; what is above a threshold (hard mask) or the scaled map
itself (soft mask) weighs the positions, whose mean is the source vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.ops._maps import products, weighed
from avcontrast.ops._settings import RANGE_EPS, Settings
from avcontrast.ops.dense import foreground


def forward(maps: Tensor, scaling: Tensor, own_map: Tensor, settings: Settings) -> Tensor:
    """Return the source vectors of a block of images, given as maps [n, d, p].  [n, d]."""
    shares = foreground(own_map, settings.threshold, settings.mask)
    return weighed(maps, shares * scaling).div_(maps.shape[2])


def backward(
    grad: Tensor,
    maps: Tensor,
    scaling: Tensor,
    audio: Tensor,
    own_map: Tensor,
    tau: Tensor,
    settings: Settings,
    grad_maps: Tensor,
    along: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add to the gradient of the maps; return those of the audio vectors [n, d] and of -tau.

    A hard mask has no gradient, so the last two are then zero. ``grad_maps`` and ``along`` are what
    :func:`._maps.store` takes.
    """
    shares = foreground(own_map, settings.threshold, settings.mask)
    grad = grad / maps.shape[2]
    match = products(maps, grad).mul_(scaling)
    grad_maps.addcmul_(grad[:, :, None], (shares * scaling)[:, None])
    along.addcmul_(shares, match)
    if settings.mask == "hard":
        return torch.zeros_like(audio), grad.new_zeros(())
    grad_map = _scaled_backward(match, own_map).div_(tau)
    grad_tau = (grad_map * own_map).sum()
    weights = grad_map * scaling
    grad_maps.addcmul_(audio[:, :, None], weights[:, None])
    along.addcmul_(grad_map, own_map * tau)
    return weighed(maps, weights), grad_tau


def _scaled_backward(grad: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of a map from that of the same map scaled to [0, 1].  [n, p]."""
    low, lowest = logits.min(1, keepdim=True)
    high, highest = logits.max(1, keepdim=True)
    scale = 1 / (high - low + RANGE_EPS)
    share = (logits - low) * scale
    result = grad * scale
    result.scatter_add_(1, lowest, (grad * (share - 1)).sum(1, keepdim=True) * scale)
    return result.scatter_add_(1, highest, -(grad * share).sum(1, keepdim=True) * scale)
