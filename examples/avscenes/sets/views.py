"""What some losses train on beside a pair: further views of it, or what it is near to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from avscenes.sets.loaders import PairDataset
from avscenes.sets.neighbour_lists import NeighbourLists
from avscenes.sets.sampling import generator_for

_NEIGHBOURS = 1  # tells this stream from that of the augmentation


class Views(Dataset[tuple[list[Tensor], list[Tensor]]]):
    """Views of images and of sounds: the plain sample, the augmented one, and one of a neighbour.

    The neighbour is drawn anew in each epoch, for image and sound apart; which one depends on the
    seed, the epoch and the sample alone. Without lists there are two views.
    """

    def __init__(self, pairs: PairDataset, seed: int, lists: NeighbourLists | None = None) -> None:
        self.pairs = pairs
        self.seed = seed
        self.lists = lists

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
        epoch, index = key
        views = [self.pairs[index], self.pairs[key]]
        if self.lists is not None:
            seen, heard = self.drawn(epoch, index, self.lists)
            views.append((self.pairs[seen][0], self.pairs[heard][1]))
        return [image for image, _ in views], [sound for _, sound in views]

    def drawn(self, epoch: int, index: int, lists: NeighbourLists) -> tuple[int, int]:
        """Return the neighbours of a sample in an epoch: by image, and by sound."""
        generator = generator_for(self.seed, epoch, index, _NEIGHBOURS)
        rows = lists.image_neighbours[index], lists.audio_neighbours[index]
        places = [int(torch.randint(len(row), (), generator=generator)) for row in rows]
        return int(rows[0][places[0]]), int(rows[1][places[1]])


class WithNeighbours(Dataset[tuple[Tensor, Tensor, int, Tensor, Tensor]]):
    """Pairs with their numbers, and the numbers of their neighbours by image and by sound."""

    def __init__(self, pairs: PairDataset, lists: NeighbourLists) -> None:
        self.pairs = pairs
        self.lists = lists

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
        row = key[1]
        lists = self.lists
        return (*self.pairs[key], row, lists.image_neighbours[row], lists.audio_neighbours[row])
