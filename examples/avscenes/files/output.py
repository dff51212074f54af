"""The place that results go to."""

from __future__ import annotations

import os
from pathlib import Path

from avscenes.files.errors import UserError


def check_free(
    option: str, path: Path, *, claim: str = "", advice: str = "name another place"
) -> None:
    """Raise `UserError` when there are results already, or nothing can be made there.

    Args:
        option: That names the place.
        path: Of the file or folder to be made.
        claim: The file that makes a folder a taken one; without, whatever lies in it does.
        advice: What to do when it is taken.
    """
    if claim:
        taken = (path / claim).exists()
    else:
        taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken:
        raise UserError(f"{option}: {path} holds results already; {advice}")
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"{option}: cannot make {path}: {nearest} is no writable folder")
