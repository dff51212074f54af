"""Runs a function over many inputs in processes of which any one may crash or hang.

A broken file can bring down the C library that decodes it. Here that costs the one input, which is
named, and not the run: a pool of the standard library would be broken as a whole.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

Input = TypeVar("Input")
_PATIENCE = 5.0


class Worker(NamedTuple):
    """A process and this end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


def _serve(pipe: Connection, function: Callable[[Any], str | None]) -> None:
    """Answer inputs until the other end is closed, be it by a parent that was killed."""
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            pipe.send(function(pipe.recv()))
    except (EOFError, OSError):
        return


def _start(function: Callable[[Any], str | None]) -> Worker:
    # A forked process would share locks and decoder threads with this one.
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def _stop(worker: Worker, patience: float = 0.0) -> None:
    worker.pipe.close()
    worker.process.join(patience)
    worker.process.kill()
    worker.process.join()


def _answer(worker: Worker) -> tuple[str | None, bool]:
    """Return the fault of the input that a worker had, and whether the worker still lives."""
    try:
        return worker.pipe.recv(), True
    except (EOFError, OSError):
        worker.process.join()
        return f"the process crashed (exit status {worker.process.exitcode})", False


def faults_of(
    function: Callable[[Input], str | None],
    inputs: Iterable[Input],
    count: int,
    limit: float,
) -> Generator[tuple[Input, str | None], None, None]:
    """Yield every input with what is wrong with it, or None, as soon as it is known.

    Args:
        function: Of a module's top level; returns the fault of an input, or None.
        inputs: What it is called with; handed out in order, answered in any.
        count: Number of processes.
        limit: Seconds after which a process is given up, and its input with it.
    """
    left = iter(inputs)
    busy: dict[Connection, tuple[Worker, Input, float]] = {}

    def give(worker: Worker | None) -> bool:
        """Hand the next input to a worker, or to a new one; return whether there was any."""
        for value in left:
            worker = worker or _start(function)
            worker.pipe.send(value)
            busy[worker.pipe] = worker, value, time.monotonic() + limit
            return True
        if worker is not None:
            _stop(worker)
        return False

    try:
        while len(busy) < count and give(None):
            pass
        while busy:
            soonest = min(deadline for _, _, deadline in busy.values())
            ready = wait(list(busy), max(0.0, soonest - time.monotonic()))
            for pipe, (worker, value, deadline) in list(busy.items()):
                if pipe in ready:
                    fault, alive = _answer(worker)
                elif time.monotonic() >= deadline:
                    fault, alive = f"not done after {limit:g} s", False
                else:
                    continue
                del busy[pipe]
                if not alive:
                    _stop(worker)
                give(worker if alive else None)
                yield value, fault
    finally:
        # Interrupted: what is being written is finished first.
        for worker, _, _ in busy.values():
            _stop(worker, _PATIENCE)
