"""The loss of LVS: an image against other sounds, and its own source against its background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from avcontrast import _checks as checks
from avcontrast import ops
from avcontrast._reduction import agreed, reduced
from avcontrast.distributed import Peers, find_peers, gather, total
from avcontrast.ops import _soft_mask
from avcontrast.ops._settings import compute_dtype, without_autocast
from avcontrast.ops.dense import mean_vectors, unit

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TEMPERATURES = {"code": 0.07, "paper": 1.0}
"""What each form divides by, unless a temperature is given."""


def tri_map(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor | None = None,
    *,
    form: str = "code",
    mask_threshold: float = 0.65,
    background_threshold: float = 0.4,
    mask_temperature: float = 0.03,
    tri_map: bool = True,
    background: bool = True,
    anchor: str = "visual",
    normalize: bool = True,
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Contrast sources with other sounds and background. See :class:`avcontrast.TriMapLoss`."""
    checks.check_features(visual, audio, map_for="the tri-map loss", frames=False)
    checks.check_form(form, anchor)
    if temperature is None:
        temperature = TEMPERATURES[form]
    checks.check_temperature(temperature)
    settings = {
        "mask_threshold": mask_threshold,
        "background_threshold": background_threshold,
        "mask_temperature": mask_temperature,
        "tri_map": tri_map,
        "background": background,
        "normalize": normalize,
        "reduction": reduction,
        "gather_distributed": gather_distributed,
        "gradient_reduction": gradient_reduction,
        "backend": backend,
    }
    checks.check_settings({**settings, "group": group})
    peers = find_peers(gather_distributed, group)
    told = {"form": form, "anchor": anchor, **settings}
    audio, temperature = agreed(visual, audio, temperature, peers, told)
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        visual, audio = visual.to(dtype), audio.to(dtype)
        if normalize:
            visual, audio = unit(visual, 1), unit(audio, 1)
        own = torch.matmul(audio[:, None], visual.flatten(2)).squeeze(1)
        outside = None
        if background:
            # A negative temperature weighs what lies below the threshold.
            threshold = background_threshold if tri_map else mask_threshold
            outside = _soft_mask.pool(own, threshold, -mask_temperature)
        foreground = (mask_threshold, mask_temperature)
        if form == "code":
            rows = _code_form(visual, audio, temperature, foreground, outside, peers, backend)
        else:
            positive = _soft_mask.pool(own, *foreground)
            negatives = _means_of_others(visual, audio, anchor, peers)
            if outside is not None:
                negatives = negatives + outside
            difference = (negatives - positive) / temperature
            rows = torch.logaddexp(difference, torch.zeros_like(difference))
    return reduced({"loss": rows}, peers, reduction, gradient_reduction)["loss"]


def _code_form(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor,
    foreground: tuple[float, float],
    outside: Tensor | None,
    peers: Peers,
    backend: str,
) -> Tensor:
    """Return the cross entropy of the own response among all and the own background.  [n]."""
    everyone = gather(audio, peers)
    responses = ops.soft_similarity(visual, everyone, foreground, normalize=False, backend=backend)
    if outside is not None:
        responses = torch.cat((responses, outside[:, None]), 1)
    first = peers.own(audio.shape[0]).start
    target = torch.arange(first, first + audio.shape[0], device=audio.device)
    return cross_entropy(responses / temperature, target, reduction="none")


def _means_of_others(visual: Tensor, audio: Tensor, anchor: str, peers: Peers) -> Tensor:
    """Return the summed mean similarities of a sample with all others: products of sums.  [n]."""
    images = mean_vectors(visual, normalize=False)
    if anchor == "visual":
        return (images * (total(audio.sum(0), peers) - audio)).sum(1)
    return (audio * (total(images.sum(0), peers) - images)).sum(1)
