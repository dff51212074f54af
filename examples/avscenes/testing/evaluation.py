"""Tests a model: localisation beside its baseline and ceiling, retrieval beside chance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast import functional, metrics
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.loaders import plain_loader
from avscenes.testing.retrieval import RECALL_AT, Features, retrieval
from avscenes.testing.scoring import figures, joined, score
from avscenes.training.module import LocalisationModule
from avscenes.training.processes import rows_of_all_on_first

RULES = metrics.PROTOCOLS["ezvsl-test"]
PREDICTORS = ("model", "centre_disc", "ceiling")
# A full VGG-SS test set at 224 x 224 would be a gigabyte of maps; work through it in pieces.
_PIECE = 256


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
    return Evaluation({**localisation, **retrieval(features, test.labels)}, features, ciou)


def _localisation(features: Features, test: LabelledSet) -> tuple[dict[str, float], Tensor]:
    """Score the model, the centre disc and the best possible map at every threshold."""
    maps = functional.localization_map(features.visual, features.audio)
    size = (test.image_size, test.image_size)
    columns = joined(
        [
            score(
                {"model": metrics.upsample(maps[rows], size)},
                test.ground_truth(rows.tolist()),
                RULES,
            )
            for rows in torch.split(torch.arange(len(maps)), _PIECE)
        ]
    )
    return figures(columns, RULES), columns["model_ciou_quarter"]


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
        if f"{key}_r1" not in results:
            continue
        found = "".join(f"{results[f'{key}_r{k}']:>9.3f}" for k in RECALL_AT)
        chance = "".join(f"{results[f'chance_{kind}_r{k}']:>7.3f}" for k in RECALL_AT)
        lines.append(f"{label:<34}{found}{'':>9}{chance}")
    return "\n".join(lines)
