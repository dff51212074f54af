"""Order of the samples and seeds of their augmentation, as pure functions of (seed, epoch, index).

Nothing depends on a global random state, on the number of processes, on the number of workers that
read for them, or on how often a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


def mix_seed(*numbers: int) -> int:
    """Return one seed below 2^63 that depends on all the numbers and on their order."""
    # Their count comes first, because trailing zeros alone would change nothing.
    return int(
        np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> 1
    )


def generator_for(*numbers: int) -> torch.Generator:
    """Return a generator seeded by `mix_seed` of the numbers."""
    return torch.Generator().manual_seed(mix_seed(*numbers))


def own_part(order: Sequence[int], batch_size: int, rank: int, world: int) -> list[int]:
    """Return what process `rank` of `world` reads of an order that all of them share.

    Every `batch_size` neighbours are one batch of all processes together, and a process takes the
    part of its rank in each; what is left over after the last whole batch belongs to no process.
    """
    part = batch_size // world
    starts = range(rank * part, len(order) // batch_size * batch_size, batch_size)
    return [index for start in starts for index in order[start : start + part]]


class EpochOrder(Sampler[tuple[int, int]]):
    """Yields (epoch, index) keys in an order that depends on the seed and the epoch alone.

    Lightning calls `set_epoch` before each epoch. With several processes each takes its part of
    every batch, see `own_part`.
    """

    def __init__(
        self, size: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.size, generator=generator_for(self.seed, self.epoch)).tolist()
        for index in own_part(order, self.batch_size, self.rank, self.world):
            yield self.epoch, index

    def __len__(self) -> int:
        return self.size // self.batch_size * (self.batch_size // self.world)
