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


class _Whole(NamedTuple):
    row: int
    image: Tensor
    spectrogram: Tensor
    truth: Tensor


class _Broken(NamedTuple):
    row: int
    reason: str


class _Readable(Dataset[_Whole | _Broken]):
    """Plain samples with their ground truth; of one that cannot be decoded, the reason."""

    def __init__(self, test: LabelledSet) -> None:
        self.test = test

    def __getitem__(self, row: int) -> _Whole | _Broken:
        try:
            image, spectrogram = self.test.pairs[row]
        except RuntimeError as error:
            # The data sets chain what a decoder said; anything else is a fault of the program.
            if not isinstance(error.__cause__, Exception):
                raise
            return _Broken(row, reason_of(error.__cause__))
        try:
            return _Whole(row, image, spectrogram, self.test.truth(row))
        # Decoders raise whatever a broken mask makes them trip over.
        except Exception as error:
            return _Broken(row, reason_of(error))


def _collate(samples: list[_Whole | _Broken]) -> Batch:
    whole = [sample for sample in samples if isinstance(sample, _Whole)]
    broken = [(sample.row, sample.reason) for sample in samples if isinstance(sample, _Broken)]
    if not whole:
        return Batch([], torch.zeros(0), torch.zeros(0), torch.zeros(0), broken)
    _, images, spectrograms, truth = zip(*whole, strict=True)
    return Batch(
        [sample.row for sample in whole],
        torch.stack(images),
        torch.stack(spectrograms),
        torch.stack(truth),
        broken,
    )


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
