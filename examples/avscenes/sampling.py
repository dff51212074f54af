"""Order of the samples and seeds of their augmentation, as pure functions of (seed, epoch, index).

Nothing depends on a global random state, on the number of worker processes or on how often a run
was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
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


class EpochOrder(Sampler[tuple[int, int]]):
    """Yields (epoch, index) keys in an order that depends on the seed and the epoch alone.

    Lightning calls `set_epoch` before each epoch. With several processes each takes its share of
    the same order.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _rank_and_world()
        order = torch.randperm(self.size, generator=generator_for(self.seed, self.epoch)).tolist()
        for index in order[rank : len(self) * world : world]:
            yield self.epoch, index

    def __len__(self) -> int:
        return self.size // _rank_and_world()[1]


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
