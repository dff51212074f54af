"""What losses do beside their maths: agree with other processes before, and reduce after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast.distributed import Peers, check_agreement, replicated, shared_sum


def reduced(
    values: dict[str, Tensor], peers: Peers, reduction: str, gradient_reduction: str
) -> dict[str, Tensor]:
    """Reduce each term over the samples, of all processes in one exchange."""
    if reduction == "none":
        return values
    if peers.size == 1:
        return {
            term: value.mean() if reduction == "mean" else value.sum()
            for term, value in values.items()
        }
    sums = torch.stack([value.sum() for value in values.values()])
    sums = shared_sum(sums, peers, gradient_reduction)
    if reduction == "mean":
        sums = sums / (peers.size * next(iter(values.values())).shape[0])
    return dict(zip(values, sums.unbind(), strict=True))


def agreed(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor,
    peers: Peers,
    settings: dict[str, Any],
) -> tuple[Tensor, float | Tensor]:
    """Return audio and temperature, once all processes are known to bring the same kind."""
    if peers.size == 1:
        return audio, temperature
    if not isinstance(temperature, Tensor):
        told = {"temperature": temperature, **settings}
        return check_agreement(visual, audio, peers, told), temperature
    told = {"temperature": "a tensor", **settings}
    audio = check_agreement(visual, audio, peers, told, temperature)
    return audio, replicated(temperature, peers)
