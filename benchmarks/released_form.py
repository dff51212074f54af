"""The baseline: the FNAC loss as the released code computes it, in plain PyTorch.

Unlike the library's ``dense`` it computes in whatever precision autocast and the setting for fp32
products ask for, as the loss of a training script does. Features of any length are normalised
first, which in the released code is the end of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss, normalize

TEMPERATURE = 0.03
SCALE = 1 / TEMPERATURE
THRESHOLD = 0.6
RANGE_EPS = 1e-5
WEIGHT = 100.0
"""Of each of the three adjacency terms."""


def nce(visual: Tensor, audio: Tensor) -> Tensor:
    """Return the contrastive term of a batch: both directions, summed."""
    logits = _maps(normalize(visual, dim=1), normalize(audio, dim=1)).flatten(2).max(-1).values
    return _contrastive(logits)


def vectors(visual: Tensor, audio: Tensor) -> Tensor:
    """Return the contrastive term of vectors as CLIP's code has it: a matrix a direction, (b, b).

    That takes the mean of the directions; here they are summed.
    """
    visual, audio = normalize(visual, dim=1), normalize(audio, dim=1)
    positives = torch.arange(len(visual), device=visual.device)
    to_audio, to_visual = SCALE * visual @ audio.T, SCALE * audio @ visual.T
    return cross_entropy(to_audio, positives) + cross_entropy(to_visual, positives)


def fnac(visual: Tensor, audio: Tensor) -> Tensor:
    """Return the whole loss of a batch: the contrastive term and the three adjacency terms."""
    visual, audio = normalize(visual, dim=1), normalize(audio, dim=1)
    maps = _maps(visual, audio)
    logits = maps.flatten(2).max(-1).values
    match = logits.softmax(1)
    of_audio = _adjacency(audio)
    of_visual = _adjacency(visual.mean((2, 3)))
    own = torch.arange(len(maps), device=maps.device)
    of_sources = _adjacency((visual * _foreground(maps[own, own])[:, None]).mean((2, 3)))
    distances = l1_loss(of_audio, match) + l1_loss(of_visual, match) + l1_loss(of_audio, of_sources)
    return _contrastive(logits) + WEIGHT * distances


def _maps(visual: Tensor, audio: Tensor) -> Tensor:
    """Return the similarity of all pairs at all positions.  [images, audios, h, w]."""
    return torch.einsum("idhw,jd->ijhw", visual, audio) / TEMPERATURE


def _contrastive(logits: Tensor) -> Tensor:
    positives = torch.arange(len(logits), device=logits.device)
    return cross_entropy(logits, positives) + cross_entropy(logits.T, positives)


def _adjacency(features: Tensor) -> Tensor:
    return (torch.einsum("id,jd->ij", features, features) / TEMPERATURE).softmax(1)


def _foreground(own_maps: Tensor) -> Tensor:
    """Return where each image answers most to its own sound.  [b, h, w] bool."""
    low, high = own_maps.amin((1, 2), keepdim=True), own_maps.amax((1, 2), keepdim=True)
    return (own_maps - low) / (high - low + RANGE_EPS) > THRESHOLD
