"""Lists and folders that every data set has in common, and what has to be in them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from avscenes.files.errors import UserError, reason_of
from avscenes.files.strict import JSON, Model, checked, read_file


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


def read_entry_list(path: Path, form: type[Model], of_what: str) -> list[Model]:
    """Read annotations that are a JSON list, and check the form of every entry.

    Raises:
        UserError: When the file cannot be read, or it or an entry has another form.
    """
    entries = read_file(path, JSON, "--annotations")
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
