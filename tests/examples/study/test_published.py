"""The plans were written before, and what is published is what their runs gave."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from avstudy import report, rows, runner, tables
from avstudy.effects import Stage
from avstudy.plan import DIGITS, ELIMINATION, FIELD, STUDY, Method, read_plan

ROOT = Path(__file__).parents[3]
EVIDENCE = ROOT / "docs" / "evidence"
DEVELOPMENT = ("calibration", "tuning", "levels")
PUBLISHED = {
    STUDY: EVIDENCE,
    ELIMINATION: EVIDENCE / "elimination",
    DIGITS: EVIDENCE / "digits",
    FIELD: EVIDENCE / "field",
}
by_plan = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)


@pytest.mark.parametrize("path", [STUDY, ELIMINATION, DIGITS], ids=lambda path: path.stem)
def test_development_and_evaluation_share_no_scene(path):
    runs = read_plan(path).runs
    development = [run for run in runs if run.stage in DEVELOPMENT]
    evaluation = [run for run in runs if run.stage in ("evaluation", "classes")]
    assert development
    assert not {run.seed for run in development} & {run.seed for run in evaluation}
    assert not {run.test_seed for run in development} & {run.test_seed for run in evaluation}


@by_plan
def test_every_evaluation_has_eight_seeds(path):
    evaluation = [run for run in read_plan(path).runs if run.stage == "evaluation"]
    for which in {(run.setting, run.method) for run in evaluation}:
        assert len({run.seed for run in evaluation if run[1:3] == which}) == 8, which


@by_plan
def test_rows_are_those_of_the_plan(path):
    plan = read_plan(path)
    with (PUBLISHED[path] / rows.RUNS).open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    described = [{k: str(v) for k, v in runner.described(run).items()} for run in plan.runs]
    # Fields that came later have no column, and those runs had the default.
    later = {name: str(value) for name, value in Method._field_defaults.items()}
    assert [{name: {**later, **row}[name] for name in described[0]} for row in found] == described


def test_the_frozen_settings_are_candidates_that_were_calibrated():
    plan = read_plan(STUDY)
    calibrated = [run for run in plan.runs if run.stage == "calibration"]
    assert {run.method for run in calibrated} == {"nce", "oracle"}
    assert set(plan.report["settings"].values()) <= {run.setting for run in calibrated}


@by_plan
def test_what_was_tuned_is_what_the_development_seeds_chose(path):
    plan, runs = read_plan(path), rows.read_rows(PUBLISHED[path] / rows.RUNS)
    stage = Stage(plan, runs[runs.stage == "tuning"])
    seeds = Counter(run[1:3] for run in plan.runs if run.stage == "tuning")
    for setting, tried in plan.report["tuning"].items():
        measures, trials = tables.split(tried)
        assert {len(names) for names in trials.values()} == {6}
        for kind, names in trials.items():
            for trial in names:
                assert len(stage.paired("seed", setting, trial)) == seeds[setting, trial] > 0
            best = tables.chosen_trial(stage, setting, measures, names)
            own = plan.tuned.get(setting, {})
            chosen = own[kind] if own else plan.methods[f"{setting}-{kind}-tuned"]
            assert chosen == plan.methods[best]


def test_oracles_of_elimination_are_the_tuned_loss_but_for_what_they_leave_out():
    plan = read_plan(ELIMINATION)
    for setting in plan.report["settings"].values():
        tuned = plan.method(setting, "nce")
        for name, ignore in (("oracle", "same-class"), ("shown", "shown")):
            assert plan.method(setting, name) == tuned._replace(ignore=ignore)


@pytest.mark.parametrize(
    "path",
    [
        STUDY,
        pytest.param(ELIMINATION, marks=pytest.mark.slow),
        DIGITS,
        pytest.param(FIELD, marks=pytest.mark.slow),
    ],
    ids=lambda path: path.stem,
)
def test_the_report_comes_byte_for_byte_from_its_rows(path, tmp_path):
    for name in (rows.RUNS, rows.CURVES, rows.MATRICES, rows.HEAT_MAPS, rows.LEFT_OUT):
        if (PUBLISHED[path] / name).is_file():
            shutil.copy(PUBLISHED[path] / name, tmp_path / name)
    written = report.write(read_plan(path), tmp_path)
    assert len(written) >= 15
    for one in written:
        assert one.read_bytes() == (PUBLISHED[path] / one.name).read_bytes(), one.name


@pytest.mark.parametrize(
    ("page", "at_least"),
    [("README.md", 4), ("docs/evidence.md", 8), ("docs/fnac_study.md", 8), ("docs/choose.md", 0)],
)
def test_every_interval_in_the_text_is_that_of_a_table(page, at_least):
    tabled = "".join(path.read_text() for path in EVIDENCE.rglob("*.md"))
    named = re.findall(r"[+-]\d+\.\d \[[^\]]+\]", (ROOT / page).read_text())
    assert len(named) >= at_least
    assert [one for one in named if one not in tabled] == []
