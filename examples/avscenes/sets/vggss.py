"""VGG-SS and its halves Heard 110 and Unheard 110, from lists of ids and `vggss.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field

from avscenes.files.errors import UserError
from avscenes.files.strict import Box
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import clips_in
from avscenes.sets.ids import finder, one_spelling
from avscenes.sets.lists import read_entry_list


class Annotation(NamedTuple):
    """What `vggss.json` says about one clip."""

    class_name: str
    boxes: list[list[float]]


class Entry(BaseModel, strict=True):
    """An entry of `vggss.json`."""

    file: str
    class_name: str = Field(alias="class")
    boxes: list[Box] = Field(alias="bbox")


def read_annotations(path: Path, form: type[Entry] = Entry) -> dict[str, Annotation]:
    """Read `vggss.json`: a list of `{"file": id, "class": name, "bbox": [[x0, y0, x1, y1], ...]}`.

    Args:
        path: The file.
        form: Of its entries.

    Raises:
        UserError: When the file cannot be read, has another form, or annotates a clip twice.
    """
    annotations: dict[str, Annotation] = {}
    written: dict[str, str] = {}
    for number, entry in enumerate(read_entry_list(path, form, "clips")):
        annotation = Annotation(entry.class_name, entry.boxes)
        first = written.setdefault(one_spelling(entry.file), entry.file)
        if annotations.setdefault(first, annotation) != annotation:
            raise UserError(
                f"--annotations: entry {number} of {path} is a second one of {first!r}, with "
                "another class or other boxes"
            )
    return annotations


def vggss_samples(
    root: Path, clips: Sequence[str], annotations: Mapping[str, Annotation]
) -> list[Sample]:
    """Return the clips of a list with their classes and boxes."""
    written = finder(annotations)
    return [
        Sample(clip, annotations[name].class_name, annotations[name].boxes)
        if (name := written(clip.name)) is not None
        else Sample(clip, fault="no entry in --annotations")
        for clip in clips_in(root, clips)
    ]


def check_open_set(
    clips: Iterable[str], other_half: Iterable[str], annotations: Mapping[str, Annotation]
) -> None:
    """Check that the heard and the unheard half of a test share no class.

    There are two partitions of VGG-SS in use under these names; mixing their lists is an error.

    Raises:
        UserError: When a class is in both.
    """
    written = finder(annotations)
    classes = [
        {annotations[name].class_name for name in map(written, half) if name is not None}
        for half in (clips, other_half)
    ]
    shared = sorted(classes[0] & classes[1])
    if shared:
        raise UserError(
            f"--other-half: it shares {len(shared)} classes with --test-list (first "
            f"{shared[0]!r}); both must be of the same partition"
        )
