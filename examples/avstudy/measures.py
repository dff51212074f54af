"""What is measured of a trained pair of encoders on scenes whose labels and boxes are known."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from avcontrast import functional, metrics
from avscenes.media.augmentation import scale_images
from avscenes.scenes.scene import SceneSet
from avscenes.testing.retrieval import Features, localised_features
from avstudy import opponents
from avstudy.plan import Method, Run
from avstudy.training import Encoders, batches, loss_of, projected_alignment

_PIECE = 128
_BATCHES = 32  # of each kind, whose similarities are compared
_ELIMINATION_BATCHES = 4
MATRIX_SIZE = 16
MAPS = 8  # test scenes whose heat maps are kept
PAIRED_IMAGES, PAIRED_SOUNDS = 5, 5  # of examples of what is left out


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


def _batches(
    run: Run, encoders: Encoders, scenes: SceneSet
) -> Iterator[tuple[Tensor, SceneSet, Features]]:
    """Yield rows of training scenes, the scenes as they are and their features.

    The batches are none that an epoch has.
    """
    setting = run.data
    for rows in batches(scenes.labels, setting, run.seed, setting.epochs)[:_ELIMINATION_BATCHES]:
        some = SceneSet(*(part[rows] for part in scenes))
        yield rows, some, encode(encoders, some)


def _left_out(method: Method, features: Features) -> Tensor:
    return functional.likely_false_negatives(
        *features, method.elimination_level, method.elimination
    )


def elimination(run: Run, encoders: Encoders, scenes: SceneSet) -> dict[str, float | None]:
    """Return how much a method's elimination leaves out of the pairs, and which share rightly.

    On batches of training scenes. During the warm-up it is what would be left out. A share of
    nothing is None; methods without elimination have no entries.
    """
    if run.loss.elimination == "none":
        return {}
    found = []
    for _, some, features in _batches(run, encoders, scenes):
        out = _left_out(run.loss, features)
        same = some.labels[:, None] == some.labels
        qualities = [metrics.elimination_quality(out, right) for right in (same, shown(some))]
        found.append([qualities[0].left_out, *(quality.precision for quality in qualities)])
    left_out, *precisions = torch.tensor(found).unbind(dim=1)
    results: dict[str, float | None] = {"left_out": left_out.mean().item()}
    for name, precision in zip(("same_class", "shown"), precisions, strict=True):
        right = (left_out * precision.nan_to_num()).sum() / left_out.sum()
        results[f"left_out_{name}"] = None if right.isnan() else right.item()
    return results


def floored(run: Run, encoders: Encoders, scenes: SceneSet) -> dict[str, float]:
    """Return for which share of rows and columns the debiased contrast has no negatives left."""
    if run.loss.contrast != "debiased":
        return {}
    shares = []
    for _, _, features in _batches(run, encoders, scenes):
        match = functional.max_similarity(*features)
        for one in (match, match.T):
            left, least = opponents.negatives_left(one, run.loss.temperature, run.loss.class_prior)
            shares.append((left <= least).double().mean())
    return {"floored": torch.stack(shares).mean().item()}


def examples_left_out(run: Run, encoders: Encoders, scenes: SceneSet) -> list[dict[str, int]]:
    """Return images of a batch and the best matching sounds that elimination leaves out for each.

    Numbers of training scenes, and whether the sound is of the image's class, or of one it shows.
    """
    if run.loss.elimination == "none":
        return []
    rows, some, features = next(_batches(run, encoders, scenes))
    out = _left_out(run.loss, features)
    match = functional.max_similarity(*features).masked_fill(~out, -torch.inf)
    right = shown(some)
    return [
        {
            "image": int(rows[image]),
            "sound": int(rows[sound]),
            "same_class": int(some.labels[image] == some.labels[sound]),
            "shown": int(right[image, sound]),
        }
        for image in range(min(PAIRED_IMAGES, len(rows)))
        for sound in match[image].argsort(descending=True, stable=True)[:PAIRED_SOUNDS].tolist()
        if out[image, sound]
    ]


def heat_maps(features: Features) -> list[list[float]]:
    """Return the heat maps of the first test scenes, row after row."""
    maps = functional.localization_map(features.visual[:MAPS], features.audio[:MAPS])
    return [[round(value, 4) for value in one] for one in maps.flatten(1).tolist()]


def one_class_matrix(features: Features, scenes: SceneSet) -> list[list[float]]:
    """Return how images (rows) and sounds of the first scenes of one class match (Figure 7)."""
    rows = (scenes.labels == 0).nonzero()[:MATRIX_SIZE, 0]
    matrix = functional.max_similarity(features.visual[rows], features.audio[rows])
    return [[round(value, 4) for value in row] for row in matrix.tolist()]


def loss_megabytes(method: Method, features: Features, batch_size: int) -> float:
    """Return the most that a loss allocates in the forward and backward pass of one batch."""
    rows = torch.arange(batch_size) % len(features.audio)
    visual, audio = (part[rows].requires_grad_() for part in features)
    projected = None
    if method.contrast == "alignment":
        projected = projected_alignment(method, audio.shape[1], seed=0)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each trace prints lines of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        if projected is None:
            loss = loss_of(method, visual, audio)
        else:
            loss = projected([visual, visual], [audio, audio]).loss  # as many views as in training
        torch.autograd.backward(loss)
    assert trace.profiler is not None
    held = highest = 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return round(highest / 1e6, 2)
