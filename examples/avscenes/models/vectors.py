"""One vector an image: its features pooled, or what learned projections make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


def pooled(maps: Tensor) -> Tensor:
    """Return the mean over the positions of features at unit length, [b, d, h, w] to [b, d]."""
    return F.normalize(maps, dim=1).mean(dim=(2, 3))


class Projections(NamedTuple):
    """The layers that Cross-Modal Alignment learns behind the encoders."""

    visual: nn.Linear
    audio: nn.Linear

    def of(self, maps: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Project features of images [b, d, h, w] and of sounds [b, d], as in training."""
        return self.visual(pooled(maps)), self.audio(F.normalize(vectors, dim=1))


def projections_of(state: Mapping[str, Any], device: Any) -> Projections | None:  # noqa: ANN401
    """Return the projections in the state dict of a run, or None where it has none."""
    names = "criterion.visual", "criterion.audio"
    if not all(f"{name}.{part}" in state for name in names for part in ("weight", "bias")):
        return None
    layers = []
    for name in names:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer.to(device).eval())
    return Projections(*layers)
