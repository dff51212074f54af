"""Loaders of pairs for training, validation and test.

A dataset answers two kinds of key: an index gives the plain sample, an (epoch, index) pair the
augmented one of that epoch. So one dataset serves training and evaluation, and the same key gives
the same sample in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avscenes.sets.sampling import EpochOrder, own_part

Key = int | tuple[int, int]
PairDataset = Dataset[tuple[Tensor, Tensor]]
# Scenes and the choice of held-out clips are the same in every run, so that runs can be compared.
DATA_SEED = 0


def train_loader(
    pairs: Dataset[Any],
    size: int,
    batch_size: int,
    *,
    seed: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Any]:
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
