"""What every data source hands to training and evaluation.

A dataset answers two kinds of key: an index gives the plain sample, an (epoch, index) pair the
augmented one of that epoch. So one dataset serves training and evaluation, and the same key gives
the same sample in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avcontrast import metrics
from avscenes.augmentation import flip_and_shift, scale_images
from avscenes.images import load_mask
from avscenes.sampling import EpochOrder, generator_for, own_part
from avscenes.scenes import SceneSet
from avscenes.specaugment import spec_augment

Key = int | tuple[int, int]
PairDataset = Dataset[tuple[Tensor, Tensor]]
# Scenes and the choice of held-out clips are the same in every run, so that runs can be compared.
DATA_SEED = 0


class LabelledSet(NamedTuple):
    """A labelled test set: the only place where labels and true places are known."""

    pairs: PairDataset
    labels: Tensor  # int64 [n]
    class_names: list[str]
    boxes: list[Tensor]  # one [k, 4] for each sample, x0, y0, x1, y1 in shares of the image
    image_size: int
    masks: Sequence[Path | None] = ()  # of each sample, or none at all; a mask replaces boxes
    silent: frozenset[int] = frozenset()  # rows where the source of the sound is not in the image
    consensus: int = 1  # boxes that make a pixel certain

    @property
    def visible(self) -> Tensor:
        """Whether the source of each sound is in its image, bool [n]."""
        return torch.tensor([row not in self.silent for row in range(len(self.labels))])

    def truth(self, row: int) -> Tensor:
        """Return the ground-truth map of a sample [image_size, image_size].

        Raises:
            Exception: Of any kind, when its mask cannot be read.
        """
        mask = self.masks[row] if self.masks else None
        if mask is None:
            return metrics.ground_truth_map(self.boxes[row], self.image_size, self.consensus)
        if not mask.is_file():
            raise FileNotFoundError(f"no mask {mask}")
        return load_mask(mask, self.image_size)

    def ground_truth(self, rows: Sequence[int]) -> Tensor:
        """Return the ground-truth maps [len(rows), image_size, image_size]."""
        return torch.stack([self.truth(row) for row in rows])


class Data(NamedTuple):
    """Everything that one run reads."""

    train: PairDataset
    validation: PairDataset
    test: LabelledSet
    train_size: int
    validation_size: int
    test_ids_in_training: int
    digest: str  # of the names of all clips, so that processes can compare what they read


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
        spectrogram = spec_augment(self.scenes.spectrograms[index], generator, widest=8)
        return scale_images(image), spectrogram


def scene_test_set(scenes: SceneSet, class_names: list[str]) -> LabelledSet:
    """Return synthetic scenes as a labelled test set."""
    return LabelledSet(
        pairs=SceneDataset(scenes, seed=0),
        labels=scenes.labels,
        class_names=class_names,
        boxes=list(scenes.boxes.unsqueeze(1)),
        image_size=scenes.images.shape[-1],
    )


def train_loader(
    pairs: PairDataset,
    size: int,
    batch_size: int,
    *,
    seed: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return this process's parts of batches of augmented samples.

    A contrastive loss depends on the size of its batch, so a last batch that would be smaller is
    left out. `batch_size` is that of all processes together, and a multiple of their number.
    """
    return DataLoader(
        pairs,
        batch_size=batch_size // world,
        sampler=EpochOrder(size, batch_size, seed=seed, rank=rank, world=world),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def validation_loader(
    pairs: PairDataset, size: int, batch_size: int, *, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return this process's parts of batches of plain samples, all of the same size."""
    order = own_part(range(size), batch_size, rank, world)
    return plain_loader(pairs, order, batch_size // world, workers=workers)


def plain_loader(
    pairs: PairDataset, order: Sequence[int], batch_size: int, *, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return batches of plain samples in the given order."""
    return DataLoader(pairs, batch_size=batch_size, sampler=order, num_workers=workers)
