"""IS3: synthetic images of two things, once with the sound of each."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from avscenes.files.errors import UserError
from avscenes.files.strict import Box, must_be
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Clip
from avscenes.sets.lists import read_entry_list

# Boxes are given in pixels of images of this size.
_PIXELS = 224


# The paths are those of another machine; of these, only the names of the files matter.
_FileName = Annotated[
    str,
    AfterValidator(lambda path: PurePosixPath(path).name),
    Field(min_length=1),
    must_be("the path of a file"),
]


class Entry(BaseModel, strict=True):
    """What the annotations say about one image with one of its sounds."""

    image: _FileName
    audio: _FileName
    gt_box: Box

    @property
    def box(self) -> list[float]:
        """The box in shares of the image."""
        return [value / _PIXELS for value in self.gt_box]


def read_entries(path: Path) -> list[Entry]:
    """Read a list of `{"image": path, "audio": path, "gt_box": [x0, y0, x1, y1]}`.

    An entry that is repeated counts once.

    Raises:
        UserError: When the file cannot be read, has another form, or has an image with the same
            sound and another box.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for number, entry in enumerate(read_entry_list(path, Entry, "images")):
        if entries.setdefault((entry.image, entry.audio), entry) != entry:
            raise UserError(
                f"--annotations: entry {number} of {path} is a second one of {entry.image!r} with "
                f"{entry.audio!r}, with another box"
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
