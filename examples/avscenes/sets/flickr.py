"""Flickr-SoundNet: test clips with the boxes of three annotators in XML files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from avscenes.files.errors import reason_of
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Clip, clips_in
from avscenes.sets.ids import one_spelling

# Coordinates are given for images of this size.
_PIXELS = 256
# Half a vote for each box: two annotators make a pixel certain.
CONSENSUS = 2


def read_boxes(path: Path) -> list[list[float]]:
    """Return the boxes of one file as shares of the image.

    Every `<bbox>` counts, however deep it lies, with the last four numbers in it; other elements,
    which made the published reader give up on the file, do not matter.

    Raises:
        ValueError: When the file is no XML, has no box, or a box has fewer than four numbers.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, UnicodeError) as error:
        raise ValueError(f"{path.name}: {reason_of(error)}") from error
    boxes = []
    for element in root.iter("bbox"):
        numbers = [value for text in element.itertext() for value in _numbers(text)]
        if len(numbers) < 4:
            raise ValueError(f"{path.name}: a bbox with {len(numbers)} of 4 coordinates")
        boxes.append([value / _PIXELS for value in numbers[-4:]])
    if not boxes:
        raise ValueError(f"{path.name}: no bbox")
    return boxes


def _numbers(text: str) -> Iterable[float]:
    for word in text.split():
        try:
            value = float(word)
        except ValueError:
            continue
        if math.isfinite(value):
            # The published code reads whole numbers.
            yield float(math.trunc(value))


def _annotations_in(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Return the XML files of a folder by the clips that they are of."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() == ".xml":
            found[one_spelling(path.stem)].append(path)
    return found


def _sample(clip: Clip, folder: Path, annotations: Mapping[str, Sequence[Path]]) -> Sample:
    files = annotations.get(one_spelling(clip.name), [])
    if not files:
        return Sample(clip, fault=f"no annotation {folder / clip.name}.xml")
    try:
        boxes, *others = map(read_boxes, files)
    except (OSError, ValueError) as error:
        return Sample(clip, fault=reason_of(error))
    for path, other in zip(files[1:], others, strict=True):
        if sorted(other) != sorted(boxes):
            return Sample(clip, fault=f"{path.name} has other boxes than {files[0].name}")
    return Sample(clip, boxes=boxes)


def flickr_samples(root: Path, clips: Sequence[str], annotations: Path) -> list[Sample]:
    """Return the clips of a list with their boxes; score them with `consensus=CONSENSUS`.

    Args:
        root: Folder with `frames` and `audio`, or with both kinds of files side by side.
        clips: Ids, as `flickr_test.csv` lists them.
        annotations: Folder of `ID.xml`.
    """
    files = _annotations_in(annotations)
    return [_sample(clip, annotations, files) for clip in clips_in(root, clips)]
