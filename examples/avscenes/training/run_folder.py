"""The output folder of a run: whether it is free, and what is written when the run starts."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import lightning
import torch

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_json, write_table
from avscenes.sets.clips import Skipped
from avscenes.training.settings import Settings


def check_output(settings: Settings, output: Path) -> None:
    """Raise `UserError` when the folder holds another run or cannot be made."""
    if not settings.resume and (output / "config.json").exists():
        raise UserError(
            f"--output-dir: {output} holds a run already; "
            "go on with it by --resume, or name another folder"
        )
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"--output-dir: cannot make {output}: {nearest} is no writable folder")


def start_run(settings: Settings, output: Path, skipped: list[Skipped]) -> None:
    """Write the settings down, which claims the output folder, and then the clips left out."""
    stored = settings.model_dump(mode="json")
    versions = {
        "avcontrast": avcontrast.__version__,
        "lightning": lightning.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(output / "config.json", {"settings": stored, "versions": versions})
    if settings.dataset != "synthetic":
        rows = [entry._asdict() for entry in skipped]
        write_table(output / "skipped.csv", ["split", "clip", "reason"], rows)
