"""Test sets with what is known about their clips: classes, boxes, masks, or that nothing sounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast import metrics
from avscenes.clips import Clip, ClipPairs, Skipped, check_files
from avscenes.errors import UserError
from avscenes.images import IMAGE_SIZE, load_mask
from avscenes.reasons import reason_of
from avscenes.recipes import FNAC, Recipe


class Sample(NamedTuple):
    """A test clip and what is known about it; `fault` when that could not be read."""

    clip: Clip
    class_name: str = ""
    boxes: Sequence[Sequence[float]] = ()
    mask: Path | None = None
    visible: bool = True
    fault: str | None = None


class AnnotatedSet(NamedTuple):
    """A labelled test set with the fields of `LabelledSet`, for every kind of ground truth."""

    pairs: ClipPairs
    labels: Tensor  # int64 [n]
    class_names: list[str]
    boxes: list[Tensor]  # one [k, 4] for each sample, x0, y0, x1, y1 in shares of the image
    masks: list[Path | None]
    visible: Tensor  # bool [n]; False where the source of the sound is not in the image
    consensus: int  # boxes that make a pixel certain
    image_size: int

    def ground_truth(self, rows: Sequence[int]) -> Tensor:
        """Return the ground-truth maps [len(rows), image_size, image_size]."""
        return torch.stack([self._ground_truth(row) for row in rows])

    def _ground_truth(self, row: int) -> Tensor:
        mask = self.masks[row]
        if mask is not None:
            return load_mask(mask, self.image_size)
        return metrics.ground_truth_map(self.boxes[row], self.image_size, self.consensus)


def _fault(sample: Sample) -> str | None:
    """Return what is wrong with an annotation."""
    if sample.fault is not None:
        return sample.fault
    try:
        if sample.mask is not None:
            if not sample.mask.is_file():
                return f"no mask {sample.mask}"
            load_mask(sample.mask)
        metrics.ground_truth_map([list(box) for box in sample.boxes], 1)
    # Decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        return reason_of(error)
    return None


def annotated_set(
    samples: Sequence[Sample], workers: int, *, consensus: int = 1, recipe: Recipe = FNAC
) -> tuple[AnnotatedSet, list[Skipped]]:
    """Check every file of a test set; return what can be used, and what is left out and why.

    Args:
        samples: In the order in which they are to be tested.
        workers: Threads that decode.
        consensus: Boxes over a pixel that make it certain.
        recipe: Settings of the input; a test masks nothing.

    Raises:
        UserError: When nothing can be used.
    """
    broken = [
        Skipped("test", sample.clip.name, fault)
        for sample in samples
        if (fault := _fault(sample)) is not None
    ]
    names = {entry.clip for entry in broken}
    sound = [sample for sample in samples if sample.clip.name not in names]
    skipped = [*broken, *check_files("test", [sample.clip for sample in sound], workers, recipe)]
    names = {entry.clip for entry in skipped}
    usable = [sample for sample in sound if sample.clip.name not in names]
    if not usable:
        first = f"; first {skipped[0].clip}: {skipped[0].reason}" if skipped else ""
        raise UserError(f"--test-list: none of {len(samples)} test clips can be used{first}")
    class_names = sorted({sample.class_name for sample in usable})
    data = AnnotatedSet(
        pairs=ClipPairs([sample.clip for sample in usable], seed=0, recipe=recipe),
        labels=torch.tensor([class_names.index(sample.class_name) for sample in usable]),
        class_names=class_names,
        boxes=[
            torch.tensor([list(box) for box in sample.boxes], dtype=torch.float64).reshape(-1, 4)
            for sample in usable
        ],
        masks=[sample.mask for sample in usable],
        visible=torch.tensor([sample.visible for sample in usable]),
        consensus=consensus,
        image_size=IMAGE_SIZE,
    )
    return data, skipped
