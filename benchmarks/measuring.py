"""Clocks and memory counters for one evaluation of a loss and its gradients."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MODES = ("forward", "backward", "both")

T = TypeVar("T")


class Step(NamedTuple):
    """A loss with its inputs; under autocast where these are 16-bit."""

    criterion: Callable[[Tensor, Tensor], Tensor]
    visual: Tensor
    audio: Tensor

    def forward(self) -> Tensor:
        """Return the loss."""
        dtype, device = self.visual.dtype, self.visual.device.type
        context: AbstractContextManager[object] = nullcontext()
        if dtype in (torch.bfloat16, torch.float16):
            context = torch.autocast(device, dtype=dtype)
        with context:
            return self.criterion(self.visual, self.audio)

    def backward(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of both inputs."""
        return torch.autograd.grad(loss, (self.visual, self.audio))


class Lap(NamedTuple):
    """Milliseconds of one pass.

    Args:
        clock: on the clock that :func:`clock_name` names.
        wall: on the wall clock; NaN where reading it would make the device wait.
    """

    clock: float
    wall: float


def clock_name(device: str, threads: int) -> str:
    """Return which clock is compared: the one that other work on the machine disturbs least."""
    if device == "cuda":
        return "cuda events"
    return "process" if threads == 1 else "wall"


def device_name(device: str) -> str:
    """Return the model of the processor that does the work."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def time_step(step: Step, threads: int) -> dict[str, Lap]:
    """Run forward and backward once and return what each took."""
    if step.visual.is_cuda:
        return _time_on_cuda(step)
    clock = time.process_time if threads == 1 else time.perf_counter
    marks = [(clock(), time.perf_counter())]
    loss = step.forward()
    marks.append((clock(), time.perf_counter()))
    gradients = step.backward(loss)
    marks.append((clock(), time.perf_counter()))
    del gradients  # only now, so that giving memory back is not timed
    spans = zip(MODES, (0, 1, 0), (1, 2, 2), strict=True)
    return {
        mode: Lap(*(1e3 * (b - a) for a, b in zip(marks[start], marks[end], strict=True)))
        for mode, start, end in spans
    }


def _time_on_cuda(step: Step) -> dict[str, Lap]:
    _flush_cache()
    start, middle, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(3)
    )
    torch.cuda.synchronize()
    began = time.perf_counter()
    start.record()
    loss = step.forward()
    middle.record()
    gradients = step.backward(loss)
    end.record()
    torch.cuda.synchronize()
    wall = 1e3 * (time.perf_counter() - began)
    del gradients
    return {
        "forward": Lap(start.elapsed_time(middle), float("nan")),
        "backward": Lap(middle.elapsed_time(end), float("nan")),
        "both": Lap(start.elapsed_time(end), wall),
    }


def _flush_cache() -> None:
    """Overwrite the L2 cache, which would otherwise hold the inputs from the last run."""
    size = 2 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    torch.empty(size, dtype=torch.int8, device="cuda").zero_()


def extra_bytes(step: Step) -> dict[str, int]:
    """Return the peak of each pass minus what was there, beyond the gradients of the inputs.

    What the forward pass keeps counts in the backward pass too.
    """
    trace = _trace_on_cuda if step.visual.is_cuda else _trace_on_cpu
    loss, forward, kept = trace(step.forward)
    gradients, backward, _ = trace(lambda: step.backward(loss))
    backward += kept - sum(gradient.nbytes for gradient in gradients)
    return {"forward": forward, "backward": backward, "both": max(forward, backward)}


def _trace_on_cpu(call: Callable[[], T]) -> tuple[T, int, int]:
    """Return the result of ``call``, the peak of what it allocates and what of it remains.

    Exact: every allocation is recorded, not the process's memory sampled.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each trace prints lines of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        result = call()
    assert trace.profiler is not None
    events = trace.profiler.kineto_results.events()
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return result, peak, live


def _trace_on_cuda(call: Callable[[], T]) -> tuple[T, int, int]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return result, peak, torch.cuda.memory_allocated() - before
