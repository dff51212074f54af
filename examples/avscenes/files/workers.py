"""Runs a function over many inputs in processes of which any one may crash or hang.

A broken file can bring down the C library that decodes it. Here that costs the one input, which is
named, and not the run: a pool of the standard library would be broken as a whole.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import TypeVar

from pebble import ProcessExpired, ProcessPool

from avscenes.files.errors import UserError

Input = TypeVar("Input")
_PATIENCE = 5.0

_BREAKS = 3
"""So many pools in a row that break without an answer are enough. One may: a process that crashes
at once can be gone before the pool has heard which input it took."""


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back here, and for good from the processes that start meanwhile.

    It reaches every process of a terminal, and the parent alone decides what it means. Those of
    pebble ignore it too, but only once they have imported what they need. A parent that it stops
    while it starts one would leave that one without what it is to read.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _interrupts_put_off():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Let Ctrl-C wait until the end, also one that another thread takes, whose mask is its own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)


def _fault(answer: Future[str | None], limit: float) -> str | None:
    try:
        return answer.result()
    except ProcessExpired as error:
        return f"the process crashed (exit status {error.exitcode})"
    except TimeoutError:
        return f"not done after {limit:g} s"


def faults_of(
    function: Callable[[Input], str | None],
    inputs: Iterable[Input],
    count: int,
    limit: float,
) -> Generator[tuple[Input, str | None], None, None]:
    """Yield every input with what is wrong with it, or None, as soon as it is known.

    Args:
        function: Of a module's top level; returns the fault of an input, or None. What it raises
            ends the run.
        inputs: What it is called with; handed out in order, answered in any.
        count: Number of processes, and of inputs that are handed out at a time.
        limit: Seconds after which a process is given up, and its input with it.

    Raises:
        UserError: When the processes end again and again before they are given an input.
    """
    left = iter(inputs)
    pool = _new_pool(count)
    busy: dict[Future[str | None], Input] = {}
    again: list[Input] = []
    breaks = 0
    try:
        while True:
            for value in islice(chain(again, left), count - len(busy)):
                busy[_handed_out(pool, function, value, limit)] = value
            again = []
            if not busy:
                return
            broke = False
            for done in wait(busy, return_when=FIRST_COMPLETED).done:
                if isinstance(done.exception(), BrokenProcessPool):
                    broke = True
                else:
                    breaks = 0
                    yield busy.pop(done), _fault(done, limit)
            if broke:
                breaks += 1
                if breaks == _BREAKS:
                    raise UserError("the processes end without taking work, as if they were killed")
                again, busy = list(busy.values()), {}
                _end(pool)
                pool = _new_pool(count)
    finally:
        try:
            # Interrupted: what is being written is finished first.
            wait(busy, _PATIENCE)
        finally:
            _end(pool)


def _new_pool(count: int) -> ProcessPool:
    # A forked process would share locks and decoder threads with this one.
    return ProcessPool(count, context=multiprocessing.get_context("spawn"))


def _handed_out(
    pool: ProcessPool, function: Callable[[Input], str | None], value: Input, limit: float
) -> Future[str | None]:
    try:
        with _interrupts_held():
            return pool.schedule(function, (value,), timeout=limit)
    except RuntimeError as error:  # it broke since it was looked at
        broken: Future[str | None] = Future()
        broken.set_exception(BrokenProcessPool(str(error)))
        return broken


def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
