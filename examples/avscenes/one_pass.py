"""Takes a model over a test set once, and keeps of each sample only what is small."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from avcontrast import functional, metrics
from avscenes.checkpoints import Trained
from avscenes.clips import Skipped
from avscenes.encoders import ResNet18
from avscenes.errors import UserError
from avscenes.evaluation import Features
from avscenes.objects import heat_maps, object_maps
from avscenes.scoring import joined, score
from avscenes.testsets import NamedTests, readable_batches


class Tested(NamedTuple):
    """What is known of the samples that could be read, in the order of the test set."""

    rows: Tensor  # of the test set, [n]
    columns: dict[str, Tensor]  # scores, [n] each
    features: Features
    objects: Tensor | None  # object maps as the network gives them, [n, h, w]
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
        UserError: When more than `max_missing` of the samples cannot be read.
    """
    rules = metrics.PROTOCOLS[options.protocol]
    test, device = tests.labelled, options.device
    count = len(tests.names) + len(tests.skipped)
    skipped = list(tests.skipped)
    rows: list[int] = []
    scores: list[dict[str, Tensor]] = []
    visual, audio, objects = [], [], []
    batches = readable_batches(test, options.batch_size, options.workers)
    for batch in tqdm(batches, desc="testing", leave=False, disable=None):
        skipped += [Skipped("test", tests.names[row], reason) for row, reason in batch.broken]
        if len(skipped) > options.max_missing * count:
            raise UserError(
                f"--test-list: more of the {count} test clips cannot be used than --max-missing "
                f"{options.max_missing:g} allows; first {skipped[0].clip}: {skipped[0].reason}"
            )
        if not batch.rows:
            continue
        images = batch.images.to(device)
        seen = trained.visual(images).float()
        heard = trained.audio(batch.spectrograms.to(device)).float()
        things = None if object_network is None else object_maps(object_network, images).float()
        heats = heat_maps(
            functional.localization_map(seen, heard),
            things,
            size=test.image_size,
            protocol=options.protocol,
            object_share=options.object_share,
        )
        scores.append(score(heats, test.ground_truth(batch.rows).to(device), rules))
        rows += batch.rows
        visual.append(seen.cpu())
        audio.append(heard.cpu())
        if things is not None:
            objects.append(things.cpu())
    if not rows:
        raise UserError(
            f"--test-list: none of the {count} test clips can be used; "
            f"first {skipped[0].clip}: {skipped[0].reason}"
        )
    return Tested(
        torch.tensor(rows),
        joined(scores),
        Features(torch.cat(visual), torch.cat(audio)),
        torch.cat(objects) if objects else None,
        skipped,
    )
