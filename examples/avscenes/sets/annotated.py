"""Test sets with what is known about their clips: classes, boxes, masks, or that nothing sounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from avcontrast import metrics
from avscenes.files.errors import reason_of
from avscenes.media.images import IMAGE_SIZE
from avscenes.media.transforms import FNAC, Transform
from avscenes.sets.clips import Clip, ClipPairs, Skipped, Unusable, check_files
from avscenes.sets.labelled import LabelledSet


class Sample(NamedTuple):
    """A test clip and what is known about it; `fault` when that could not be read."""

    clip: Clip
    class_name: str = ""
    boxes: Sequence[Sequence[float]] = ()
    mask: Path | None = None
    visible: bool = True
    fault: str | None = None


def _fault(sample: Sample) -> str | None:
    """Return what is wrong with an annotation; masks are read with the other files."""
    if sample.fault is not None or sample.mask is not None:
        return sample.fault
    try:
        metrics.ground_truth_map([list(box) for box in sample.boxes], 1, clip=True)
    except ValueError as error:
        return reason_of(error)
    # Published lists hold wild coordinates, which are clipped; these are none.
    if sample.boxes and all(map(_is_inside_out, sample.boxes)):
        return f"no box has an area, got {list(sample.boxes[0])} (x, y, width, height?)"
    return None


def _is_inside_out(box: Sequence[float]) -> bool:
    """Return whether a box within the image ends before it begins."""
    x0, y0, x1, y1 = box
    return all(0 <= value <= 1 for value in box) and (x1 < x0 or y1 < y0)


def without_faults(samples: Sequence[Sample]) -> tuple[list[Sample], list[Skipped]]:
    """Return the samples with whole annotations, and what is left out and why.

    Raises:
        Unusable: When no sample is left.
    """
    whole, skipped = [], []
    for sample in samples:
        fault = _fault(sample)
        if fault is None:
            whole.append(sample)
        else:
            skipped.append(Skipped("test", sample.clip.name, fault))
    if not whole:
        raise nothing_left(len(samples), skipped)
    return whole, skipped


def nothing_left(count: int, skipped: Sequence[Skipped]) -> Unusable:
    """Return the error for a test set of which no sample can be used."""
    first = f"; first {skipped[0].clip}: {skipped[0].reason}" if skipped else ""
    return Unusable(f"--test-root: none of the {count} test clips can be used{first}", skipped)


def labelled_set(
    samples: Sequence[Sample], *, consensus: int = 1, transform: Transform = FNAC
) -> LabelledSet:
    """Return samples without faults as a test set; images, sounds and masks are read on use.

    Args:
        samples: In the order in which they are to be tested.
        consensus: Boxes over a pixel that make it certain.
        transform: Settings of the input; a test masks nothing.
    """
    class_names = sorted({sample.class_name for sample in samples})
    numbers = {name: number for number, name in enumerate(class_names)}
    masks = [sample.mask for sample in samples]
    return LabelledSet(
        pairs=ClipPairs([sample.clip for sample in samples], seed=0, transform=transform),
        labels=torch.tensor([numbers[sample.class_name] for sample in samples]),
        class_names=class_names,
        boxes=[
            torch.tensor([list(box) for box in sample.boxes], dtype=torch.float64).reshape(-1, 4)
            for sample in samples
        ],
        image_size=IMAGE_SIZE,
        masks=masks if any(masks) else (),
        silent=frozenset(row for row, sample in enumerate(samples) if not sample.visible),
        consensus=consensus,
        located=any(len(sample.boxes) or sample.mask for sample in samples),
    )


def annotated_set(
    samples: Sequence[Sample], workers: int, *, consensus: int = 1, transform: Transform = FNAC
) -> tuple[LabelledSet, list[Skipped]]:
    """Decode every image and sound once; return the test set, and what is left out and why.

    For a test that comes after a training, which should not run into a broken file at its end.

    Args:
        samples: In the order in which they are to be tested.
        workers: Threads that decode.
        consensus: As in `labelled_set`.
        transform: As in `labelled_set`.

    Raises:
        Unusable: When no sample is left.
    """
    whole, skipped = without_faults(samples)
    skipped += check_files("test", [sample.clip for sample in whole], workers, transform)
    left_out = {entry.clip for entry in skipped}
    usable = [sample for sample in whole if sample.clip.name not in left_out]
    if not usable:
        raise nothing_left(len(samples), skipped)
    return labelled_set(usable, consensus=consensus, transform=transform), skipped
