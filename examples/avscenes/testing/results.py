"""What a test leaves: a table under the lines that say what it is of, figures, samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import avcontrast
from avcontrast import metrics
from avscenes.files.whole_files import write_json, write_table, write_whole
from avscenes.sets.clips import Skipped
from avscenes.sets.testsets import NamedTests
from avscenes.testing.figures import all_figures, counts, sample_rows
from avscenes.testing.run import Tested
from avscenes.testing.table import describe, table

LEFT_OUT = "left_out.csv"


def caption(tests: NamedTests, tested: Tested, model: Path | str, epoch: int = 0) -> str:
    """Return what the figures of a table belong to; an epoch of 0 is not known."""
    how, silent, lost = tested.how, int((~tested.visible).sum()), len(tested.skipped)
    at = f" (epoch {epoch})" if epoch else ""
    lines = [
        f"{model}{at}, {how.dataset}: {len(tested.rows)} pairs"
        + (f", {silent} of them silent" if tests.labelled.silent else "")
        + (f", {lost} left out" if lost else ""),
        describe(how.protocol) if tests.labelled.located else "no boxes: retrieval alone",
    ]
    if tested.objects is not None:
        lines.append(f"mix: {1 - how.object_share:g} model + {how.object_share:g} OGL")
    flat = int(metrics.flat_maps(tested.maps).sum())
    if flat:
        lines.append(
            f"{flat} of the {len(tested.maps)} maps of the model are flat and point nowhere: what "
            "they score is made of ties and rounding"
        )
    return "\n".join(lines)


def write_left_out(folder: Path, skipped: Sequence[Skipped]) -> Path:
    """Write down which samples have no scores, and why, and return where."""
    rows = [{"clip": entry.clip, "reason": entry.reason} for entry in skipped]
    write_table(folder / LEFT_OUT, ["clip", "reason"], rows)
    return folder / LEFT_OUT


def write_results(
    folder: Path, tests: NamedTests, tested: Tested, title: str, about: dict[str, Any]
) -> str:
    """Write `samples.csv`, `left_out.csv`, `table.txt` and, at last, `metrics.json`.

    Args:
        folder: Where to.
        tests: The test set.
        tested: What came out.
        title: Lines to stand above the table.
        about: What else is to be said of the figures in `metrics.json`.

    Returns:
        The table with its title.
    """
    how = tested.how
    figures = all_figures(tests, tested)
    text = f"{title}\n\n{table(figures, how.protocol)}"
    rows = sample_rows(tests, tested)
    write_table(folder / "samples.csv", list(rows[0]), rows)
    if tested.skipped:
        write_left_out(folder, tested.skipped)
    else:
        (folder / LEFT_OUT).unlink(missing_ok=True)  # of an earlier test
    write_whole(folder / "table.txt", f"{text}\n".encode())
    write_json(
        folder / "metrics.json",
        {
            **figures,
            **about,
            "dataset": how.dataset,
            "protocol": how.protocol,
            "object_share": None if tested.objects is None else how.object_share,
            **counts(tests, tested),
            "avcontrast": avcontrast.__version__,
            "torch": torch.__version__,
        },
    )
    return text
