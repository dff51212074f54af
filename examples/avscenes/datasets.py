"""What every data source hands to training and evaluation.

A dataset answers two kinds of key: an index gives the plain sample, an (epoch, index) pair the
augmented one of that epoch. So one dataset serves training and evaluation, and the same key gives
the same sample in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avcontrast import metrics
from avscenes.augmentation import flip_and_shift, mask_spectrogram, scale_images
from avscenes.sampling import EpochOrder, generator_for
from avscenes.scenes import SIZE, SceneSet

Key = int | tuple[int, int]
PairDataset = Dataset[tuple[Tensor, Tensor]]


class LabelledSet(NamedTuple):
    """A labelled test set: the only place where labels and boxes are known."""

    pairs: PairDataset
    labels: Tensor  # int64 [n]
    class_names: list[str]
    boxes: list[Tensor]  # one [k, 4] for each sample, x0, y0, x1, y1 in shares of the image
    image_size: int

    def ground_truth(self, rows: Sequence[int]) -> Tensor:
        """Return the ground-truth maps [len(rows), image_size, image_size]."""
        return torch.stack(
            [metrics.ground_truth_map(self.boxes[row], self.image_size) for row in rows]
        )


class Data(NamedTuple):
    """Everything that one run reads."""

    train: PairDataset
    validation: PairDataset
    test: LabelledSet
    train_size: int
    validation_size: int
    test_ids_in_training: int


class SceneDataset(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic scenes held in memory."""

    def __init__(self, scenes: SceneSet, seed: int) -> None:
        self.scenes = scenes
        self.seed = seed

    def __len__(self) -> int:
        return len(self.scenes.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        if isinstance(key, int):
            return scale_images(self.scenes.images[key]), self.scenes.spectrograms[key]
        epoch, index = key
        generator = generator_for(self.seed, epoch, index)
        image = flip_and_shift(self.scenes.images[index], generator)
        spectrogram = mask_spectrogram(self.scenes.spectrograms[index], generator, widest=8)
        return scale_images(image), spectrogram


def scene_test_set(scenes: SceneSet, class_names: list[str]) -> LabelledSet:
    """Return synthetic scenes as a labelled test set."""
    return LabelledSet(
        pairs=SceneDataset(scenes, seed=0),
        labels=scenes.labels,
        class_names=class_names,
        boxes=list(scenes.boxes.unsqueeze(1)),
        image_size=SIZE,
    )


def train_loader(
    pairs: PairDataset, size: int, batch_size: int, *, seed: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of augmented samples; a last batch that would be smaller is left out.

    A contrastive loss depends on the size of its batch, so all batches have the same.
    """
    return DataLoader(
        pairs,
        batch_size=batch_size,
        sampler=EpochOrder(size, seed),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def plain_loader(
    pairs: PairDataset, batch_size: int, *, workers: int, drop_last: bool = False
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of plain samples in their order."""
    return DataLoader(pairs, batch_size=batch_size, drop_last=drop_last, num_workers=workers)
