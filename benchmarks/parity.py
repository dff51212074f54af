"""The gate of the benchmark: what an implementation computes, before how fast it does."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from implementations import (
    IMPLEMENTATIONS,
    LOSSES,
    VECTORS,
    Implementation,
    build,
    chosen_backend,
    needs_too_much,
    unsupported_reasons,
)
from measuring import DTYPES, TOLERANCES, Error, Size, Step, distance, features
from on_cuda import LARGEST_GRAPH_BATCH, WARM_UPS, Replay, capture, graph_bytes
from torch import Tensor

HIGH_PRECISION = Error(3e-4, 1e-2)
"""Tolerance of fp32 features where products may round to 10 bits."""

MOVED = 100
"""One of so many samples may be left out: where rounding moves its maximum, its gradient jumps."""

LARGEST_EXACT_BATCH = {"cuda": 8192}
"""Beyond it, by device, float64 takes too much time and memory, and the truth is in float32."""


class ParityError(Exception):
    """An implementation does not compute what the definition does."""


class Candidate(NamedTuple):
    """An implementation that passed the gate at a size.

    Args:
        name: of the implementation.
        backend: that runs.
        step: the loss with its inputs.
        error: of its loss and gradients.
        held: bytes that its own CUDA graphs hold beyond the gradients; None without such graphs.
        replay: the step as a CUDA graph, where one was asked for.
    """

    name: str
    backend: str
    step: Step
    error: Error
    held: int | None
    replay: Replay | None


class FirstRun(NamedTuple):
    """The loss and the gradients, what graphs that made them hold, and why there are none."""

    results: tuple[Tensor, ...] = ()
    held: int | None = None
    reasons: tuple[str, ...] = ()


def passing(size: Size, options: argparse.Namespace) -> Iterator[Candidate]:
    """Yield the implementations that can run, each compared with the definition.

    Raises:
        ParityError: if one of the library's computes something else.
    """
    if options.device == "cuda":
        torch.cuda.empty_cache()
    dtype = DTYPES[options.dtype]
    visual, audio = features(size, dtype, options.device, vectors=options.loss == VECTORS)
    limit = tolerance(dtype, options.matmul_precision)
    exact, truth = truth_of(size, visual, audio, options)
    worst = None
    torch.compiler.reset()  # else a second size is compiled for all sizes
    for name in options.implementations:
        implementation = IMPLEMENTATIONS[name]
        step = Step(build(implementation, options.loss), visual, audio)
        reasons = unsupported_reasons(implementation, size, visual, audio, options)
        first = FirstRun(reasons=tuple(reasons)) if reasons else first_run(step, implementation)
        if first.reasons:
            print(f"{name} does not run: {'; '.join(first.reasons)}")
            continue
        error = distance(first.results, truth)
        if implementation.ours:
            most = distance(first.results, truth, size.batch // MOVED)
            check(f"{name} at {size} differs from {exact}", most, limit)
            worst = Error(*map(max, worst or error, error))
        else:
            print(
                f"{name} differs from {exact}: loss by {error.loss:.2g}, gradients by "
                f"{error.gradient:.2g}; a baseline need not agree"
            )
        replay = replay_of(name, size, step, first.results, limit, options)
        backend = chosen_backend(implementation, visual, audio)
        yield Candidate(name, backend, step, error, first.held, replay)
    if worst is not None:
        print(
            f"parity with {exact}: loss within {worst.loss:.1e} of {limit.loss:.0e},"
            f" gradients within {worst.gradient:.1e} of {limit.gradient:.0e}"
        )


def tolerance(dtype: torch.dtype, matmul_precision: str) -> Error:
    """Return how far the library may be from the definition."""
    if dtype == torch.float32 and matmul_precision != "highest":
        return HIGH_PRECISION
    return TOLERANCES[dtype]


def check(what: str, error: Error, limit: Error) -> None:
    """Raise ParityError unless an error is within the limit."""
    if not error.within(limit):
        raise ParityError(
            f"{what}: loss by {error.loss:.2g} (allowed {limit.loss:.2g}), "
            f"gradients by {error.gradient:.2g} (allowed {limit.gradient:.2g})"
        )


def truth_of(
    size: Size, visual: Tensor, audio: Tensor, options: argparse.Namespace
) -> tuple[str, tuple[Tensor, ...]]:
    """Return the loss and the gradients to compare with, and what they were made by."""
    largest = LARGEST_EXACT_BATCH.get(options.device, size.batch)
    wide = size.batch <= largest or visual.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    backend = "dense"
    if not wide or needs_too_much("dense", size, dtype, options):
        backend = "blockwise"
    exact = Step(
        LOSSES[options.loss](backend=backend),
        *(tensor.detach().to(dtype).requires_grad_() for tensor in (visual, audio)),
    )
    asked = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return f"{backend} in {str(dtype).removeprefix('torch.')}", evaluate(exact)
    finally:
        torch.set_float32_matmul_precision(asked)


def first_run(step: Step, implementation: Implementation) -> FirstRun:
    """Return what an implementation computes, having it compiled and its graphs recorded."""
    try:
        if implementation.replays_graphs(step.visual.device.type):
            return first_replays(step)
        return FirstRun(evaluate(step))
    except torch.OutOfMemoryError as error:
        return FirstRun(reasons=(first_line(error),))
    except RuntimeError as error:
        if not implementation.compile_mode:
            raise
        return FirstRun(reasons=(f"could not be compiled: {first_line(error)}",))


def first_replays(step: Step) -> FirstRun:
    """Run until the compiler has recorded its CUDA graphs and return what these compute."""
    before = graph_bytes()
    for _ in range(WARM_UPS):
        evaluate(step)
    # The next replay writes to the same memory.
    results = tuple(result.clone() for result in evaluate(step))
    held = graph_bytes() - before - sum(gradient.nbytes for gradient in results[1:])
    return FirstRun(results, max(0, held))


def replay_of(
    name: str,
    size: Size,
    step: Step,
    results: tuple[Tensor, ...],
    limit: Error,
    options: argparse.Namespace,
) -> Replay | None:
    """Return a step as a CUDA graph that computes the same, if one is wanted and possible."""
    if not options.graph or size.batch > LARGEST_GRAPH_BATCH:
        return None
    if IMPLEMENTATIONS[name].replays_graphs(options.device):
        print(f"{name} makes CUDA graphs of its own")
        return None
    try:
        replay = capture(step)
    except RuntimeError as error:
        print(f"{name} does not run as a CUDA graph: {first_line(error)}")
        return None
    replay.graph.replay()
    check(
        f"{name} at {size} as a CUDA graph differs from itself",
        distance(replay.results, [result.double() for result in results]),
        limit,
    )
    return replay


def evaluate(step: Step) -> tuple[Tensor, ...]:
    """Return the loss and the gradients."""
    with ignored_compiler_warnings():
        loss = step.forward()
        return loss.detach(), *step.backward(loss)


@contextmanager
def ignored_compiler_warnings() -> Iterator[None]:
    """Silence what torch's compiler says about torch's own code."""
    with warnings.catch_warnings():
        for category in (FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=r"torch\._inductor")
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        yield


def first_line(error: Exception) -> str:
    """Return the beginning of a message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
