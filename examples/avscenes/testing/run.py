"""Takes a model over a test set once, and keeps of each sample only what is small."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from avcontrast import functional, metrics
from avcontrast.metrics.accumulators import MaskMetric
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import heat_maps, object_maps, stretch
from avscenes.sets.annotated import nothing_left
from avscenes.sets.clips import Skipped, Unusable
from avscenes.sets.readable import readable_batches
from avscenes.sets.testsets import KINDS, NamedTests
from avscenes.testing.retrieval import Features
from avscenes.testing.scoring import joined, score, with_disc
from avscenes.testing.silence import confidences
from avscenes.training.trained import Trained


class Tested(NamedTuple):
    """What is known of the samples that could be read, in the order of the test set."""

    rows: Tensor  # of the test set, [n]
    visible: Tensor  # whether the source of the sound is in the image, bool [n]
    columns: dict[str, Tensor]  # scores, [n] each
    f_scores: dict[str, float]  # of masks, by the name of who made the maps
    maps: Tensor  # cosines, [n, h, w]
    objects: Tensor | None  # object maps as the network gives them, [n, h, w]
    features: Features | None  # of the visible ones, where retrieval is to be measured
    skipped: list[Skipped]


@torch.no_grad()
def run_tests(
    trained: Trained,
    object_network: ResNet18 | None,
    tests: NamedTests,
    options: argparse.Namespace,
) -> Tested:
    """Read, encode and score a test set, a batch at a time.

    Raises:
        Unusable: When more than `max_missing` of the samples cannot be read, or none with a
            visible source can.
    """
    test, device = tests.labelled, options.device
    count = len(tests.names) + len(tests.skipped)
    skipped = list(tests.skipped)
    visible = test.visible
    rows: list[int] = []
    scores: list[dict[str, Tensor]] = []
    f_scores: dict[str, MaskMetric] = {}
    maps, objects, seen_features, heard_features = [], [], [], []
    batches = readable_batches(test, options.batch_size, options.workers)
    for batch in tqdm(batches, desc="testing", leave=False, disable=None):
        skipped += [Skipped("test", tests.names[row], reason) for row, reason in batch.broken]
        # Too many are missing: what else is, is worth knowing, and no more than that.
        if not batch.rows or len(skipped) > options.max_missing * count:
            continue
        images = batch.images.to(device)
        seen = trained.visual(images).float()
        heard = trained.audio(batch.spectrograms.to(device)).float()
        cosines = functional.localization_map(seen, heard)
        things = None if object_network is None else object_maps(object_network, images).float()
        heats = heat_maps(
            cosines,
            things,
            size=test.image_size,
            protocol=options.protocol,
            object_share=options.object_share,
        )
        truth = batch.truth.to(device)
        columns = score(heats, truth, metrics.PROTOCOLS[options.protocol], masks=bool(test.masks))
        if test.silent:
            columns.update(confidences(heats, options.protocol))
        if test.masks:
            _add_masks(f_scores, heats, truth)
        scores.append(columns)
        rows += batch.rows
        maps.append(cosines.cpu())
        if KINDS[options.dataset].retrieval:
            seen_features.append(seen.cpu()[visible[batch.rows]])
            heard_features.append(heard.cpu()[visible[batch.rows]])
        if things is not None:
            objects.append(things.cpu())
    if len(skipped) > options.max_missing * count:
        raise Unusable(
            f"--test-root: {len(skipped)} of {count} test clips cannot be used, more than "
            f"--max-missing {options.max_missing:g}; first {skipped[0].clip}: {skipped[0].reason}",
            skipped,
        )
    if not visible[rows].any():
        raise nothing_left(count, skipped)
    return Tested(
        torch.tensor(rows),
        visible[rows],
        joined(scores),
        _f_scores(f_scores),
        torch.cat(maps),
        torch.cat(objects) if objects else None,
        Features(torch.cat(seen_features), torch.cat(heard_features)) if seen_features else None,
        skipped,
    )


def _add_masks(f_scores: dict[str, MaskMetric], heats: dict[str, Tensor], truth: Tensor) -> None:
    """Count what the F-score is made of, on maps stretched to [0, 1]."""
    for who, heat in with_disc(heats, truth).items():
        metric = f_scores.setdefault(who, MaskMetric().to(truth.device))
        metric.update(stretch(heat).clamp(0, 1), truth)


def _f_scores(counted: dict[str, MaskMetric]) -> dict[str, float]:
    """Return the F-scores, none where every mask was empty."""
    return {
        who: metric.compute()["f_score"].item() for who, metric in counted.items() if metric.filled
    }
