"""Runs trainings side by side, one process and one thread each, and keeps every result."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.output import no_room
from avscenes.files.whole_files import write_json
from avscenes.files.workers import faults_of
from avstudy import cluster, data, measures, training
from avstudy.plan import Method, Run
from avstudy.recordings import Recordings

# What is changed about the machine: threads, and environment variables of new processes.
CONDITIONS: dict[str, tuple[int, dict[str, str]]] = {
    "plain": (1, {}),
    "again": (1, {}),
    "two-threads": (2, {}),
    "avx2": (
        1,
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    ),
}
_READS = 6  # of the learning curve
_LIMIT = 3_600.0  # seconds that no run should take


class Task(NamedTuple):
    """A run, where its result goes, the version of the plan, and what digits are spoken by."""

    run: Run
    folder: Path
    digest: str
    recordings: Recordings | None = None


def result_path(folder: Path, run: Run) -> Path:
    """Return where the result of a run lies in an output folder."""
    return folder / "runs" / run.stage / f"{run.name}.json"


def read_result(
    folder: Path, run: Run, recordings: Recordings | None = None
) -> dict[str, Any] | None:
    """Return the result of a run, or None if it has not been run.

    What it does not say of its method, because there was no such thing then, is the default.

    Raises:
        UserError: When what is there was run with other settings or other recordings than these, or
            is not whole.
    """
    path = result_path(folder, run)
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = result["run"] = {**Method._field_defaults, **result["run"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no whole result; remove the file to run it again") from error
    asked = described(run)
    if recordings is not None:
        asked = {**asked, "recordings": recordings.digest}
        found = {**found, "recordings": result.get("made_by", {}).get("recordings")}
    for name, value in asked.items():
        if found.get(name) != value:
            says = "these are" if name == "recordings" else "the plan says"
            raise UserError(
                f"{path} was run with {name} {found.get(name)}, {says} {value}; "
                "name another --output-dir, or remove the file to run it again"
            )
    return result


def run_all(
    runs: Sequence[Run],
    folder: Path,
    jobs: int,
    digest: str,
    machines: cluster.Cluster | None = None,
    recordings: Recordings | None = None,
) -> None:
    """Run what has no result yet, several at a time, and write each result as soon as it is there.

    Args:
        runs: Of a plan.
        folder: For the results; all machines of a cluster have to share it.
        jobs: How many run side by side on this machine.
        digest: Version of the plan.
        machines: Where they run instead.
        recordings: For plans of digits.

    Raises:
        UserError: When a run fails; the others are finished first.
    """
    left = [run for run in runs if read_result(folder, run, recordings) is None]
    failures = []
    with tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", disable=None) as bar:
        for condition in dict.fromkeys(run.condition for run in left):
            threads, variables = CONDITIONS[condition]
            tasks = [
                Task(run, folder, digest, recordings) for run in left if run.condition == condition
            ]
            with _environment({**variables, "PYTHONPATH": _import_path()}):
                if machines is None:
                    done = faults_of(_finish, tasks, max(1, jobs // threads), _LIMIT)
                else:
                    done = cluster.faults_of(_finish, tasks, machines, folder / "jobs", threads)
                for task, fault in done:
                    bar.set_postfix_str(task.run.name)
                    bar.update()
                    if fault is not None:
                        failures.append(f"{task.run.name}: {fault}")
                        bar.write(f"failed: {failures[-1]}", file=sys.stderr)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs failed; the same command runs them again; "
            f"first {failures[0]}"
        )


def _import_path() -> str:
    """Return where a process on another machine finds these modules, and what the caller named."""
    return os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _finish(task: Task) -> str | None:
    try:
        # A cluster may start a job a second time.
        if read_result(task.folder, task.run, task.recordings) is None:
            write_json(result_path(task.folder, task.run), execute(task))
    except Exception as error:
        if no_room(error):
            raise
        # Whatever else it is, the other runs go on.
        return f"{type(error).__name__}: {error}"
    return None


def execute(task: Task) -> dict[str, Any]:
    """Train, measure, and return everything that is known about a run."""
    run, setting = task.run, task.run.data
    torch.set_num_threads(CONDITIONS[run.condition][0])
    torch.use_deterministic_algorithms(True)
    # What a condition changes, it changes of the warm start too.
    cache = task.folder / "cache" / run.condition
    scenes, test = data.sets_of(run, cache, task.recordings)
    encoders = training.build(run, cache)
    every = max(1, setting.epochs // _READS)
    curve, seconds, started = [], 0.0, time.process_time()
    for epoch in training.train(run, encoders, scenes):
        seconds += time.process_time() - started
        if epoch % every == 0 or epoch == setting.epochs:
            features = measures.encode(encoders, test)
            left_out = measures.elimination(run, encoders, scenes)
            curve.append({"epoch": epoch, **measures.main_measures(features, test), **left_out})
        started = time.process_time()
    features = measures.encode(encoders, test)
    return {
        "run": described(run),
        "measures": {
            **measures.all_measures(features, test),
            **measures.elimination(run, encoders, scenes),
            **measures.floored(run, encoders, scenes),
        },
        "curve": curve,
        "one_class": measures.one_class_matrix(features, test),
        "heat_maps": measures.heat_maps(features),
        "left_out": measures.examples_left_out(run, encoders, scenes),
        "cost": {
            "train_seconds": round(seconds, 2),
            "loss_mb": measures.loss_megabytes(run.loss, features, setting.batch_size),
        },
        "made_by": {
            "plan": task.digest,
            **({"recordings": task.recordings.digest} if task.recordings else {}),
            "avcontrast": avcontrast.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        },
    }


def described(run: Run) -> dict[str, Any]:
    """Return a run as flat entries."""
    names = ("stage", "setting", "method", "condition", "seed", "test_seed")
    return {
        **{name: getattr(run, name) for name in names},
        **run.data._asdict(),
        **run.loss._asdict(),
    }
