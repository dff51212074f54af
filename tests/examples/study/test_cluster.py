"""The study as jobs of a cluster: submitit's local one, and Slurm where this machine has it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_json
from avstudy import cluster, rows, runner
from avstudy.plan import QUICK, read_plan

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "false_negative_study.py"
ONE_NODE = ROOT / "tests" / "slurm" / "one_node.sh"
HERE = cluster.Cluster("local", minutes=5, parallel=2, gigabytes=1)


def faults(function, inputs, folder, where=HERE):
    return dict(cluster.faults_of(function, inputs, where, folder, 1))


def test_jobs_have_the_environment_of_the_caller(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDY_FAULT", "what is wrong")
    names = ["STUDY_FAULT", "STUDY_FAULT_NONE", "PYTHONPATH_NONE"]
    assert faults(os.getenv, names, tmp_path) == {
        names[0]: "what is wrong",
        **dict.fromkeys(names[1:]),
    }


def test_a_job_that_ends_or_cannot_run_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.0)
    (fault,) = faults(signal.raise_signal, [signal.SIGKILL], tmp_path).values()
    assert "was stopped; see" in fault
    (fault,) = faults(int, ["word"], tmp_path).values()
    assert "could not run; see" in fault
    log = Path(fault.rpartition("see ")[2])
    assert "invalid literal for int()" in log.read_text()


def test_jobs_end_with_the_caller(tmp_path):
    jobs = cluster.faults_of(time.sleep, [0.0, 600.0], HERE, tmp_path, 1)
    assert next(jobs) == (0.0, None)
    began = time.monotonic()
    jobs.close()  # which waits for the end of what it cancels
    assert time.monotonic() - began < 60
    assert len([*tmp_path.glob("*_result.pkl")]) == 1


def test_a_job_that_comes_twice_runs_once(monkeypatch, tmp_path):
    run = read_plan(QUICK).runs[0]
    write_json(runner.result_path(tmp_path, run), {"run": runner.described(run)})
    monkeypatch.setattr(runner, "execute", lambda task: pytest.fail("it ran"))
    assert runner._finish(runner.Task(run, tmp_path, "")) is None


def test_what_is_not_installed_is_one_line(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(
            UserError, match=r'--cluster needs submitit: pip install "\.\[cluster\]"'
        ):
            faults(os.getenv, ["HOME"], tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"--cluster slurm: .*srun"):
        faults(os.getenv, ["HOME"], tmp_path, HERE._replace(kind="slurm"))


# ---- Slurm, which the tests start on this machine ----

needs_slurm = pytest.mark.skipif(
    shutil.which("sinfo") is None or shutil.which("munged") is None or os.geteuid() != 0,
    reason="needs slurm-wlm and munge, and to be root",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([ONE_NODE, "start", folder], check=True, timeout=60)
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([ONE_NODE, "stop", folder], check=True, timeout=60)
    for pid in folder.glob("*.pid"):
        assert not Path("/proc", pid.read_text().strip()).exists()


def study(output, slurm):
    arguments = ["--quick", "--stages", "calibration", "--cluster", "slurm"]
    limits = ["--cluster-parallel", "1", "--cluster-time", "5", "--cluster-memory", "1"]
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments, *limits, "--output-dir", output],
        env=slurm,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def queue(slurm, *options):
    command = ["squeue", "--noheader", "--format=%i", *options]
    return subprocess.run(command, env=slurm, capture_output=True, text=True).stdout.split()


def wait_for(what):
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("not in a minute")


@pytest.mark.slow
@needs_slurm
def test_a_job_that_slurm_killed_is_named_and_the_same_command_goes_on(slurm, tmp_path):
    first, *others = [run for run in read_plan(QUICK).runs if run.stage == "calibration"]
    process = study(tmp_path, slurm)
    (job,) = wait_for(lambda: queue(slurm, "--states=running"))
    subprocess.run(["scancel", job], env=slurm, check=True)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert f"failed: {first.name}: job {job} was stopped" in said
    assert f"1 of {1 + len(others)} runs failed; the same command runs them again" in said
    assert not runner.result_path(tmp_path, first).exists()
    there = {
        path: path.stat().st_mtime_ns
        for run in others
        if (path := runner.result_path(tmp_path, run))
    }

    process = study(tmp_path, slurm)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in there} == there
    done = rows.read_rows(tmp_path / rows.RUNS)
    assert list(done.method) == [run.method for run in (first, *others)]
    assert queue(slurm) == []


@pytest.mark.slow
@needs_slurm
def test_an_interrupted_command_leaves_no_job_behind(slurm, tmp_path):
    process = study(tmp_path, slurm)
    wait_for(lambda: queue(slurm, "--states=running"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from here" in said
    wait_for(lambda: not queue(slurm))


@pytest.mark.slow
@needs_slurm
def test_what_slurm_does_not_take_is_said(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    nowhere = HERE._replace(kind="slurm", partition="nowhere")
    with pytest.raises(UserError, match=r"--cluster slurm: .*invalid partition specified: nowhere"):
        faults(os.getenv, ["HOME", "PATH"], tmp_path, nowhere)
