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
FIGURES = (figures.calibration, figures.classes)
# Of rows of single scenes, for each setting that has some.
EXAMPLES = {HEAT_MAPS: figures.heat_maps, LEFT_OUT: figures.left_out}


def write(plan: Plan, folder: Path) -> list[Path]:
    """Write tables and figures beside the CSV files and return their paths.

    Stages that have not been run are left out.

    Raises:
        UserError: When there are no rows, or the plan does not say what to report.
    """
    runs, curves = read_rows(folder / RUNS), read_rows(folder / CURVES)
    stages = {name: Stage(plan, rows) for name, rows in runs.groupby("stage")}
    texts: dict[str, str] = {}
    drawings: dict[str, Callable[[Path], None]] = {}
    try:
        for table in TABLES:
            if stage := stages.get(table.__name__):
                texts[table.__name__] = table(stage)
        for draw in FIGURES:
            if stage := stages.get(draw.__name__):
                drawings[draw.__name__] = partial(draw, stage=stage)
        if evaluation := stages.get("evaluation"):
            settings = plan.report["settings"]
            for name in ("primary", "gaps"):
                if asked := plan.report[name]:
                    texts[name] = tables.comparisons(evaluation, asked)
            for role, setting in settings.items():
                texts[f"results-{role}"] = tables.results(evaluation, setting)
            for name, columns in tables.FURTHER.items():
                texts[name] = tables.further(evaluation, columns)
            texts["costs"] = tables.costs(evaluation)
            over_time = Stage(plan, curves[curves.stage == "evaluation"])
            alike = Stage(plan, read_rows(folder / MATRICES))
            drawings["effects"] = partial(figures.effects, stage=evaluation)
            drawings["curves"] = partial(figures.curves, stage=over_time)
            drawings["matrices"] = partial(figures.matrices, stage=alike)
            if "left_out" in evaluation.rows:
                texts["left-out"] = tables.left_out(evaluation)
                drawings["left-out"] = partial(figures.left_out_over_time, stage=over_time)
            for name, draw_scenes in EXAMPLES.items():
                if (folder / name).is_file():
                    examples = Stage(plan, read_rows(folder / name))
                    for role, setting in settings.items():
                        if examples.methods(setting):
                            title = f"{Path(name).stem}-{role}".replace("_", "-")
                            drawings[title] = partial(draw_scenes, stage=examples, setting=setting)
        for name, text in texts.items():
            write_whole(folder / f"{name}.md", f"{text}\n".encode())
        for name, draw_it in drawings.items():
            draw_it(folder / f"{name}.png")
    except KeyError as error:
        raise UserError(f"the [report] of the plan says nothing of {error}") from error
    names = [*(f"{name}.md" for name in texts), *(f"{name}.png" for name in drawings)]
    return [folder / name for name in names]
