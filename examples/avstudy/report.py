"""Draws every table and figure of the study from its CSV files, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_whole
from avstudy import figures, tables
from avstudy.effects import Stage
from avstudy.plan import Plan
from avstudy.rows import CURVES, HEAT_MAPS, LEFT_OUT, MATRICES, RUNS, read_rows

# Of the stages of these names.
TABLES = (tables.calibration, tables.tuning, tables.levels, tables.classes, tables.repeats)


def write(plan: Plan, folder: Path) -> list[Path]:
    """Write tables and figures beside the CSV files and return their paths.

    Stages that have not been run are left out.

    Raises:
        UserError: When there are no rows, or the plan does not say what to report.
    """
    runs, curves = read_rows(folder / RUNS), read_rows(folder / CURVES)
    stages = {name: Stage(plan, rows) for name, rows in runs.groupby("stage")}
    found: dict[str, str] = {}
    drawings: list[tuple[str, Callable[[Path], None]]] = []
    try:
        for table in TABLES:
            if table.__name__ in stages:
                found[table.__name__] = table(stages[table.__name__])
        for draw in (figures.calibration, figures.classes):
            if draw.__name__ in stages:
                drawings.append((draw.__name__, partial(draw, stage=stages[draw.__name__])))
        if evaluation := stages.get("evaluation"):
            for name in ("primary", "gaps"):
                found[name] = tables.comparisons(evaluation, plan.report[name])
            for role, setting in plan.report["settings"].items():
                found[f"results-{role}"] = tables.results(evaluation, setting)
            for name, columns in tables.FURTHER.items():
                found[name] = tables.further(evaluation, columns)
            found["costs"] = tables.costs(evaluation)
            over_time = Stage(plan, curves[curves.stage == "evaluation"])
            alike = Stage(plan, read_rows(folder / MATRICES))
            drawings += [
                ("effects", partial(figures.effects, stage=evaluation)),
                ("curves", partial(figures.curves, stage=over_time)),
                ("matrices", partial(figures.matrices, stage=alike)),
            ]
            if "left_out" in evaluation.rows:
                found["left-out"] = tables.left_out(evaluation)
                draw_left_out = partial(figures.left_out_over_time, stage=over_time)
                drawings.append(("left-out", draw_left_out))
            for name, draw_scenes in (
                (HEAT_MAPS, figures.heat_maps),
                (LEFT_OUT, figures.left_out),
            ):
                if (folder / name).is_file():
                    examples = Stage(plan, read_rows(folder / name))
                    drawings += [
                        (
                            f"{name.removesuffix('.csv')}-{role}".replace("_", "-"),
                            partial(draw_scenes, stage=examples, setting=setting),
                        )
                        for role, setting in plan.report["settings"].items()
                        if examples.methods(setting)
                    ]
        for name, text in found.items():
            write_whole(folder / f"{name}.md", f"{text}\n".encode())
        for name, draw_it in drawings:
            draw_it(folder / f"{name}.png")
    except KeyError as error:
        raise UserError(f"the [report] of the plan says nothing of {error}") from error
    names = [*(f"{name}.md" for name in found), *(f"{name}.png" for name, _ in drawings)]
    return [folder / name for name in names]
