"""Reads VGG-Sound and VGG-SS in their published layout.

That is `frames/<id>.jpg` or `.png`, `audio/<id>.wav`, lists of ids and `vggss.json`.
A clip that cannot be read is reported with its name and left out; no other clip takes its place.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from avscenes.clips import ClipPairs, Skipped, check_files, clips_in
from avscenes.errors import UserError
from avscenes.reasons import reason_of
from avscenes.transforms import FNAC, Transform


class Annotation(NamedTuple):
    """What `vggss.json` says about one clip."""

    class_name: str
    boxes: list[list[float]]


def read_ids(option: str, path: Path) -> list[str]:
    """Read a list of clip ids, the first column of a text or CSV file; repeated ids count once.

    Raises:
        UserError: When the file cannot be read or holds no id.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            ids = [row[0].strip() for row in csv.reader(lines) if row and row[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{option}: cannot read {path}: {reason_of(error)}") from error
    if not ids:
        raise UserError(f"{option}: {path} holds no ids")
    return list(dict.fromkeys(ids))


def read_entry_list(path: Path, of_what: str) -> list[Any]:
    """Read annotations that are a JSON list, whatever its entries are.

    Raises:
        UserError: When the file cannot be read or holds no list.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--annotations: cannot read {path}: {reason_of(error)}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"--annotations: {path} must hold a list of {of_what}")
    return entries


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read `vggss.json`: a list of `{"file": id, "class": name, "bbox": [[x0, y0, x1, y1], ...]}`.

    Raises:
        UserError: When the file cannot be read or has another form.
    """
    annotations = {}
    for number, entry in enumerate(read_entry_list(path, "clips")):
        try:
            boxes = [[float(value) for value in box] for box in entry["bbox"]]
            whole = all(len(box) == 4 and all(map(math.isfinite, box)) for box in boxes)
            annotation = Annotation(str(entry["class"]), boxes)
            clip = str(entry["file"])
        except (KeyError, TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise UserError(
                f"--annotations: entry {number} of {path} is not of the form "
                '{"file": id, "class": name, "bbox": [[x0, y0, x1, y1], ...]}'
            )
        annotations[clip] = annotation
    return annotations


def check_layout(option: str, root: Path, folders: Sequence[str] = ("frames", "audio")) -> None:
    """Raise `UserError` unless `root` is a folder with these folders."""
    for folder in (root, *(root / name for name in folders)):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}")


class ClipDataset(ClipPairs):
    """Frames [3, 224, 224] and spectrograms [1, 257, 200] of clips that have been checked."""

    def __init__(
        self, root: Path, clips: Sequence[str], seed: int, transform: Transform = FNAC
    ) -> None:
        super().__init__(clips_in(root, clips), seed, transform)
        self.root = root


def check_clips(
    split: str, root: Path, clips: Iterable[str], workers: int, transform: Transform = FNAC
) -> list[Skipped]:
    """Decode every clip once and return those that cannot be used, in the order of the list."""
    return check_files(split, clips_in(root, clips), workers, transform)
