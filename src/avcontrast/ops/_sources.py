"""The localised source of each image: its features where it matches its own audio.

The own map, as logits, is scaled to [0, 1]; what is above a threshold (hard mask) or the scaled map
itself (soft mask) weighs the positions, whose mean is the source vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.ops._settings import RANGE_EPS, Settings
from avcontrast.ops.dense import foreground


def own_similarity(rows: Tensor, audio: Tensor) -> Tensor:
    """Return the similarity of each image with its own audio at every position.  [n, p]."""
    similarity: Tensor = torch.linalg.vecdot(rows, audio[:, None])
    return similarity


def forward(rows: Tensor, own_map: Tensor, settings: Settings) -> Tensor:
    """Return the source vectors of a block of images, given as rows [n, p, d].  [n, d]."""
    shares = foreground(own_map, settings.threshold, settings.mask)
    return (shares[:, None] @ rows).squeeze(1).div_(rows.shape[1])


def backward(
    grad: Tensor,
    rows: Tensor,
    audio: Tensor,
    own_map: Tensor,
    tau: Tensor,
    settings: Settings,
    grad_rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add to the gradient of the rows; return those of the audio vectors [n, d] and of -tau.

    A hard mask has no gradient, so the last two are then zero.
    """
    shares = foreground(own_map, settings.threshold, settings.mask)
    grad = grad / rows.shape[1]
    grad_rows.addcmul_(shares[:, :, None], grad[:, None])
    if settings.mask == "hard":
        return torch.zeros_like(audio), grad.new_zeros(())
    grad_map = _scaled_backward(torch.linalg.vecdot(rows, grad[:, None]), own_map).div_(tau)
    grad_rows.addcmul_(grad_map[:, :, None], audio[:, None])
    return (grad_map[:, None] @ rows).squeeze(1), (grad_map * own_map).sum()


def _scaled_backward(grad: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of a map from that of the same map scaled to [0, 1].  [n, p]."""
    low, lowest = logits.min(1, keepdim=True)
    high, highest = logits.max(1, keepdim=True)
    scale = 1 / (high - low + RANGE_EPS)
    share = (logits - low) * scale
    result = grad * scale
    result.scatter_add_(1, lowest, (grad * (share - 1)).sum(1, keepdim=True) * scale)
    return result.scatter_add_(1, highest, -(grad * share).sum(1, keepdim=True) * scale)
