"""Test data by themselves, for a model that is trained already."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avcontrast import metrics
from avscenes.clips import ClipPairs, Skipped, clips_in
from avscenes.datasets import LabelledSet, PairDataset, scene_test_set
from avscenes.errors import UserError
from avscenes.folders import check_layout, read_annotations, read_ids
from avscenes.images import IMAGE_SIZE
from avscenes.reasons import reason_of
from avscenes.scenes import CLASSES, class_name, make_scenes
from avscenes.sources import DATA_SEED

DATASETS = ("synthetic", "vggsound")
FOLDER_OPTIONS = ("test_root", "test_list", "annotations")


class NamedTests(NamedTuple):
    """A labelled test set, what its samples are called, and what was left out of it so far."""

    labelled: LabelledSet
    names: list[str]
    skipped: list[Skipped]


class Batch(NamedTuple):
    """Samples that could be read, and the rows and reasons of those that could not."""

    rows: list[int]
    images: Tensor  # [b, 3, height, width]
    spectrograms: Tensor  # [b, 1, frequencies, frames]
    broken: list[tuple[int, str]]


def read_tests(options: argparse.Namespace) -> NamedTests:
    """Return the test set that the options name; its files are decoded only when it is used.

    Raises:
        UserError: When folders, lists or annotations are missing or cannot be read.
    """
    if options.dataset == "synthetic":
        scenes = make_scenes(DATA_SEED, "test", options.test_size)
        names = [f"scene {index}" for index in range(options.test_size)]
        labelled = scene_test_set(scenes, [class_name(label) for label in range(CLASSES)])
        return NamedTests(labelled, names, [])
    return _vggsound(options)


def _vggsound(options: argparse.Namespace) -> NamedTests:
    root = Path(options.test_root)
    check_layout("--test-root", root)
    listed = read_ids("--test-list", Path(options.test_list))[: options.test_size]
    annotations = read_annotations(Path(options.annotations))
    names = [name for name in listed if name in annotations]
    if not names:
        raise UserError(
            f"--test-list: none of the {len(listed)} clips of {options.test_list} has an entry in "
            "--annotations"
        )
    for name in names:
        try:
            metrics.ground_truth_map(annotations[name].boxes, 1)
        except ValueError as error:
            raise UserError(f"--annotations: {name}: {error}") from error
    class_names = sorted({annotations[name].class_name for name in names})
    numbers = {label: number for number, label in enumerate(class_names)}
    labelled = LabelledSet(
        pairs=ClipPairs(clips_in(root, names), seed=0),
        labels=torch.tensor([numbers[annotations[name].class_name] for name in names]),
        class_names=class_names,
        boxes=[
            torch.tensor(annotations[name].boxes, dtype=torch.float64).reshape(-1, 4)
            for name in names
        ],
        image_size=IMAGE_SIZE,
    )
    skipped = [
        Skipped("test", name, "no entry in --annotations")
        for name in listed
        if name not in annotations
    ]
    return NamedTests(labelled, names, skipped)


class _Readable(Dataset[tuple[int, Tensor, Tensor] | tuple[int, str]]):
    """Plain samples with their rows; of one that cannot be decoded, the reason."""

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs

    def __getitem__(self, row: int) -> tuple[int, Tensor, Tensor] | tuple[int, str]:
        try:
            return row, *self.pairs[row]
        except RuntimeError as error:
            # The data sets chain what a decoder said; anything else is a fault of the program.
            if not isinstance(error.__cause__, Exception):
                raise
            return row, reason_of(error.__cause__)


def _collate(samples: list[tuple[int, Tensor, Tensor] | tuple[int, str]]) -> Batch:
    whole = [sample for sample in samples if len(sample) == 3]
    empty = torch.zeros(0)
    return Batch(
        [sample[0] for sample in whole],
        torch.stack([sample[1] for sample in whole]) if whole else empty,
        torch.stack([sample[2] for sample in whole]) if whole else empty,
        [(sample[0], sample[1]) for sample in samples if len(sample) == 2],
    )


def readable_batches(test: LabelledSet, batch_size: int, workers: int) -> DataLoader[Batch]:
    """Return the samples of a test set in order, each decoded once."""
    return DataLoader(
        _Readable(test.pairs),  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=range(len(test.labels)),
        num_workers=workers,
        collate_fn=_collate,
    )
