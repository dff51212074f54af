"""The command that measures everything on a card: its limits, and a rehearsal without one."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import card_measurements
import card_report
import card_steps
import loss_benchmark
import on_a_card
import pytest
import torch
from card_measurements import Counter, Largest
from card_steps import ROOT, Step

FACTS = {
    **{"device_name": "A Card", "device": "cuda", "driver": "580.1", "cuda": "13.0"},
    **{"torch": "2.13.0", "triton": "3.7.1", "date": "2026-01-31", "capability": [9, 0]},
}
WRITES = "import sys; open(sys.argv[1], 'w').write('name,value\\na,{}\\n'); print('said')"


def code(text):
    return ("-c", text, "OUTPUT")


def run_all(steps, folder, seconds=60.0, rehearsal=True):
    record = on_a_card.begin(folder, rehearsal, FACTS)
    return on_a_card.run_all(steps, record, folder, time.monotonic() + seconds)


def kept(folder):
    return json.loads((folder / "card.json").read_text())


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_step_beyond_its_limit_is_ended_and_the_next_goes_on(tmp_path):
    """With all processes that it started; what it has written by then is kept."""
    lock = tmp_path / "lock"
    holds = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); "
    holds += "print('held', flush=True); time.sleep(600)"
    starts = "import subprocess, sys, time\n"
    starts += f"command = sys.executable, '-c', {holds!r}, {str(lock)!r}\n"
    starts += "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
    starts += f"child.stdout.readline()\n{WRITES.format(1)}\nsys.stdout.flush(); time.sleep(600)"
    steps = [
        Step("hangs", code(starts), 5, "table.csv"),
        Step("next", code(WRITES.format(2)), 55, "table.csv"),
    ]
    assert run_all(steps, tmp_path) == ["out of time", "done"]
    hangs, after = kept(tmp_path)["steps"]
    assert hangs["reason"] == "its results so far are kept"
    assert hangs["limit_s"] == pytest.approx(5, abs=0.2)
    assert hangs["said"] == after["said"] == ["said"]
    assert [(row["step"], row["value"]) for row in read(tmp_path / "table.csv")] == [
        ("hangs", "1"),
        ("next", "2"),
    ]
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which waits as long as anyone holds it


def test_results_are_there_after_each_step(tmp_path):
    """The second step reads what the first has left."""
    reads = f"import json; steps = json.load(open({str(tmp_path / 'card.json')!r}))['steps']; "
    reads += "assert [one['step'] for one in steps] == ['first']; raise SystemExit(3)"
    steps = [Step("first", code("pass"), 1), Step("second", code(reads), 1)]
    assert run_all(steps, tmp_path) == ["done", "failed"]
    assert kept(tmp_path)["steps"][1]["reason"] == "exit status 3"


def test_time_is_shared_and_what_one_step_leaves_goes_to_the_others():
    steps = [Step("a", (), 30), Step("b", (), 10), Step("c", (), 20), Step("if left", (), 0)]
    assert on_a_card.time_limit(120, steps[0], steps) == 60
    assert on_a_card.time_limit(117, steps[1], steps[1:]) == 39
    assert on_a_card.time_limit(5, steps[3], steps[3:]) == 5


def test_steps_without_their_packages_programs_or_time_are_skipped(tmp_path):
    steps = [
        Step("package", code("raise SystemExit(1)"), 1, needs=("torch", "no_such_package")),
        Step("program", code("raise SystemExit(1)"), 1, program="no-such-program"),
    ]
    assert run_all(steps, tmp_path) == ["skipped"] * 2
    late = [Step("late", code("raise SystemExit(1)"), 10), Step("last", code(""), 0)]
    assert run_all(late, tmp_path, seconds=-1) == ["skipped"] * 2
    assert [step["reason"] for step in kept(tmp_path)["steps"]] == [
        "without no_such_package",
        "without no-such-program",
        *["no time was left"] * 2,
    ]


def test_a_step_that_runs_again_replaces_its_results(tmp_path):
    def step(name, value):
        return Step(name, code(WRITES.format(value)), 1, "table.csv")

    run_all([step("one", 1), step("two", 2)], tmp_path)
    run_all([step("one", 3)], tmp_path)
    found = {row["step"]: row["value"] for row in read(tmp_path / "table.csv")}
    assert found == {"one": "3", "two": "2"}
    assert [one["step"] for one in kept(tmp_path)["steps"]] == ["two", "one"]


@pytest.mark.parametrize("change", [{"device_name": "Another"}, {"torch": "2.14"}])
def test_results_of_different_machines_are_not_mixed(change, tmp_path):
    on_a_card.begin(tmp_path, False, FACTS)
    with pytest.raises(SystemExit, match="holds the results of another card or of other versions"):
        on_a_card.begin(tmp_path, False, {**FACTS, **change})
    with pytest.raises(SystemExit, match="holds the results"):
        on_a_card.begin(tmp_path, True, FACTS)


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    interrupts = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"
    runs = f"""
