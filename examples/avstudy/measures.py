"""What is measured of a trained pair of encoders on scenes whose labels and boxes are known."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from avcontrast import functional, metrics
from avscenes.media.augmentation import scale_images
from avscenes.scenes.scene import SceneSet
from avscenes.testing.retrieval import Features, localised_features
from avstudy.plan import Method, Run
from avstudy.training import Encoders, batches, loss_of

_PIECE = 128
_BATCHES = 32  # of each kind, whose similarities are compared
_ELIMINATION_BATCHES = 4
MATRIX_SIZE = 16


@torch.no_grad()
def encode(encoders: Encoders, scenes: SceneSet) -> Features:
    """Return the features of all scenes."""
    encoders.visual.eval()
    encoders.audio.eval()
    pieces = torch.split(torch.arange(len(scenes.labels)), _PIECE)
    visual = [encoders.visual(scale_images(scenes.images[rows])) for rows in pieces]
    audio = [encoders.audio(scenes.spectrograms[rows]) for rows in pieces]
    return Features(torch.cat(visual), torch.cat(audio))


def shown(scenes: SceneSet) -> Tensor:
    """Return which images show an object of the class of which sound, [images, sounds].

    Nothing in an image says which of its two objects sounds, so both count.
    """
    labels = scenes.labels
    return (labels[:, None] == labels) | (scenes.silent_labels[:, None] == labels)


def r_precision(similarity: Tensor, correct: Tensor) -> float:
    """Return the mean share of correct items among the first R of each query that has R of them.

    The own pair, on the diagonal, is left out of both.
    """
    own = torch.eye(len(correct), dtype=torch.bool)
    correct = correct & ~own
    relevant = correct.sum(dim=1)
    order = similarity.masked_fill(own, -torch.inf).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(len(correct)) < relevant[:, None]
    found = (correct.gather(1, order) & first).sum(dim=1).double()
    return (found / relevant)[relevant > 0].mean().item()


def localisation(features: Features, scenes: SceneSet) -> dict[str, float]:
    """Return the measures of the heat maps, resized to the images."""
    size = scenes.images.shape[-1]
    maps = functional.localization_map(features.visual, features.audio)
    maps = metrics.upsample(maps, (size, size))
    truth = torch.stack([metrics.ground_truth_map(box[None], size) for box in scenes.boxes])
    quarter = metrics.consensus_iou(maps, truth, 0.75)
    return {
        "success_quarter": metrics.success_rate(quarter).item(),
        "mean_ciou_quarter": quarter.mean().item(),
        "success_half": metrics.success_rate(metrics.consensus_iou(maps, truth, "half")).item(),
        "pointing": metrics.pointing_accuracy(maps, truth).item(),
    }


def retrieval(features: Features, scenes: SceneSet) -> dict[str, float]:
    """Return how well images and sounds of a class, and of a pair, find each other."""
    labels, right = scenes.labels, shown(scenes)
    similarity = functional.max_similarity(features.visual, features.audio)
    by_image, by_sound = r_precision(similarity, right), r_precision(similarity.T, right.T)
    regions = localised_features(features) @ F.normalize(features.audio, dim=1).T
    strict = [
        metrics.recall_at_k(scores, labels, (1,), exclude_self=True)[1].item()
        for scores in (similarity, similarity.T)
    ]
    pairs = [metrics.recall_at_k(scores, k=(1,))[1].item() for scores in (similarity, similarity.T)]
    return {
        "retrieval": (by_image + by_sound) / 2,
        "image_to_sound_precision": by_image,
        "sound_to_image_precision": by_sound,
        "region_precision": r_precision(regions, labels[:, None] == labels),
        "class_r1": sum(strict) / 2,
        "pair_r1": sum(pairs) / 2,
    }


def similarities(features: Features, labels: Tensor) -> dict[str, float]:
    """Return the mean match in batches of different classes and of one class (Table 6)."""
    sizes = torch.unique(labels, return_counts=True)[1]
    size = min(len(sizes), int(sizes.min()))
    results = {}
    for kind in ("different", "same"):
        batches = metrics.class_batches(labels, size, kind, count=_BATCHES)
        matrices = torch.stack(
            [functional.max_similarity(features.visual[r], features.audio[r]) for r in batches]
        )
        for scale in ("minmax", "cosine"):
            mean = metrics.batch_similarity(matrices, scale, exclude_self=True).mean().item()
            results[f"{kind}_{scale}"] = mean
    return results


def purities(features: Features, labels: Tensor) -> dict[str, float]:
    """Return how much of each adjacency, and of the nearest neighbours, is of the same class.

    The temperature of the adjacencies is the published one, whatever the training had.
    """
    means = F.normalize(features.visual, dim=1).mean(dim=(2, 3))
    adjacencies = {
        "audio": functional.adjacency(features.audio),
        "visual": functional.adjacency(means, normalize=False),
    }
    results = {
        f"{name}_adjacency_purity": metrics.adjacency_purity(weights, labels, True).item()
        for name, weights in adjacencies.items()
    }
    for name, vectors in {"audio": features.audio, "visual": means}.items():
        nearest = metrics.neighbour_purity(vectors, labels, (1,))[1]
        results[f"{name}_neighbour_purity"] = nearest.item()
    return results


def main_measures(features: Features, scenes: SceneSet) -> dict[str, float]:
    """Return what the learning curves show."""
    return {
        "retrieval": retrieval(features, scenes)["retrieval"],
        "success_quarter": localisation(features, scenes)["success_quarter"],
    }


def all_measures(features: Features, scenes: SceneSet) -> dict[str, float]:
    """Return everything that is measured, by flat names."""
    return {
        **retrieval(features, scenes),
        **localisation(features, scenes),
        **similarities(features, scenes.labels),
        **purities(features, scenes.labels),
    }


def elimination(run: Run, encoders: Encoders, scenes: SceneSet) -> dict[str, float | None]:
    """Return how much a method's elimination leaves out of the pairs, and which share rightly.

    On training scenes as they are, in batches that no epoch has. During the warm-up it is what
    would be left out. A share of nothing is None; methods without elimination have no entries.
    """
    setting, method = run.data, run.loss
    if method.elimination == "none":
        return {}
    found = []
    for rows in batches(scenes.labels, setting, run.seed, setting.epochs)[:_ELIMINATION_BATCHES]:
        some = SceneSet(*(part[rows] for part in scenes))
        out = functional.likely_false_negatives(
            *encode(encoders, some), method.elimination_level, method.elimination
        )
        same = some.labels[:, None] == some.labels
        qualities = [metrics.elimination_quality(out, right) for right in (same, shown(some))]
        found.append([qualities[0].left_out, *(quality.precision for quality in qualities)])
    left_out, *precisions = torch.tensor(found).unbind(dim=1)
    results: dict[str, float | None] = {"left_out": left_out.mean().item()}
    for name, precision in zip(("same_class", "shown"), precisions, strict=True):
        right = (left_out * precision.nan_to_num()).sum() / left_out.sum()
        results[f"left_out_{name}"] = None if right.isnan() else right.item()
    return results


def one_class_matrix(features: Features, scenes: SceneSet) -> list[list[float]]:
    """Return how images (rows) and sounds of the first scenes of one class match (Figure 7)."""
    rows = (scenes.labels == 0).nonzero()[:MATRIX_SIZE, 0]
    matrix = functional.max_similarity(features.visual[rows], features.audio[rows])
    return [[round(value, 4) for value in row] for row in matrix.tolist()]


def loss_megabytes(method: Method, features: Features, batch_size: int) -> float:
    """Return the most that a loss allocates in the forward and backward pass of one batch."""
    rows = torch.arange(batch_size) % len(features.audio)
    visual, audio = (part[rows].requires_grad_() for part in features)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each trace prints lines of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        torch.autograd.backward(loss_of(method, visual, audio))
    assert trace.profiler is not None
    held = highest = 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return round(highest / 1e6, 2)
