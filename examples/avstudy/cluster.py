"""Runs a function over tasks as jobs of a cluster, one job each, by way of submitit."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from avscenes.files.errors import UserError, reason_of

if TYPE_CHECKING:
    from submitit import Executor, Job

Input = TypeVar("Input")
KINDS = ("slurm", "local")
_PAUSE = 2.0  # seconds between two looks at the queue
_PATIENCE = 15.0  # seconds in which a shared folder shows what another machine has written


class Cluster(NamedTuple):
    """Where jobs run, and what each may take."""

    kind: str  # of KINDS; local jobs are processes of this machine
    minutes: int
    parallel: int
    gigabytes: int
    partition: str | None = None


def faults_of(
    function: Callable[[Input], str | None],
    inputs: Sequence[Input],
    cluster: Cluster,
    folder: Path,
    threads: int,
) -> Generator[tuple[Input, str | None], None, None]:
    """Yield every input with what is wrong with it, or None, as soon as it is known.

    Jobs that are left when the caller stops are cancelled.

    Args:
        function: Of a module's top level, which every machine can import; returns the fault of an
            input, or None.
        inputs: What it is called with, each in a job of its own.
        cluster: Where it is called.
        folder: Shared by all machines; keeps what the jobs say.
        threads: Cores of each job.

    Raises:
        UserError: When the cluster takes no jobs.
    """
    executor = _executor(cluster, folder, threads)
    # Slurm is given all jobs and holds back some; submitit starts local ones at once.
    size = cluster.parallel if cluster.kind == "local" else len(inputs)
    for start in range(0, len(inputs), size):
        some = inputs[start : start + size]
        try:
            jobs = executor.map_array(function, some)
        except Exception as error:
            raise UserError(f"--cluster {cluster.kind}: {reason_of(error)}") from error
        yield from _watch(dict(zip(jobs, some, strict=True)), cluster.kind)


def _executor(cluster: Cluster, folder: Path, threads: int) -> Executor:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError(f'--cluster needs {error.name}: pip install ".[cluster]"') from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster.kind)
    except RuntimeError as error:
        raise UserError(f"--cluster {cluster.kind}: {reason_of(error)}") from error
    executor.update_parameters(
        name="false-negatives",
        timeout_min=cluster.minutes,
        mem_gb=cluster.gigabytes,
        cpus_per_task=threads,
        slurm_array_parallelism=cluster.parallel,
        slurm_partition=cluster.partition,
        slurm_signal_delay_s=30,  # before the end of the time, of which it is to take little
    )
    return executor


def _watch(
    left: dict[Job[str | None], Input], kind: str
) -> Generator[tuple[Input, str | None], None, None]:
    gone: dict[str, float] = {}
    try:
        while left:
            waiting = _waiting(left, kind)
            for job in [job for job in left if job.job_id not in waiting]:
                since = gone.setdefault(job.job_id, time.monotonic())
                if job.paths.result_pickle.exists():
                    yield left.pop(job), _fault(job)
                elif time.monotonic() - since >= _PATIENCE:
                    yield left.pop(job), f"job {job.job_id} was stopped{_log(job)}"
            if left:
                time.sleep(_PAUSE)
    finally:
        if kind == "slurm" and left:
            subprocess.run(["scancel", *(job.job_id for job in left)], check=False)
        elif kind == "local":
            for job in left:
                job.cancel(check=False)
            while _waiting(left, kind):
                time.sleep(0.1)


def _waiting(jobs: dict[Job[str | None], Input], kind: str) -> set[str]:
    """Return which jobs are in the queue or running.

    Slurm's queue is asked, since its accounting, which submitit asks, need not be there.
    """
    if kind == "local":
        return {job.job_id for job in jobs if not job.done()}
    arrays = ",".join({job.job_id.partition("_")[0] for job in jobs})
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={arrays}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return {job.job_id for job in jobs}  # no answer is no news
    return set(answer.stdout.split())


def _fault(job: Job[str | None]) -> str | None:
    if job.exception() is None:
        return job.result()
    return f"job {job.job_id} could not run{_log(job)}"


def _log(job: Job[str | None]) -> str:
    return f"; see {job.paths.stderr}" if job.paths.stderr.exists() else " before it began"
