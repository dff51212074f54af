"""Reads a test set once, from front to back, and tells which samples cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avscenes.files.errors import reason_of
from avscenes.sets.labelled import LabelledSet


class Batch(NamedTuple):
    """Samples that could be read, and the rows and reasons of those that could not."""

    rows: list[int]
    images: Tensor  # [b, 3, height, width]
    spectrograms: Tensor  # [b, 1, frequencies, frames]
    truth: Tensor  # [b, size, size]
    broken: list[tuple[int, str]]


# A row with its image, spectrogram and ground truth, or why these cannot be read.
_Read = tuple[int, tuple[Tensor, Tensor, Tensor] | str]


class _Readable(Dataset[_Read]):
    """Plain samples with their ground truth; of one that cannot be decoded, the reason."""

    def __init__(self, test: LabelledSet) -> None:
        self.test = test

    def __getitem__(self, row: int) -> _Read:
        try:
            image, spectrogram = self.test.pairs[row]
        except RuntimeError as error:
            # The data sets chain what a decoder said; anything else is a fault of the program.
            if not isinstance(error.__cause__, Exception):
                raise
            return row, reason_of(error.__cause__)
        try:
            return row, (image, spectrogram, self.test.truth(row))
        # Decoders raise whatever a broken mask makes them trip over.
        except Exception as error:
            return row, reason_of(error)


def _collate(samples: list[_Read]) -> Batch:
    whole = [(row, found) for row, found in samples if not isinstance(found, str)]
    broken = [(row, found) for row, found in samples if isinstance(found, str)]
    if not whole:
        return Batch([], torch.zeros(0), torch.zeros(0), torch.zeros(0), broken)
    rows, found = zip(*whole, strict=True)
    images, spectrograms, truth = map(torch.stack, zip(*found, strict=True))
    return Batch(list(rows), images, spectrograms, truth, broken)


def readable_batches(
    test: LabelledSet, rows: Sequence[int], batch_size: int, workers: int
) -> DataLoader[Batch]:
    """Return samples of a test set in the order of `rows`, each decoded once."""
    return DataLoader(
        _Readable(test),  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=rows,
        num_workers=workers,
        collate_fn=_collate,
    )
