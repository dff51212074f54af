"""Turns the settings of a run into data: synthetic scenes, or the clips of VGG-Sound and VGG-SS."""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from avcontrast import metrics
from avscenes.clips import Skipped
from avscenes.datasets import Data, LabelledSet, SceneDataset, scene_test_set
from avscenes.errors import UserError
from avscenes.folders import (
    ClipDataset,
    check_clips,
    check_layout,
    read_annotations,
    read_ids,
)
from avscenes.images import IMAGE_SIZE
from avscenes.options import check_split
from avscenes.overlap import check_overlap
from avscenes.sampling import generator_for
from avscenes.scenes import CLASSES, class_name, make_scenes

# Scenes and the choice of held-out clips are the same in every run, so that runs can be compared.
DATA_SEED = 0


def synthetic_data(settings: argparse.Namespace) -> Data:
    """Make the scenes."""
    train = make_scenes(DATA_SEED, "train", settings.train_size)
    validation = make_scenes(DATA_SEED, "validation", settings.validation_size)
    test = make_scenes(DATA_SEED, "test", settings.test_size)
    return Data(
        train=SceneDataset(train, settings.seed),
        validation=SceneDataset(validation, settings.seed),
        test=scene_test_set(test, [class_name(label) for label in range(CLASSES)]),
        train_size=settings.train_size,
        validation_size=settings.validation_size,
        test_ids_in_training=0,
        digest="",
    )


def vggsound_data(settings: argparse.Namespace, known: Path | None) -> tuple[Data, list[Skipped]]:
    """Read the lists, check every file and return the data and the clips that are left out.

    Args:
        settings: Of the run.
        known: The list of left-out clips that this run has written already, if it has; it saves a
            second check and keeps the data the same.

    Raises:
        UserError: When folders, lists or annotations are missing, or too many clips are.
    """
    train_root, test_root = Path(settings.data_root), Path(settings.test_root)
    check_layout("--data-root", train_root)
    check_layout("--test-root", test_root)
    train_ids = read_ids("--train-list", Path(settings.train_list))
    test_ids = read_ids("--test-list", Path(settings.test_list))
    annotations = read_annotations(Path(settings.annotations))
    unknown = [
        Skipped("test", clip, "no entry in --annotations")
        for clip in test_ids
        if clip not in annotations
    ]

    # Held-out clips are drawn from all ids, so that a clip that gets lost does not move the others.
    order = torch.randperm(len(train_ids), generator=generator_for(DATA_SEED)).tolist()
    shuffled = [train_ids[index] for index in order]
    held_out, rest = shuffled[: settings.validation_size], shuffled[settings.validation_size :]
    rest = rest[: settings.train_size]
    if settings.batch_size > len(rest):
        raise UserError(
            f"--batch-size {settings.batch_size} is larger than the {len(rest)} clips of "
            f"--train-list that --validation-size {settings.validation_size} leaves to train on"
        )
    test_ids = test_ids[: settings.test_size]
    check_overlap(train_ids, test_ids, allow=settings.allow_overlap)

    if known is not None and known.is_file():
        with known.open(newline="", encoding="utf-8") as file:
            skipped = [Skipped(**row) for row in csv.DictReader(file)]
    else:
        annotated = [clip for clip in test_ids if clip in annotations]
        skipped = [
            *check_clips("train", train_root, rest, settings.workers),
            *check_clips("validation", train_root, held_out, settings.workers),
            *check_clips("test", test_root, annotated, settings.workers),
            *(entry for entry in unknown if entry.clip in test_ids),
        ]
    train = _without(skipped, "train", "--train-list", rest, settings.max_missing)
    validation = _without(skipped, "validation", "--train-list", held_out, settings.max_missing)
    test = _without(skipped, "test", "--test-list", test_ids, settings.max_missing)
    if settings.batch_size > len(train):
        raise UserError(
            f"--batch-size {settings.batch_size} is larger than the {len(train)} readable clips of "
            "--train-list"
        )
    if len(validation) < settings.batch_size:
        what = f"--validation-size: {len(validation)} readable clips"
        check_split(what, len(validation), vars(settings))
    for clip in test:
        try:
            metrics.ground_truth_map(annotations[clip].boxes, 1)
        except ValueError as error:
            raise UserError(f"--annotations: {clip}: {error}") from error
    class_names = sorted({annotations[clip].class_name for clip in test})
    data = Data(
        train=ClipDataset(train_root, train, settings.seed),
        validation=ClipDataset(train_root, validation, settings.seed),
        test=LabelledSet(
            pairs=ClipDataset(test_root, test, settings.seed),
            labels=torch.tensor([class_names.index(annotations[clip].class_name) for clip in test]),
            class_names=class_names,
            boxes=[torch.tensor(annotations[clip].boxes).reshape(-1, 4) for clip in test],
            image_size=IMAGE_SIZE,
        ),
        train_size=len(train),
        validation_size=len(validation),
        test_ids_in_training=len({*train, *validation} & set(test)),
        digest=hashlib.sha256(repr((train, validation, test)).encode()).hexdigest(),
    )
    return data, skipped


def _without(
    skipped: Sequence[Skipped], split: str, option: str, clips: Sequence[str], most: float
) -> list[str]:
    """Return the clips of a split that are not skipped, or raise when too many are."""
    faults = {entry.clip: entry.reason for entry in skipped if entry.split == split}
    left = [clip for clip in clips if clip not in faults]
    if not left or len(faults) > most * len(clips):
        first, reason = next(iter(faults.items()))
        raise UserError(
            f"{option}: {len(faults)} of {len(clips)} {split} clips cannot be used, more than "
            f"--max-missing {most:g}; first {first}: {reason}"
        )
    return left
