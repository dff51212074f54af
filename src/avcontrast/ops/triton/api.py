"""What the front door calls."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import ALONE, Peers
from avcontrast.ops._settings import Settings, packed
from avcontrast.ops.triton.loss import contrast as _contrast
from avcontrast.ops.triton.operands import precision_of
from avcontrast.ops.triton.similarity import max_similarity as _max_similarity


def max_similarity(visual: Tensor, audio: Tensor, *, normalize: bool) -> Tensor:
    """Return the highest similarity over the positions for every pair.  [n, m]."""
    with_index = torch.is_grad_enabled() and (visual.requires_grad or audio.requires_grad)
    precision = precision_of(visual, audio)
    best: Tensor = _max_similarity(visual, audio, normalize, precision, with_index)[0]
    return best


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    settings: Settings,
    peers: Peers = ALONE,
    *,
    ignore: Tensor | None = None,
    store: bool = True,
) -> list[Tensor]:
    """Return the terms that ``settings`` names, one value a sample; adjacency rows are summed."""
    with_backward = torch.is_grad_enabled() and (visual.requires_grad or audio.requires_grad)
    options = (*packed(settings, peers), precision_of(visual, audio), store, with_backward)
    values, *_ = _contrast(visual, audio, temperature, ignore, *options)
    return list(values.unbind())
