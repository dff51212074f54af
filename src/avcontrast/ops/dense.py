"""The definition: every term as its equation says, with the whole similarity tensor in memory."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from avcontrast.ops._settings import NORM_EPS, RANGE_EPS, Settings, compute_dtype


def unit(features: Tensor, dim: int) -> Tensor:
    """Scale to unit length along ``dim``; a vector that counts as zero becomes zero."""
    norm = torch.linalg.vector_norm(features, dim=dim, keepdim=True)
    return features / torch.where(norm > NORM_EPS, norm, torch.inf)


def max_similarity(visual: Tensor, audio: Tensor, *, normalize: bool) -> Tensor:
    """Return the highest similarity over the positions for every pair.  [n, m]."""
    with torch.autocast(visual.device.type, enabled=False):
        visual, audio = _prepare(visual, audio, normalize)
        return einsum(visual, audio, "n d p, m d -> n m p").max(-1).values


def contrast(
    visual: Tensor, audio: Tensor, temperature: Tensor, settings: Settings
) -> list[Tensor]:
    """Return the terms that ``settings`` names, one value a sample; adjacency rows are summed."""
    with torch.autocast(visual.device.type, enabled=False):
        visual, audio = _prepare(visual, audio, settings.normalize)
        tau = temperature.to(visual.dtype)
        terms = settings.terms
        values = {}

        if settings.needs_logits:
            similarity = einsum(visual, audio, "n d p, m d -> n m p")
            best = similarity.max(-1).values if settings.pooling == "max" else similarity.mean(-1)
            logits = best / tau
        if "visual_to_audio" in terms:
            values["visual_to_audio"] = -logits.log_softmax(1).diagonal()
        if "audio_to_visual" in terms:
            values["audio_to_visual"] = -logits.log_softmax(0).diagonal()

        if settings.suppresses:
            match = (logits if settings.anchor == "visual" else logits.T).softmax(1)
        if "fns_audio" in terms or "tne" in terms:
            of_audio = _adjacency(audio, tau, detach=settings.detach_adjacency)
        if "fns_audio" in terms:
            values["fns_audio"] = (of_audio - match).abs().sum(1)
        if "fns_visual" in terms:
            pooled = reduce(visual, "b d p -> b d", "mean")
            of_visual = _adjacency(pooled, tau, detach=settings.detach_adjacency)
            values["fns_visual"] = (of_visual - match).abs().sum(1)
        if "tne" in terms:
            values["tne"] = (
                (of_audio - _adjacency(_sources(visual, audio, tau, settings), tau)).abs().sum(1)
            )

        return [values[term] for term in terms]


def _prepare(visual: Tensor, audio: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    visual = rearrange(visual, "b d h w -> b d (h w)")
    dtype = compute_dtype(visual, audio)
    visual, audio = visual.to(dtype), audio.to(dtype)
    if normalize:
        return unit(visual, 1), unit(audio, 1)
    return visual, audio


def _adjacency(features: Tensor, tau: Tensor, *, detach: bool = False) -> Tensor:
    matrix = (einsum(features, features, "i d, j d -> i j") / tau).softmax(1)
    return matrix.detach() if detach else matrix


def _sources(visual: Tensor, audio: Tensor, tau: Tensor, settings: Settings) -> Tensor:
    if visual.shape[2] == 1:
        # Nothing stands out from a single position. The general form is zero here as well, but
        # Inductor of torch 2.13 gets its gradient wrong.
        return torch.zeros_like(audio)
    own_map = einsum(visual, audio, "b d p, b d -> b p") / tau
    mask = foreground(own_map, settings.threshold, settings.mask)
    return reduce(visual * mask[:, None], "b d p -> b d", "mean")


def foreground(own_map: Tensor, threshold: float, mask: str) -> Tensor:
    """Return which positions, or how much of each, belong to the sounding source.  [b, p]."""
    low, high = own_map.min(1, keepdim=True).values, own_map.max(1, keepdim=True).values
    scaled = (own_map - low) / (high - low + RANGE_EPS)
    return scaled if mask == "soft" else (scaled > threshold).to(own_map.dtype)
