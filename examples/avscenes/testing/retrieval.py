"""How often a sound finds its image and an image its sound, beside chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast import functional, metrics
from avscenes.models.vectors import pooled

RECALL_AT = (1, 5, 10)
# Similarities at every position, for all images at once, would be many times the features.
_PIECE = 256


class Features(NamedTuple):
    """What the encoders make of a test set, in fp32 on the CPU."""

    visual: Tensor  # [n, d, h, w]
    audio: Tensor  # [n, d]


class Vectors(NamedTuple):
    """One vector an image and a sound, as the projections of a model make them."""

    images: Tensor  # [n, d]
    sounds: Tensor  # [n, d]


def retrieval(
    features: Features, labels: Tensor, projected: Vectors | None = None
) -> dict[str, float]:
    """Return recall by class, the own pair left out, and by pair, each with ceiling and chance.

    So it is of the best match of a position. Of one vector an image, pooled or projected, it is by
    pair, and by class as Cross-Modal Alignment counts it: the own pair is in the gallery and right.
    Where all samples are of one class, recall by class says nothing and is left out.
    """
    pairs = _both_ways(_similarity(features))
    several = len(torch.unique(labels)) > 1
    results = {}
    if several:
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
    vectors = {"pooled": Vectors(pooled(features.visual), features.audio)}
    if projected is not None:
        vectors["projected"] = projected
    for kind, (images, sounds) in vectors.items():
        matches = F.normalize(images, dim=1) @ F.normalize(sounds, dim=1).T
        for name, scores in _both_ways(matches).items():
            recall = metrics.recall_at_k(scores, k=RECALL_AT)
            results.update({f"pair_{name}_{kind}_r{k}": v.item() for k, v in recall.items()})
            if several:
                recall = metrics.recall_at_k(scores, labels, RECALL_AT)
                results.update({f"hit_{name}_{kind}_r{k}": v.item() for k, v in recall.items()})
    if several:
        results.update(
            {f"chance_hit_r{k}": class_chance(labels, k, own_pair=True) for k in RECALL_AT}
        )
    return results


def _both_ways(similarity: Tensor) -> dict[str, Tensor]:
    return {"image_to_sound": similarity, "sound_to_image": similarity.T}


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
    ways = _both_ways(_similarity(features))
    return {f"{way}_rank": metrics.retrieval_ranks(match).long() for way, match in ways.items()}


def localised_features(features: Features) -> Tensor:
    """Return the feature of each image where its own map is highest, at unit length, [n, d]."""
    peaks = functional.localization_map(features.visual, features.audio).flatten(1).argmax(dim=1)
    vectors = features.visual.flatten(2)  # [n, d, positions]
    at_peak = vectors.gather(2, peaks[:, None, None].expand(-1, vectors.shape[1], 1))
    return F.normalize(at_peak.squeeze(2), dim=1)


def class_chance(labels: Tensor, k: int, *, own_pair: bool = False) -> float:
    """Return the recall at `k` by class of a random ranking of all other samples.

    With `own_pair` it is of all samples; what belongs to the query is right too.
    """
    left_out = 0 if own_pair else 1
    gallery = len(labels) - left_out
    total = 0.0
    for same in (labels.bincount()[labels] - left_out).tolist():
        drawn = min(k, gallery)
        misses = math.comb(gallery - same, drawn) / math.comb(gallery, drawn)
        total += 1 - misses
    return total / len(labels)
