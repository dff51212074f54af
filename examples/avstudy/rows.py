"""The rows of a study: collected from the results of its runs, written and read as CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_table
from avstudy.plan import Plan
from avstudy.runner import read_result

RUNS, CURVES, MATRICES = "runs.csv", "curves.csv", "matrices.csv"
KEY = ("stage", "setting", "method", "condition", "seed")


def collect(plan: Plan, folder: Path) -> None:
    """Write the rows of all runs that have a result, in the order of the plan."""
    tables: dict[str, list[dict[str, Any]]] = {RUNS: [], CURVES: [], MATRICES: []}
    drawn = plan.report["matrices"]
    for run in plan.runs:
        result = read_result(folder, run)
        if result is None:
            continue
        key = {name: result["run"][name] for name in KEY}
        tables[RUNS].append(
            {**result["run"], **_rounded(result["measures"]), **result["cost"], **result["made_by"]}
        )
        tables[CURVES] += [{**key, **_rounded(point)} for point in result["curve"]]
        if (run.stage, run.seed) == (drawn["stage"], drawn["seed"]):
            for place, values in enumerate(result["one_class"]):
                numbers = {f"sound_{column}": value for column, value in enumerate(values)}
                tables[MATRICES].append({**key, "image": place, **numbers})
    for name, rows in tables.items():
        if rows:
            columns = list(dict.fromkeys(column for row in rows for column in row))
            write_table(folder / name, columns, rows)


def _rounded(numbers: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 6) for name, value in numbers.items()}


def read_rows(path: Path) -> pd.DataFrame:
    """Read a CSV file.

    Raises:
        UserError: When there is none.
    """
    if not path.is_file():
        raise UserError(f"there is no {path}; run the study into this folder first")
    return pd.read_csv(path)
