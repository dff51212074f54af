"""IS3: synthetic images of two things, once with the sound of each."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from avscenes.files.errors import UserError
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Clip
from avscenes.sets.lists import read_entry_list

# Boxes are given in pixels of images of this size.
_PIXELS = 224


class Entry(NamedTuple):
    """What the annotations say about one image with one of its sounds."""

    image: str
    audio: str
    box: list[float]


def read_entries(path: Path) -> list[Entry]:
    """Read a list of `{"image": path, "audio": path, "gt_box": [x0, y0, x1, y1]}`.

    Of the paths, which are those of another machine, only the names of the files matter. An entry
    that is repeated counts once.

    Raises:
        UserError: When the file cannot be read, has another form, or has an image with the same
            sound and another box.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for number, entry in enumerate(read_entry_list(path, "images")):
        try:
            image, audio = (PurePosixPath(str(entry[key])).name for key in ("image", "audio"))
            box = [float(value) / _PIXELS for value in entry["gt_box"]]
            whole = len(box) == 4 and all(map(math.isfinite, box)) and image and audio
        except (KeyError, TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise UserError(
                f"--annotations: entry {number} of {path} is not of the form "
                '{"image": path, "audio": path, "gt_box": [x0, y0, x1, y1]}'
            )
        if entries.setdefault((image, audio), Entry(image, audio, box)).box != box:
            raise UserError(
                f"--annotations: entry {number} of {path} is a second one of {image!r} with "
                f"{audio!r}, with another box"
            )
    return list(entries.values())


def is3_samples(root: Path, entries: list[Entry], *, masks: bool = False) -> list[Sample]:
    """Return images with their sounds, whose class is the last part of their name.

    Args:
        root: Folder with `images`, `audio_wav` and `gt_segmentation`.
        entries: As `read_entries` returns them.
        masks: Take the segmentation masks instead of the boxes.
    """
    samples = []
    for entry in entries:
        name = PurePosixPath(entry.image).stem
        clip = Clip(name, root / "images" / entry.image, root / "audio_wav" / entry.audio)
        mask = root / "gt_segmentation" / f"{name}.png" if masks else None
        samples.append(Sample(clip, name.rpartition("_")[2], [entry.box], mask))
    return samples
