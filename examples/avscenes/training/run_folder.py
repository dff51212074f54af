"""What is written into the output folder when a run starts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch

import avcontrast
from avscenes.files.whole_files import write_json, write_table
from avscenes.sets.clips import Skipped
from avscenes.sets.own import Split
from avscenes.training.own_clips import write_split
from avscenes.training.settings import Settings


def start_run(
    settings: Settings, output: Path, skipped: list[Skipped], split: Split | None = None
) -> None:
    """Write down clips and those left out, and then the settings, which claim the output folder.

    So a list that lies beside settings is that of their run, and not of one that was stopped.
    """
    if settings.dataset != "synthetic":
        write_skipped(output, skipped)
    if split is not None:
        write_split(output, split)
    stored = settings.model_dump(mode="json")
    versions = {
        "avcontrast": avcontrast.__version__,
        "lightning": lightning.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(output / "config.json", {"settings": stored, "versions": versions})


def write_skipped(output: Path, skipped: Sequence[Skipped]) -> Path:
    """Write down which clips cannot be used, and return where."""
    path = output / "skipped.csv"
    write_table(path, list(Skipped._fields), [entry._asdict() for entry in skipped])
    return path
