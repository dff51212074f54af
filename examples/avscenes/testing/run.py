"""Takes a model over a test set once, and keeps of each sample only what is small.

Several processes may take a part of the test set each; `whole_test` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from avcontrast import functional, metrics
from avcontrast.metrics.accumulators import MaskMetric
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import heat_maps, object_maps, stretch
from avscenes.models.vectors import Projections
from avscenes.sets.annotated import nothing_left
from avscenes.sets.clips import Skipped, Unusable, too_many
from avscenes.sets.readable import Batch, readable_batches
from avscenes.sets.testsets import KINDS, NamedTests
from avscenes.testing.retrieval import Features, Vectors, pair_ranks
from avscenes.testing.scoring import joined, score, with_disc
from avscenes.testing.silence import confidences
from avscenes.testing.towers import check_encoded


class Networks(NamedTuple):
    """What the maps come from, in evaluation mode: functions of what a test set holds."""

    visual: Callable[[Tensor], Tensor]  # to [b, d, h, w]
    audio: Callable[[Tensor], Tensor]  # to [b, d], on the same device
    objects: ResNet18 | None = None  # which makes object maps
    projections: Projections | None = None


def fed(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a network as a function of inputs on the CPU."""
    like = next(module.parameters())
    return lambda inputs: module(inputs.to(like))


class Conditions(NamedTuple):
    """Which test set it is, and how maps become scores."""

    dataset: str
    protocol: str
    object_share: float = 0.0  # of the object map in the mix


class Scored(NamedTuple):
    """A batch of samples, on the CPU."""

    rows: list[int]  # of the test set
    columns: dict[str, Tensor]  # scores
    maps: Tensor
    objects: Tensor | None
    features: Features | None
    projected: Vectors | None = None


class Part(NamedTuple):
    """What one process knows of its part of a test set."""

    batches: list[Scored]
    masks: dict[str, MaskMetric]  # by the name of who made the maps
    broken: list[Skipped]


class Tested(NamedTuple):
    """What is known of the samples that could be read, in the order of the test set."""

    how: Conditions
    rows: Tensor  # of the test set, [n]
    visible: Tensor  # whether the source of the sound is in the image, bool [n]
    columns: dict[str, Tensor]  # scores, [n] each
    f_scores: dict[str, float]  # of masks, by the name of who made the maps
    maps: Tensor  # cosines, [n, h, w]
    objects: Tensor | None  # object maps as the network gives them, [n, h, w]
    features: Features | None  # of the visible ones, where retrieval is to be measured
    skipped: list[Skipped]
    projected: Vectors | None = None  # beside the features, where the model has projections


