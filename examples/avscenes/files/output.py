"""The place that results go to: whether it is free, and whether it can hold them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avscenes.files.errors import UserError, reason_of

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def no_room(error: BaseException) -> bool:
    """Return whether a disk is full, over its quota or read-only: no other file will do better."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def writing_to(folder: Path, advice: str = "") -> Iterator[None]:
    """Raise `UserError` with the folder's name when its disk takes nothing more."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
            raise
        raise UserError(f"cannot write to {folder}: {reason_of(error)}{advice}") from error


def check_free(
    option: str,
    path: Path,
    *,
    claim: str = "",
    leftover: str = "",
    advice: str = "name another place",
) -> None:
    """Raise `UserError` when there are results already, or nothing can be made there.

    Args:
        option: That names the place.
        path: Of the file or folder to be made.
        claim: The file that makes a folder a taken one; without, whatever lies in it does.
        leftover: What may lie in it all the same, of a run that was stopped.
        advice: What to do when it is taken.
    """
    if claim:
        taken = (path / claim).exists()
    else:
        inside = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        taken = path.is_file() or bool(inside - {leftover})
    if taken:
        raise UserError(f"{option}: {path} holds results already; {advice}")
    check_writable(option, path)


def check_writable(option: str, path: Path) -> None:
    """Raise `UserError` when nothing can be made at a path."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"{option}: cannot make {path}: {nearest} is no writable folder")
