"""Tests a model: localisation beside its baseline and ceiling, retrieval beside chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast import functional, metrics
from avscenes.datasets import LabelledSet, plain_loader
from avscenes.module import LocalisationModule
from avscenes.processes import rows_of_all_on_first

THRESHOLDS: dict[str, float] = {"half": 0.5, "quarter": 0.75}
RECALL_AT = (1, 5, 10)
PREDICTORS = ("model", "centre_disc", "ceiling")
# A full VGG-SS test set at 224 x 224 would be a gigabyte of maps; work through it in pieces.
_PIECE = 256


class Features(NamedTuple):
    """What the encoders make of a test set, in fp32 on the CPU."""

    visual: Tensor  # [n, d, h, w]
    audio: Tensor  # [n, d]


class Evaluation(NamedTuple):
    """Results on a test set, and what the pictures need."""

    metrics: dict[str, float]
    features: Features
    ciou: Tensor  # at the top-quarter threshold, [n]


@torch.no_grad()
def encode(
    module: LocalisationModule,
    test: LabelledSet,
    batch_size: int,
    workers: int,
    *,
    rank: int = 0,
    world: int = 1,
) -> Features | None:
    """Run both encoders over a test set, of which each process takes a part.

    Returns:
        The features of every sample, once and in order, on process 0; None on the others.
    """
    was_training = module.training
    module.eval()
    visual, audio = [], []
    for images, spectrograms in plain_loader(
        test.pairs, part_of_test(len(test.labels), rank, world), batch_size, workers=workers
    ):
        place = module.device, module.dtype
        visual.append(module.visual(images.to(*place)).float().cpu())
        audio.append(module.audio(spectrograms.to(*place)).float().cpu())
    module.train(was_training)
    gathered = [rows_of_all_on_first(torch.cat(rows), rank, world) for rows in (visual, audio)]
    if gathered[0] is None or gathered[1] is None:
        return None
    # What comes after the last sample only made the parts equal.
    return Features(gathered[0][: len(test.labels)], gathered[1][: len(test.labels)])


def part_of_test(count: int, rank: int, world: int) -> list[int]:
    """Return the samples that a process encodes: neighbours, and equally many in every process.

    Where `count` does not divide, the last processes repeat the last sample.
    """
    size = -(-count // world)
    return [min(row, count - 1) for row in range(rank * size, (rank + 1) * size)]


def evaluate(features: Features, test: LabelledSet) -> Evaluation:
    """Return every figure of the final report under a flat name."""
    localisation, ciou = _localisation(features, test)
    return Evaluation({**localisation, **_retrieval(features, test.labels)}, features, ciou)


def _localisation(features: Features, test: LabelledSet) -> tuple[dict[str, float], Tensor]:
    """Score the model, the centre disc and the best possible map at both thresholds."""
    maps = functional.localization_map(features.visual, features.audio)
    size = (test.image_size, test.image_size)
    disc = metrics.centre_disc(size)
    scores: dict[tuple[str, str], list[Tensor]] = {}
    pointing: dict[str, list[Tensor]] = {name: [] for name in PREDICTORS}
    for rows in torch.split(torch.arange(len(maps)), _PIECE):
        truth = test.ground_truth(rows.tolist())
        predicted = {
            "model": metrics.upsample(maps[rows], size),
            "centre_disc": disc.expand(len(rows), *size),
        }
        for threshold, quantile in THRESHOLDS.items():
            for name, heat in predicted.items():
                values = metrics.consensus_iou(heat, truth, quantile)
                scores.setdefault((name, threshold), []).append(values)
            values = metrics.ciou_ceiling(truth, quantile)
            scores.setdefault(("ceiling", threshold), []).append(values)
        weight = len(rows) / len(maps)
        for name, heat in {**predicted, "ceiling": truth}.items():
            pointing[name].append(metrics.pointing_accuracy(heat, truth) * weight)

    results = {}
    for name in PREDICTORS:
        for threshold in THRESHOLDS:
            ciou = torch.cat(scores[name, threshold])
            results[f"{name}_success_{threshold}"] = metrics.success_rate(ciou).item()
            results[f"{name}_auc_{threshold}"] = metrics.success_auc(ciou).item()
            results[f"{name}_mean_ciou_{threshold}"] = ciou.mean().item()
        results[f"{name}_pointing"] = sum(value.item() for value in pointing[name])
    return results, torch.cat(scores["model", "quarter"])


def _retrieval(features: Features, labels: Tensor) -> dict[str, float]:
    """Return recall by class, the own pair left out, and by pair, each with its chance."""
    similarity = torch.cat(
        [
            functional.max_similarity(piece, features.audio)
            for piece in torch.split(features.visual, _PIECE)
        ]
    )
    by_class = {
        "image_to_sound": similarity,
        "sound_to_image": similarity.T,
        "region_to_sound": localised_features(features) @ F.normalize(features.audio, dim=1).T,
    }
    results = {}
    for name, scores in by_class.items():
        recall = metrics.recall_at_k(scores, labels, RECALL_AT, exclude_self=True)
        results.update({f"class_{name}_r{k}": value.item() for k, value in recall.items()})
    for name in ("image_to_sound", "sound_to_image"):
        recall = metrics.recall_at_k(by_class[name], k=RECALL_AT)
        results.update({f"pair_{name}_r{k}": value.item() for k, value in recall.items()})
    for k in RECALL_AT:
        results[f"chance_class_r{k}"] = class_chance(labels, k)
        results[f"chance_pair_r{k}"] = min(1.0, k / len(labels))
    return results


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


def report(results: dict[str, float]) -> str:
    """Return the two tables that end a run."""
    rows = [("localisation", "model", "centre disc", "ceiling")]
    for label, key in (
        ("success@0.5, half of the image", "success_half"),
        ("success@0.5, top quarter", "success_quarter"),
        ("AUC, half of the image", "auc_half"),
        ("AUC, top quarter", "auc_quarter"),
        ("pointing", "pointing"),
    ):
        model, disc, ceiling = (f"{results[f'{name}_{key}']:.3f}" for name in PREDICTORS)
        rows.append((label, model, disc, ceiling))
    lines = [f"{label:<34}{a:>9}{b:>13}{c:>9}" for label, a, b, c in rows]
    header = "".join(f"{f'R@{k}':>9}" for k in RECALL_AT)
    chance = "".join(f"{f'R@{k}':>7}" for k in RECALL_AT)
    lines += ["", f"{'retrieval':<34}{header}   chance{chance}"]
    for label, key, kind in (
        ("same class, image to sound", "class_image_to_sound", "class"),
        ("same class, sound to image", "class_sound_to_image", "class"),
        ("same class, region to sound", "class_region_to_sound", "class"),
        ("own pair, image to sound", "pair_image_to_sound", "pair"),
        ("own pair, sound to image", "pair_sound_to_image", "pair"),
    ):
        found = "".join(f"{results[f'{key}_r{k}']:>9.3f}" for k in RECALL_AT)
        chance = "".join(f"{results[f'chance_{kind}_r{k}']:>7.3f}" for k in RECALL_AT)
        lines.append(f"{label:<34}{found}{'':>9}{chance}")
    return "\n".join(lines)