def run_part(
    networks: Networks,
    tests: NamedTests,
    how: Conditions,
    *,
    batch_size: int,
    workers: int,
    max_missing: float,
    rank: int = 0,
    world: int = 1,
) -> Part:
    """Read, encode and score the part of a process, a batch at a time.

    When more samples are broken than `whole_test` will allow, it scores no more, but reads on: what
    else is broken is worth knowing.
    """
    test = tests.labelled
    part = Part([], {}, [])
    count = len(tests.names)
    # Neighbours, as many as the other processes test or one less.
    rows = range(rank * count // world, (rank + 1) * count // world)
    batches = readable_batches(test, rows, batch_size, workers)
    for batch in tqdm(batches, desc="testing", leave=False, disable=True if rank else None):
        part.broken.extend(
            Skipped("test", tests.names[row], reason) for row, reason in batch.broken
        )
        allowed = len(tests.skipped) + len(part.broken) <= _most_broken(tests, max_missing)
        if batch.rows and allowed:
            part.batches.append(score_batch(networks, batch, tests, how, part.masks))
    return part._replace(masks={who: metric.cpu() for who, metric in part.masks.items()})


@torch.no_grad()
def score_batch(
    networks: Networks,
    batch: Batch,
    tests: NamedTests,
    how: Conditions,
    masks: dict[str, MaskMetric],
) -> Scored:
    """Encode a batch and score its maps; of masks also count what the F-score is made of."""
    seen = networks.visual(batch.images).float()
    heard = networks.audio(batch.spectrograms).float()
    things = None
    if networks.objects is not None:
        things = object_maps(networks.objects, batch.images.to(seen.device)).float()
    scored = score_features(seen, heard, things, batch.rows, batch.truth, tests, how, masks)
    if networks.projections is None or scored.features is None:
        return scored
    visible = tests.labelled.visible[batch.rows]
    images, sounds = networks.projections.of(seen, heard)
    return scored._replace(projected=Vectors(images.cpu()[visible], sounds.cpu()[visible]))


def score_features(
    seen: Tensor,
    heard: Tensor,
    things: Tensor | None,
    rows: list[int],
    truth: Tensor,
    tests: NamedTests,
    how: Conditions,
    masks: dict[str, MaskMetric],
) -> Scored:
    """Score the maps of features.

    Args:
        seen: Of images, [b, d, h, w].
        heard: Of sounds, [b, d].
        things: Object maps, [b, h, w].
        rows: Of the test set.
        truth: Of these rows, [b, size, size].
        tests: The test set.
        how: How maps become scores.
        masks: Gets what the F-score is made of, if there are masks.

    Raises:
        ValueError: When the features are no maps or no vectors.
    """
    check_encoded(seen, heard)
    test = tests.labelled
    cosines = functional.localization_map(seen, heard)
    heats = heat_maps(
        cosines,
        things,
        size=test.image_size,
        protocol=how.protocol,
        object_share=how.object_share,
    )
    truth = truth.to(seen.device)
    columns = {}
    if test.located:
        columns = score(heats, truth, metrics.PROTOCOLS[how.protocol], masks=bool(test.masks))
    if test.silent:
        columns.update(confidences(heats, how.protocol))
    if test.masks:
        _add_masks(masks, heats, truth)
    features = None
    if KINDS[how.dataset].retrieval:
        visible = test.visible[rows]
        features = Features(seen.cpu()[visible], heard.cpu()[visible])
    objects = None if things is None else things.cpu()
    return Scored(rows, columns, cosines.cpu(), objects, features)


def whole_test(
    parts: Sequence[Part], tests: NamedTests, how: Conditions, max_missing: float
) -> Tested:
    """Put the parts of all processes together.

    Raises:
        Unusable: When more than `max_missing` of the samples cannot be read, or none with a
            visible source can.
    """
    skipped = tests.skipped + [entry for part in parts for entry in part.broken]
    count = len(tests.names) + len(tests.skipped)
    if len(skipped) > _most_broken(tests, max_missing):
        message = too_many("--test-root", "test clips", count, skipped, max_missing)
        raise Unusable(message, skipped)
    batches = [batch for part in parts for batch in part.batches]
    rows = [row for batch in batches for row in batch.rows]
    visible = tests.labelled.visible[rows]
    if not visible.any():
        raise nothing_left(count, skipped)
    objects = [batch.objects for batch in batches if batch.objects is not None]
    parts_of = [batch.features for batch in batches if batch.features is not None]
    features = Features(*map(torch.cat, zip(*parts_of, strict=True))) if parts_of else None
    vectors = [batch.projected for batch in batches if batch.projected is not None]
    columns = joined([batch.columns for batch in batches])
    if not tests.labelled.located and features is not None:
        columns.update(pair_ranks(features))
    return Tested(
        how,
        torch.tensor(rows),
        visible,
        columns,
        _f_scores([part.masks for part in parts]),
        torch.cat([batch.maps for batch in batches]),
        torch.cat(objects) if objects else None,
        features,
        skipped,
        Vectors(*map(torch.cat, zip(*vectors, strict=True))) if vectors else None,
    )


def _most_broken(tests: NamedTests, max_missing: float) -> float:
    return max_missing * (len(tests.names) + len(tests.skipped))


def _add_masks(counted: dict[str, MaskMetric], heats: dict[str, Tensor], truth: Tensor) -> None:
    """Count what the F-score is made of, on maps stretched to [0, 1]."""
    for who, heat in with_disc(heats, truth).items():
        metric = counted.setdefault(who, MaskMetric().to(truth.device))
        metric.update(stretch(heat).clamp(0, 1), truth)


def _f_scores(parts: Sequence[dict[str, MaskMetric]]) -> dict[str, float]:
    """Return the F-scores, none where every mask was empty."""
    counted: dict[str, MaskMetric] = {}
    for part in parts:
        for who, metric in part.items():
            if who in counted:
                counted[who].merge_state(metric)
            else:
                counted[who] = metric
    return {
        who: metric.compute()["f_score"].item() for who, metric in counted.items() if metric.filled
    }
