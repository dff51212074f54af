"""Writes files that are there as a whole or not at all, whenever the program is killed."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any


def partial_path(path: Path) -> Path:
    """Return where a file is written before it is moved to its place."""
    return path.with_name(f".{path.name}.partial")


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the place of the file, then move it there; a failed write leaves nothing.

    Folders that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a readable JSON file."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def write_table(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write a CSV file with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())
