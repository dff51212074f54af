"""Draws every table and figure of the study from its CSV files, and from nothing else."""

from __future__ import annotations

from pathlib import Path

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_whole
from avstudy import figures, tables
from avstudy.plan import Plan
from avstudy.rows import CURVES, MATRICES, RUNS, read_table


def write(plan: Plan, folder: Path) -> list[Path]:
    """Write tables and figures beside the CSV files and return their paths.

    Stages that have not been run are left out.

    Raises:
        UserError: When there are no rows, or the plan does not say what to report.
    """
    runs, curves = read_table(folder / RUNS), read_table(folder / CURVES)
    stages = {row["stage"] for row in runs.rows}
    written = []
    try:
        for name, table in tables.tables(plan, runs).items():
            written.append(folder / f"{name}.md")
            write_whole(written[-1], f"{table}\n".encode())
        drawings = []
        if "calibration" in stages:
            drawings.append((figures.calibration, runs))
        if "evaluation" in stages:
            drawings += [(figures.effects, runs), (figures.curves, curves)]
            drawings.append((figures.matrices, read_table(folder / MATRICES)))
        if "classes" in stages:
            drawings.append((figures.classes, runs))
        for draw, rows in drawings:
            written.append(folder / f"{draw.__name__}.png")
            draw(written[-1], plan, rows)
    except KeyError as error:
        raise UserError(f"the [report] of the plan says nothing of {error}") from error
    return written
