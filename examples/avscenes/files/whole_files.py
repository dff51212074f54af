"""Writes files that are there as a whole or not at all, whenever the program is killed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def partial_path(path: Path) -> Path:
    """Return where a file is written before it is moved to its place."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which is then moved to its place; a failed one leaves nothing.

    Folders that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, leftover: str = "") -> Iterator[Path]:
    """Yield a folder that takes its place at the end, and is removed when something goes wrong.

    Args:
        path: Of the folder, which may be there if it is empty.
        leftover: What may lie in it all the same, of a run that was stopped.
    """
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.is_dir():
            if leftover:
                (path / leftover).unlink(missing_ok=True)
            path.rmdir()
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as a whole, folders that are missing included."""
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
