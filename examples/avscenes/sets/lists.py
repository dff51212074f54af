"""Lists and folders that every data set has in common, and what has to be in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avscenes.files.errors import UserError, reason_of


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


def check_layout(option: str, root: Path, folders: Sequence[str] = ("frames", "audio")) -> None:
    """Raise `UserError` unless `root` is a folder with these folders."""
    for folder in (root, *(root / name for name in folders)):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}")
