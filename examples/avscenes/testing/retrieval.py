"""How often a sound finds its image and an image its sound, beside chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast import functional, metrics

RECALL_AT = (1, 5, 10)
# Similarities at every position, for all images at once, would be many times the features.
_PIECE = 256


class Features(NamedTuple):
    """What the encoders make of a test set, in fp32 on the CPU."""

    visual: Tensor  # [n, d, h, w]
    audio: Tensor  # [n, d]


def retrieval(features: Features, labels: Tensor) -> dict[str, float]:
    """Return recall by class, the own pair left out, and by pair, each with ceiling and chance.

    Where all samples are of one class, recall by class says nothing and is left out.
    """
    similarity = _similarity(features)
    pairs = {"image_to_sound": similarity, "sound_to_image": similarity.T}
    results = {}
    if len(torch.unique(labels)) > 1:
        sounds = F.normalize(features.audio, dim=1)
        regions = {"region_to_sound": localised_features(features) @ sounds.T}
        for name, scores in {**pairs, **regions}.items():
            recall = metrics.recall_at_k(scores, labels, RECALL_AT, exclude_self=True)
            results.update({f"class_{name}_r{k}": value.item() for k, value in recall.items()})
        others = labels.bincount()[labels] > 1
        results.update({f"ceiling_class_r{k}": others.double().mean().item() for k in RECALL_AT})
        results.update({f"chance_class_r{k}": class_chance(labels, k) for k in RECALL_AT})
    for name, scores in pairs.items():
        recall = metrics.recall_at_k(scores, k=RECALL_AT)
        results.update({f"pair_{name}_r{k}": value.item() for k, value in recall.items()})
    results.update({f"ceiling_pair_r{k}": 1.0 for k in RECALL_AT})
    results.update({f"chance_pair_r{k}": min(1.0, k / len(labels)) for k in RECALL_AT})
    return results


def _similarity(features: Features) -> Tensor:
    """Return the match of every image with every sound, [n, n]."""
    return torch.cat(
        [
            functional.max_similarity(piece, features.audio)
            for piece in torch.split(features.visual, _PIECE)
        ]
    )


def pair_ranks(features: Features) -> dict[str, Tensor]:
    """Return at which place, from 1, an image finds its own sound and a sound its own image."""
    similarity = _similarity(features)
    return {
        "image_to_sound_rank": metrics.retrieval_ranks(similarity).long(),
        "sound_to_image_rank": metrics.retrieval_ranks(similarity.T).long(),
    }


def localised_features(features: Features) -> Tensor:
    """Return the feature of each image where its own map is highest, at unit length, [n, d]."""
    peaks = functional.localization_map(features.visual, features.audio).flatten(1).argmax(dim=1)
    vectors = features.visual.flatten(2)  # [n, d, positions]
    at_peak = vectors.gather(2, peaks[:, None, None].expand(-1, vectors.shape[1], 1))
    return F.normalize(at_peak.squeeze(2), dim=1)


def class_chance(labels: Tensor, k: int) -> float:
    """Return the recall at `k` by class of a random ranking of all other samples."""
    others = len(labels) - 1
    total = 0.0
    for same in (labels.bincount()[labels] - 1).tolist():
        drawn = min(k, others)
        misses = math.comb(others - same, drawn) / math.comb(others, drawn)
        total += 1 - misses
    return total / len(labels)
