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
HEAT_MAPS, LEFT_OUT = "heat_maps.csv", "left_out.csv"
KEY = ("stage", "setting", "method", "condition", "seed")


def collect(plan: Plan, folder: Path) -> None:
    """Write the rows of all runs that have a result, in the order of the plan."""
    names = (RUNS, CURVES, MATRICES, HEAT_MAPS, LEFT_OUT)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
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
            tables[MATRICES] += _numbered(key, "image", result["one_class"], "sound")
            # Results of the first study have neither.
            tables[HEAT_MAPS] += _numbered(key, "scene", result.get("heat_maps", []), "position")
            tables[LEFT_OUT] += [{**key, **pair} for pair in result.get("left_out", [])]
    for name, rows in tables.items():
        if rows:
            columns = list(dict.fromkeys(column for row in rows for column in row))
            write_table(folder / name, columns, rows)


def _numbered(
    key: dict[str, Any], line: str, matrix: list[list[float]], column: str
) -> list[dict[str, Any]]:
    return [
        {**key, line: place, **{f"{column}_{n}": value for n, value in enumerate(values)}}
        for place, values in enumerate(matrix)
    ]


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
