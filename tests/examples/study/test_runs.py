"""The study from its command line, its plan and its published results."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from false_negative_study import main

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_json
from avstudy import data, rows, runner
from avstudy.plan import (
    DIGITS,
    QUICK,
    QUICK_DIGITS,
    STUDY,
    DigitSetting,
    Method,
    Setting,
    read_plan,
)

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "false_negative_study.py"
PLAN = read_plan(QUICK)
FIRST, SECOND, *_ = PLAN.runs
COUNT = "must be a whole number of at least 1"


def study(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "quick"
    result = study("--quick", "--output-dir", output)
    assert result.returncode == 0, result.stderr
    return output, result


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_run_has_a_row_with_settings_scores_and_versions(finished):
    output, _ = finished
    found = read(output / "runs.csv")
    assert ["_".join(row[key] for key in rows.KEY) for row in found] == [
        run.name for run in PLAN.runs
    ]
    for run, row in zip(PLAN.runs, found):
        for name, value in {**run.data._asdict(), **run.loss._asdict()}.items():
            assert row[name] == str(value)
        for name in ("retrieval", "success_quarter", "same_minmax", "audio_adjacency_purity"):
            assert 0 <= float(row[name]) <= 1
        assert float(row["train_seconds"]) > 0
        assert float(row["loss_mb"]) > 0.01
        assert row["plan"] == PLAN.digest
        assert row["torch"]
    points = read(output / "curves.csv")
    assert {point["epoch"] for point in points} == {"1", "2"}
    assert len(points) == 2 * len(found)


@pytest.mark.slow
def test_every_table_and_figure_is_there(finished):
    output, result = finished
    assert result.stderr == ""
    said = {Path(line).name for line in result.stdout.splitlines() if line.startswith(str(output))}
    there = {path.name for path in output.iterdir() if path.suffix in (".md", ".png")}
    assert said == there
    assert {"effects.png", "matrices.png", "results-retrieval.md", "repeats.md"} <= there


@pytest.mark.slow
def test_a_finished_study_runs_nothing_again_and_draws_the_same(finished, tmp_path):
    output, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*.json")}
    content = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert study("--quick", "--output-dir", output).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in (rows.RUNS, rows.CURVES, rows.MATRICES, rows.HEAT_MAPS):
        shutil.copy(output / name, tmp_path / name)
    assert main(["--quick", "--report", "--output-dir", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_in_another_process(finished):
    repeats = {
        row["condition"]: row for row in read(finished[0] / "runs.csv") if row["stage"] == "repeats"
    }
    for name in ("retrieval", "success_quarter", "pointing", "same_cosine"):
        assert repeats["again"][name] == repeats["plain"][name]


def keep(folder, run, /, **result):
    """Write down what a run gave."""
    path = runner.result_path(folder, run)
    write_json(path, {"run": runner.described(run), **result})
    return path


def test_a_result_of_other_settings_is_not_taken(tmp_path, capsys):
    path = keep(tmp_path, FIRST._replace(loss=FIRST.loss._replace(temperature=0.5)))
    assert main(["--quick", "--output-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "was run with temperature 0.5, the plan says 0.03" in message
    assert json.loads(path.read_text())["run"]["temperature"] == 0.5


@pytest.mark.parametrize("content", ["", '{"run"', "{}", "[]"])
def test_a_torn_result_is_named(tmp_path, content):
    keep(tmp_path, FIRST).write_text(content)
    with pytest.raises(UserError, match=r"\.json is no whole result; remove the file"):
        runner.read_result(tmp_path, FIRST)


def test_a_torn_file_of_scenes_is_named(tmp_path):
    data.scenes(tmp_path, 0, "test", 4, FIRST.data)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1_000])
    with pytest.raises(UserError, match=f"^--output-dir: cannot read {path}: "):
        data.scenes(tmp_path, 0, "test", 4, FIRST.data)


def test_a_result_from_before_a_method_had_a_field_is_that_of_the_default(tmp_path):
    described = runner.described(FIRST)
    old = {k: v for k, v in described.items() if k not in Method._field_defaults}
    keep(tmp_path, FIRST, run=old)
    assert runner.read_result(tmp_path, FIRST) == {"run": described}
    other = FIRST._replace(loss=FIRST.loss._replace(elimination="both"))
    with pytest.raises(UserError, match="was run with elimination none, the plan says both"):
        runner.read_result(tmp_path, other)


def test_a_column_that_only_some_rows_have_is_empty_in_the_others(tmp_path):
    for run, more in zip(PLAN.runs, ({}, {"left_out": 0.125, "left_out_shown": None})):
        point = {"retrieval": 0.5, **more}
        curve, made_by = [{"epoch": 1, **point}], {"plan": PLAN.digest}
        keep(tmp_path, run, measures=point, curve=curve, cost={}, made_by=made_by)
    rows.collect(PLAN, tmp_path)
    for name in (rows.RUNS, rows.CURVES):
        found = [(row["left_out"], row["left_out_shown"]) for row in read(tmp_path / name)]
        assert found == [("", ""), ("0.125", "")]


def test_runs_that_fail_are_named_and_the_others_are_kept(tmp_path, capsys):
    broken = [
        run._replace(
            method=f"broken-{run.method}", loss=run.loss._replace(anchor=f"nobody-{run.method}")
        )
        for run in (FIRST, SECOND)
    ]
    says = r"2 of 3 runs failed; the same command runs them again; first .*broken.*anchor"
    with pytest.raises(UserError, match=says):
        runner.run_all([*broken, SECOND], tmp_path, 2, "")
    said = capsys.readouterr().err
    for run in broken:
        assert f"failed: {run.name}: ValueError: anchor" in said
        assert runner.read_result(tmp_path, run) is None
    assert runner.read_result(tmp_path, SECOND) is not None


def test_an_interrupted_study_keeps_what_it_has(monkeypatch, tmp_path, capsys):
    def interrupted(function, tasks, count, limit):
        yield tasks[0], function(tasks[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "faults_of", interrupted)
    try:
        assert main(["--quick", "--output-dir", str(tmp_path)]) == 130
    finally:
        torch.use_deterministic_algorithms(False)  # a run has a process of its own elsewhere
    assert "goes on from here" in capsys.readouterr().err
    assert [row["method"] for row in read(tmp_path / "runs.csv")] == [FIRST.method]
    assert runner.read_result(tmp_path, FIRST) is not None


def test_a_full_disk_ends_the_study_in_one_line(monkeypatch, tmp_path, capsys):
    def here(function, tasks, count, limit):
        return ((task, function(task)) for task in tasks)

    full = OSError(28, "No space left on device")
    monkeypatch.setattr(runner, "faults_of", here)
    monkeypatch.setattr(runner, "execute", lambda task: {})
    monkeypatch.setattr(runner, "write_json", mock.Mock(side_effect=full))
    assert main(["--quick", "--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"false_negative_study.py: error: cannot write to {tmp_path}: No space left on device; "
        "make room, and the same command goes on from here"
    )


def fault_of_plan(folder, old, new):
    """Return what is said of the quick plan with something else in one place."""
    path, text = folder / "plan.toml", QUICK.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_plan(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("warmup = 0.5", "warmups = 1", "methods.nce.warmups: unknown key"),
        ('[settings.other]\nlike = "tiny"', '[settings.other]\nlike = "a"', "there is no 'a'"),
        ('settings = ["tiny", "other"]', 'settings = ["tiny", "a"]', "there is no 'a'"),
        ("epochs = 2\n", "", "settings.tiny.epochs: is missing"),
        ("epochs = 2\n", 'epochs = "24"\n', f"settings.tiny.epochs: {COUNT}, got '24'"),
        ("seeds = [0]", "seeds = 0", "runs.0.seeds: must be a valid list, got 0"),
        ("seed = 2 }", "seeds = 2 }", "report.matrices.seeds: unknown key"),
        ("[report]", "[report", "cannot read "),
        (
            "tne_weight = 50.0",
            'contrast = "soft-targets"',
            "methods.light.fns_audio_weight: is of no use with contrast 'soft-targets', got 100.0",
        ),
        (
            'ignore = "same-class"',
            'ignore = "same-class"\ncontrast = "debiased"',
            "methods.oracle.ignore: is of no use with contrast 'debiased', got 'same-class'",
        ),
        ("[settings.tiny]", 'data = "words"\n[settings.tiny]', "must be 'scenes' or 'digits'"),
        (
            "[settings.tiny]",
            'data = "digits"\n[settings.tiny]',
            "settings.tiny.classes: unknown key",
        ),
    ],
)
def test_a_plan_that_is_wrong_is_one_line(tmp_path, old, new, message):
    assert message in fault_of_plan(tmp_path, old, new)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("temperature = inf", "temperature: must be a number above 0, got inf"),
        ('contrast = "biased"', "contrast: must be 'nce', 'debiased', 'soft-targets', 'lvs', "),
        ("class_prior = 1.0", "class_prior: must be at least 0 and below 1, got 1.0"),
        (
            'contrast = "debiased"\nelimination = "both"',
            "elimination: is of no use with contrast 'debiased', got 'both'",
        ),
        (
            'contrast = "lvs"\nignore = "random"',
            "ignore: is of no use with contrast 'lvs', got 'random'",
        ),
        ('contrast = "hardpos"\nneighbours = 0', f"neighbours: {COUNT}, got 0"),
    ],
)
def test_a_method_that_is_wrong_is_one_line(tmp_path, lines, message):
    assert f"methods.cool.{message}" in fault_of_plan(tmp_path, "temperature = 0.07", lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--quick --stages training", "--stages: no training; there are calibration, tuning"),
        ("--quick --jobs 0", f"--jobs: {COUNT}, got '0'"),
        ("--report", "there is no"),
        ("--quick --cluster local --cluster-time 0", f"--cluster-time: {COUNT}, got '0'\n"),
        ("--quick --cluster local --cluster-parallel 0", f"--cluster-parallel: {COUNT}, got '0'\n"),
        ("--quick --cluster local --cluster-memory 0", f"--cluster-memory: {COUNT}, got '0'\n"),
        ("--quick --data digits", "--data digits needs --recordings FOLDER"),
        ("--quick --recordings .", "--recordings is of no use without --data digits"),
        (
            "--quick --data digits --recordings no",
            "error: --recordings: there is no folder no/recordings\n",
        ),
        ("--quick --data words", "--data: must be 'scenes' or 'digits', got 'words'"),
        ("--quick --study elimination", "there is no --data scenes --study elimination --quick"),
        ("--data digits --study fnac", "there is no --data digits --study fnac"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, capsys, arguments, message):
    try:
        status = main([*arguments.split(), "--output-dir", str(tmp_path / "none")])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_without_pandas_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['pandas'] = None; from false_negative_study import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "--report", "--output-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=SCRIPT.parent,
    )
    assert result.returncode == 2
    assert result.stderr.endswith('error: the study needs pandas: pip install ".[study]"\n')
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "setting"), [(STUDY, Setting), (DIGITS, DigitSetting), (QUICK_DIGITS, DigitSetting)]
)
def test_every_setting_field_is_written_down(path, setting):
    assert all(f"\n{name} = " in path.read_text() for name in setting._fields)


def test_what_is_tuned_belongs_to_a_setting(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        QUICK.read_text().replace("[[runs]]", '[tuned.tiny.fnac]\nlike = "cool"\n\n[[runs]]', 1)
    )
    plan = read_plan(path)
    assert plan.method("tiny", "fnac") == plan.methods["cool"]
    assert plan.method("other", "fnac") == plan.methods["fnac"] == PLAN.methods["fnac"]
    losses = {(run.setting, run.loss) for run in plan.runs if run.method == "fnac"}
    assert ("tiny", plan.methods["cool"]) in losses
    assert ("tiny", plan.methods["fnac"]) not in losses
