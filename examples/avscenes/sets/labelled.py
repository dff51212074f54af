"""A labelled test set: the only place where labels and true places are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast import metrics
from avscenes.media.images import load_mask
from avscenes.sets.loaders import PairDataset


class LabelledSet(NamedTuple):
    """Pairs with their classes and the places of what sounds."""

    pairs: PairDataset
    labels: Tensor  # int64 [n]
    class_names: list[str]
    boxes: list[Tensor]  # one [k, 4] for each sample, x0, y0, x1, y1 in shares of the image
    image_size: int
    masks: Sequence[Path | None] = ()  # of each sample, or none at all; a mask replaces boxes
    silent: frozenset[int] = frozenset()  # rows where the source of the sound is not in the image
    consensus: int = 1  # boxes that make a pixel certain
    located: bool = True  # whether it is known where the sources are

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
            boxes, size = self.boxes[row], self.image_size
            return metrics.ground_truth_map(boxes, size, self.consensus, clip=True)
        if not mask.is_file():
            raise FileNotFoundError(f"no mask {mask}")
        return load_mask(mask, self.image_size)
