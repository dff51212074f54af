"""Lists and folders that every data set has in common, and what has to be in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from avscenes.files.errors import UserError, reason_of
from avscenes.files.strict import Model, checked, read_file
from avscenes.sets.ids import one_spelling


class Row(NamedTuple):
    """A line of a list, counted from 1, and its cells."""

    line: int
    cells: list[str]


def read_rows(option: str, path: Path) -> list[Row]:
    """Read the lines of a text or CSV file that are not empty.

    A quoted cell ends on its line: one with a stray quote would swallow the lines after it.

    Raises:
        UserError: When the file cannot be read, or a quote is wrong.
    """
    rows, number = [], 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                rows += [Row(number, cells) for cells in csv.reader([line], strict=True) if cells]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: cannot read {path}: {reason_of(error)}") from error
    except csv.Error as error:
        raise UserError(
            f"{option}: cannot read line {number} of {path}, where quoted cells must end on their "
            f"line, before a comma: {reason_of(error)}"
        ) from error
    return rows


def read_ids(option: str, path: Path) -> list[str]:
    """Read a list of clip ids, the first column of a text or CSV file.

    Repeated ids count once, however they are written.

    Raises:
        UserError: When the file cannot be read, holds no id, or repeats one with something else in
            its other columns, such as another class.
    """
    known: dict[str, Row] = {}
    for line, cells in read_rows(option, path):
        clip, *others = (cell.strip() for cell in cells)
        if not clip:
            continue
        first = known.setdefault(one_spelling(clip), Row(line, [clip, *others]))
        if any(a and b and a != b for a, b in zip(others, first.cells[1:], strict=False)):
            raise UserError(
                f"{option}: line {line} of {path} repeats {clip} of line {first.line} with "
                f"{','.join(others)!r} after it, not {','.join(first.cells[1:])!r}"
            )
    if not known:
        raise UserError(f"{option}: {path} holds no ids")
    return [row.cells[0] for row in known.values()]


def _entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a JSON file, in which no key may come twice with different values."""
    entry: dict[str, Any] = {}
    for key, value in pairs:
        if entry.setdefault(key, value) != value:
            raise ValueError(f"an entry has {key!r} twice")
    return entry


def read_entry_list(path: Path, form: type[Model], of_what: str) -> list[Model]:
    """Read annotations that are a JSON list, and check the form of every entry.

    Raises:
        UserError: When the file cannot be read, or it or an entry has another form.
    """
    entries = read_file(path, partial(json.loads, object_pairs_hook=_entry), "--annotations")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"--annotations: {path} must hold a list of {of_what}")
    return [
        checked(form, entry, f"--annotations: {path}: entry {number}")
        for number, entry in enumerate(entries)
    ]


def check_layout(option: str, root: Path, folders: Sequence[str] = ("frames", "audio")) -> None:
    """Raise `UserError` unless `root` is a folder with these folders."""
    for folder in (root, *(root / name for name in folders)):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}")