import time, on_a_card
from pathlib import Path
from card_steps import Step
steps = [Step("one", ("-c", {WRITES.format(1)!r}, "OUTPUT"), 0, "table.csv"),
         Step("two", ("-c", {interrupts!r}), 0), Step("three", ("-c", ""), 0)]
folder = Path({str(tmp_path)!r})
record = on_a_card.begin(folder, True, {{}})
assert on_a_card.run_all(steps, record, folder, time.monotonic() + 600) == ["done", "interrupted"]
"""
    subprocess.run([sys.executable, "-c", runs], check=True, env=on_a_card.environment(True))
    assert [one["outcome"] for one in kept(tmp_path)["steps"]] == ["done", "interrupted"]
    assert len(read(tmp_path / "table.csv")) == 1


def test_outcomes_of_tests_that_are_killed_are_kept(tmp_path, monkeypatch):
    # As if nobody ran these tests side by side.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--an-option-of-another-run")
    (tmp_path / "test_some.py").write_text(
        "import os, pytest, signal\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 1 == 2, 'not equal'\n"
        "@pytest.mark.skip\ndef test_is_skipped(): pass\n"
        "def test_never_ends(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "test_broken.py").write_text("import no_such_package\n")
    arguments = ("-m", "pytest", "-q", "-p", "kept_outcomes", "-p", "no:cacheprovider")
    arguments += ("--rootdir", str(tmp_path), "--continue-on-collection-errors", str(tmp_path))
    assert run_all([Step("tests", arguments, 1)], tmp_path) == ["failed"]
    found = {one["test"].rpartition(":")[2]: one for one in kept(tmp_path)["tests"]}
    assert {name: one["outcome"] for name, one in found.items()} == {
        "test_broken.py": "failed",
        "test_passes": "passed",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
    }
    assert "no_such_package" in found["test_broken.py"]["said"]
    assert all(one["step"] == "tests" for one in found.values())


def test_the_command_itself_needs_the_standard_library_alone():
    command = [sys.executable, "-S", str(ROOT / "benchmarks" / "on_a_card.py"), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:3] == ["tests", "slow tests", "first step bf16"]


BARE = ("hypothesis", "lightning", "xdist", "matplotlib", "pydantic", "scipy", "torchmetrics")


def without_packages(text):
    hidden = f"import sys; sys.modules |= dict.fromkeys({BARE})\n"
    environment = {**on_a_card.environment(True), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", hidden + text]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_measurements_and_tests_run_on_a_bare_machine(monkeypatch):
    monkeypatch.setattr(card_steps, "find_spec", lambda name: None)
    tests, _ = card_steps.test_steps(rehearse=False)
    assert "-n" not in tests.command
    marked = [*tests.command[2:], "--collect-only"]
    marked[marked.index("gpu and not slow")] = ""  # without a card most have no mark
    done = without_packages(
        "import card_measurements, loss_benchmark, pytest\n"
        f"raise SystemExit(pytest.main({marked!r}))"
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in (
        "test_triton",
        "test_triton_use",
        "test_ops",
        "test_ignore",
        "test_cuda_benchmark",
    ):
        assert f"tests/{name}.py::" in done.stdout


def test_commands_for_a_card_can_be_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 10**9, 80 * 10**9))
    sizes = set()
    for step in card_steps.steps(rehearse=False):
        script, *arguments = step.command
        if script.endswith("loss_benchmark.py"):
            options = loss_benchmark.parse(arguments)
            assert options.device == "cuda"
            precision = options.matmul_precision if options.dtype == "float32" else options.dtype
            compiled = "released-compiled" in options.implementations
            sizes |= {(size.batch, precision, compiled) for size in options.sizes}
        elif script.endswith("card_measurements.py"):
            assert card_measurements.parse(arguments).device == "cuda"
        elif script != "-m":
            assert Path(script).is_file()
    for batch in (1024, 4096, 256, 16384):
        for precision in ("bfloat16", "high", "highest"):
            assert {(batch, precision, True), (batch, precision, False)} <= sizes
    assert (65536, "bfloat16", False) in sizes
    shares = sum(step.share for step in card_steps.steps(rehearse=False))
    assert 600 <= shares <= 60 * 1.1 * on_a_card.MINUTES


def test_every_file_with_tests_for_a_card_is_run():
    *_, files = (one.command for one in card_steps.test_steps(rehearse=False))
    for path in (ROOT / "tests").rglob("*.py"):
        marked = "mark." + "gpu" in path.read_text(encoding="utf-8")
        assert marked == (str(path) in files), path


def test_no_card_no_measurements(capsys, monkeypatch):
    monkeypatch.setattr(on_a_card, "read_facts", lambda rehearse: {"device": "cpu"})
    assert on_a_card.main([]) == 2
    assert capsys.readouterr().err == "no CUDA device is available; --rehearse does without\n"
    with pytest.raises(SystemExit):
        on_a_card.main(["--only", "los"])
    assert "--only: no step is called los; see --list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "seconds", "found"),
    [
        (5000, 0.0, (4864, "memory")),
        (300, 0.0, (288, "memory")),
        (10**9, 0.0, (8192, "the largest tried")),
        (10**9, 1e-6, (1000, "time")),
        (0, 0.0, (0, "memory")),
    ],
)
def test_largest_batch_is_found(limit, seconds, found, monkeypatch):
    def try_batch(name, batch, options):
        return None if batch > limit else (seconds * batch**2, 7 * batch)

    monkeypatch.setattr(card_measurements, "try_batch", try_batch)
    options = ["largest", "--device", "cpu", "--batch-size", "1024", "--largest", "8192"]
    options += ["--seconds", "1", "--implementations", "triton"]
    (row,) = card_measurements.largest(card_measurements.parse(options))
    batch, ended_by = found
    assert isinstance(row, Largest)
    assert row.ended_by == ended_by
    assert batch * 7 / 8 <= row.batch <= batch
    assert row.peak_bytes == 7 * row.batch


def test_what_ncu_prints_is_read():
    text = (
        "==PROF== Connected to process 12\n"
        '==PROF== Profiling "maximum_kernel" - 0: 0%....100% - 1 pass\n'
        '"ID","Process ID","Kernel Name","Section","Metric Name","Metric Unit","Metric Value"\n'
        '"0","12","maximum_kernel","Command line","lts__t_bytes.sum","byte","19,740,000,256"\n'
        '"1","12","maximum_kernel","Command line","gpu__time_duration.sum","ns","3,600,000.5"\n'
    )
    assert list(card_measurements.counters(text)) == [
        Counter("maximum_kernel", 0, "lts__t_bytes.sum", "byte", 19740000256.0),
        Counter("maximum_kernel", 1, "gpu__time_duration.sum", "ns", 3600000.5),
    ]
    assert list(card_measurements.counters("==ERROR== no permission\n")) == []


@pytest.mark.parametrize("rehearsal", [False, True])
@pytest.mark.parametrize("spoilt", ["", "failed", "killed"])
def test_only_a_whole_run_on_a_card_is_offered_for_the_list(rehearsal, spoilt, tmp_path):
    outcome = "failed" if spoilt == "failed" else "passed"
    record = {
        "rehearsal": rehearsal,
        "facts": FACTS,
        "tests": [
            {"step": "tests", "test": "a", "outcome": "passed", "seconds": 1, "said": ""},
            {"step": "slow tests", "test": "b", "outcome": outcome, "seconds": 1, "said": "why"},
        ],
        "steps": [
            {"step": "tests", "outcome": "done", "reason": "", "seconds": 1},
            {
                "step": "slow tests",
                "outcome": "out of time" if spoilt == "killed" else "done",
                "reason": "",
                "seconds": 1,
            },
        ],
    }
    text = "\n".join(card_report.sections(record, tmp_path, []))
    line = '`PassedRun((9, 0), "A Card", "2.13.0", "3.7.1", "580.1", "2026-01-31")`'
    assert (line in text) == (not rehearsal and not spoilt)
    assert ("- `b`: why" in text) == (spoilt == "failed")
    assert text.startswith("# A Card") != rehearsal
    assert (card_report.REHEARSAL in text) == rehearsal


REHEARSED = {
    "tests": "",
    "first step bf16": "first_step.csv",
    "loss 1024 bf16": "loss.csv",
    "compiled 4096 bf16": "loss.csv",
    "largest batch": "largest.csv",
    "loss 65536 bf16": "loss.csv",
    "kernels 4096 bf16": "kernels.csv",
    "one-hot products": "one_hot.csv",
    "L2 cache": "l2.csv",
    "graph 128 bf16": "loss.csv",
    "example": "example.csv",
}
"""One step of each kind, and what it leaves."""


@pytest.mark.slow
def test_rehearsal(tmp_path):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "ncu").write_text(
        "#!/bin/sh\n"
        'while [ "${1#-}" != "$1" ] || [ "${1%python*}" = "$1" ]; do shift; done\n'
        '"$@" >&2 || exit 1\n'
        'echo \'"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\'\n'
        'echo \'"0","maximum_kernel","lts__t_bytes.sum","byte","1,000"\'\n'
    )
    (bin_folder / "ncu").chmod(0o755)
    folder = tmp_path / "results"
    command = [sys.executable, str(ROOT / "benchmarks" / "on_a_card.py"), "--rehearse"]
    command += ["--output", str(folder), "--budget", "1000", "--only", *REHEARSED]
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    environment.pop("PYTEST_XDIST_WORKER", None)  # as if nobody ran these tests side by side
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    record = kept(folder)
    assert done.returncode == 0, record
    assert record["rehearsal"]
    assert [step["step"] for step in record["steps"]] == list(REHEARSED)
    assert {step["outcome"] for step in record["steps"]} == {"done"}
    assert {test["outcome"] for test in record["tests"]} == {"passed"}
    for step, file in REHEARSED.items():
        if file:
            assert step in {row["step"] for row in read(folder / file)}
    loss = read(folder / "loss.csv")
    assert {row["device"] for row in loss} == {"cpu"}
    assert {"released", "blockwise", "triton"} <= {row["implementation"] for row in loss}

    assert card_report.main([str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert text.startswith(f"# {card_report.REHEARSAL}\n")
    for title in ("Tests", "Time, forward", "Extra memory", "First steps", "Kernels", "Traffic"):
        assert f"\n## {title}" in text
    for name in ("time-bf16.svg", "memory-bf16.svg"):
        assert f"]({name})" in text
        assert card_report.REHEARSAL in (folder / name).read_text()  # as the comment of its text


def test_a_rehearsal_is_not_where_results_are():
    assert on_a_card.RESULTS not in on_a_card.default_folder(True, FACTS).parents
    assert on_a_card.default_folder(False, FACTS) == on_a_card.RESULTS / "card-a-card"
