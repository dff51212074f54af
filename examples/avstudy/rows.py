"""The rows of a study: collected from the results of its runs, written and read as CSV files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_table
from avstudy.plan import Plan
from avstudy.runner import read_result

RUNS, CURVES, MATRICES = "runs.csv", "curves.csv", "matrices.csv"
KEY = ("stage", "setting", "method", "condition", "seed")

Row = dict[str, str]


def collect(plan: Plan, folder: Path) -> int:
    """Write the rows of all runs that have a result, in the order of the plan; return how many."""
    runs: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    matrices: list[dict[str, Any]] = []
    drawn = plan.report["matrices"]
    for run in plan.runs:
        result = read_result(folder, run)
        if result is None:
            continue
        key = {name: result["run"][name] for name in KEY}
        runs.append(
            {**result["run"], **_rounded(result["measures"]), **result["cost"], **result["made_by"]}
        )
        curves += [{**key, **_rounded(point)} for point in result["curve"]]
        if (run.stage, run.seed) == (drawn["stage"], drawn["seed"]):
            for place, values in enumerate(result["one_class"]):
                numbers = {f"sound_{column}": value for column, value in enumerate(values)}
                matrices.append({**key, "image": place, **numbers})
    for name, rows in ((RUNS, runs), (CURVES, curves), (MATRICES, matrices)):
        if rows:
            write_table(folder / name, list(rows[0]), rows)
    return len(runs)


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in numbers.items()}


class Table:
    """Rows of a CSV file, from which values are taken by stage, setting and method."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def chosen(self, **wanted: str) -> list[Row]:
        """Return the rows with the given entries."""
        return [row for row in self.rows if all(row[k] == v for k, v in wanted.items())]

    def by_seed(self, column: str, **wanted: str) -> dict[int, float]:
        """Return a column of the rows with the given entries, by seed."""
        return {int(row["seed"]): float(row[column]) for row in self.chosen(**wanted)}

    def paired(self, column: str, first: Row, second: Row) -> tuple[list[float], list[float]]:
        """Return a column of two choices of rows, for the seeds that both have."""
        one, other = self.by_seed(column, **first), self.by_seed(column, **second)
        seeds = sorted(one.keys() & other.keys())
        return [one[seed] for seed in seeds], [other[seed] for seed in seeds]


def read_table(path: Path) -> Table:
    """Read a CSV file.

    Raises:
        UserError: When there is none.
    """
    if not path.is_file():
        raise UserError(f"there is no {path}; run the study into this folder first")
    with path.open(newline="", encoding="utf-8") as file:
        return Table(list(csv.DictReader(file)))
