"""What is written into the output folder when a run starts."""

from __future__ import annotations

import platform
from pathlib import Path

import lightning
import torch

import avcontrast
from avscenes.files.whole_files import write_json, write_table
from avscenes.sets.clips import Skipped
from avscenes.training.settings import Settings


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
