"""What the benchmarks share: sizes, inputs, clocks, memory counters, and how results are shown."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import avcontrast

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parents[1]

MODES = ("forward", "backward", "both")

T = TypeVar("T")


class Size(NamedTuple):
    """The size of a batch: b pairs, d channels, h x w positions."""

    batch: int
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"b={self.batch} d={self.channels} {self.height}x{self.width}"

    @property
    def features(self) -> int:
        """The number of visual feature elements, N = b h w d."""
        return self.batch * self.channels * self.height * self.width

    def similarity_bytes(self, itemsize: int) -> int:
        """Return the size of the b x b x h x w similarity."""
        return self.batch**2 * self.height * self.width * itemsize

    @property
    def memory_budget(self) -> int:
        """The extra bytes that the library promises to stay within."""
        return 2 * self.features + 7 * self.batch**2 + 16 * 10**6


class Error(NamedTuple):
    """Distance from the definition in float64.

    Args:
        loss: relative.
        gradient: relative in the Euclidean norm, the worse of the two inputs.
    """

    loss: float
    gradient: float

    def within(self, limit: Error) -> bool:
        """Whether both are; NaN is not."""
        return self.loss <= limit.loss and self.gradient <= limit.gradient


# Gradients jump where rounding moves a maximum, a mask or a sign: a few of a million pairs.
TOLERANCES = {
    torch.float64: Error(1e-9, 1e-8),
    torch.float32: Error(1e-5, 1e-3),
    torch.bfloat16: Error(5e-3, 2e-2),
    torch.float16: Error(5e-3, 2e-2),
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}


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


def time_in_pairs(steps: Sequence[Step], threads: int, seconds: float) -> list[tuple[float, float]]:
    """Run two steps in turns for so long and return the milliseconds of both in each round.

    In both orders: a step leaves the caches and the heap to the next one. What a first run costs is
    not counted.
    """
    times: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        for step in steps:
            time_step(step, threads)
        started = time.monotonic()
        while len(times) < 2 or time.monotonic() - started < seconds:
            order = (0, 1) if len(times) % 2 else (1, 0)
            lap = {which: time_step(steps[which], threads)["both"].clock for which in order}
            times.append((lap[0], lap[1]))
    finally:
        gc.enable()
    return times


def _time_on_cuda(step: Step) -> dict[str, Lap]:
    flush_cache()
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


def flush_cache() -> None:
    """Overwrite the L2 cache, which would otherwise hold the inputs from the last run."""
    size = 2 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    torch.empty(size, dtype=torch.int8, device="cuda").zero_()


class Product(NamedTuple):
    """The one product that an exact loss cannot avoid: all positions with all sounds.

    Its result goes to the same memory again and again, as it may where only a maximum is kept.
    """

    rows: Tensor
    audio: Tensor
    out: Tensor

    def run(self) -> None:
        """Multiply everything once."""
        for part in torch.split(self.rows, len(self.out)):
            torch.mm(part, self.audio.T, out=self.out[: len(part)])


PRODUCT_BYTES = 64 * 2**20
"""Memory for the result of a part of the product."""


def product_of(step: Step) -> Product:
    """Return the product of the features of a step, as if their channels lay together."""
    audio = step.audio.detach()
    rows = step.visual.detach().reshape(-1, audio.shape[1])
    count = max(1, PRODUCT_BYTES // (len(audio) * rows.element_size()))
    return Product(rows, audio, rows.new_empty(min(count, len(rows)), len(audio)))


def time_product(product: Product, threads: int) -> Lap:
    """Run the product once and return what it took."""
    if product.rows.is_cuda:
        flush_cache()
        start, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        start.record()
        product.run()
        end.record()
        torch.cuda.synchronize()
        return Lap(start.elapsed_time(end), float("nan"))
    clock = time.process_time if threads == 1 else time.perf_counter
    began, began_wall = clock(), time.perf_counter()
    product.run()
    return Lap(1e3 * (clock() - began), 1e3 * (time.perf_counter() - began_wall))


def operator_calls(step: Step) -> dict[str, int]:
    """Return how often each pass calls an operator of PyTorch, also within another."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each trace prints lines of its own

    def count(call: Callable[[], T]) -> tuple[T, int]:
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            result = call()
        assert trace.profiler is not None
        names = (event.name() for event in trace.profiler.kineto_results.events())
        return result, sum(name.startswith("aten::") for name in names)

    loss, forward = count(step.forward)
    _, backward = count(lambda: step.backward(loss))
    return {"forward": forward, "backward": backward, "both": forward + backward}


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


def positive(text: str) -> int:
    """Read a positive integer of the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return number


def positions(text: str) -> tuple[int, int]:
    """Read the size of a feature map, as in 7x7."""
    height, separator, width = text.partition("x")
    if not (separator and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HxW, as in 7x7, got {text!r}")
    return positive(height), positive(width)


def chosen_sizes(default: list[Size], options: argparse.Namespace) -> list[Size]:
    """Return the sizes of the command line; what it leaves open is as in the default ones."""
    if not (options.batch_sizes or options.channels or options.positions):
        return default
    batches = options.batch_sizes or dict.fromkeys(size.batch for size in default)
    channels = options.channels or default[0].channels
    return [Size(b, channels, *(options.positions or default[0][2:])) for b in batches]


def environment(device: str, threads: int) -> dict[str, str | int]:
    """Return where and with what the numbers are made."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "device_name": device_name(device),
        "threads": threads,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "avcontrast": avcontrast.__version__,
    }


def features(
    size: Size, dtype: torch.dtype, device: str, *, vectors: bool = False
) -> tuple[Tensor, Tensor]:
    """Return seeded random features that require a gradient."""
    generator = torch.Generator(device).manual_seed(0)  # a CPU takes minutes for large batches
    shapes = (tuple(size[:2]) if vectors else tuple(size), tuple(size[:2]))
    visual, audio = (
        torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()
        for shape in shapes
    )
    return visual, audio


def distance(result: Iterable[Tensor], truth: Iterable[Tensor], left_out: int = 0) -> Error:
    """Return how far a loss and its gradients are from the exact ones.

    Args:
        result: loss and gradients.
        truth: the same, exact.
        left_out: so many samples of each gradient, those that are furthest off.
    """
    loss, *gradients = (
        _relative_distance(mine, exact, left_out if exact.ndim else 0)
        for mine, exact in zip(result, truth, strict=True)
    )
    return Error(loss, float(np.max(gradients)))  # a NaN stays one, unlike in max()


def _relative_distance(mine: Tensor, exact: Tensor, left_out: int) -> float:
    """Return the norm of the difference over that of ``exact``, in float64."""
    mine, exact = (tensor.reshape(1) if tensor.ndim == 0 else tensor for tensor in (mine, exact))
    apart, size = [], torch.zeros((), dtype=torch.float64, device=exact.device)
    # In parts: a copy of large features in float64 would take twice their memory.
    some = max(1, 2**26 // exact[0].numel())
    parts = (torch.split(tensor, some) for tensor in (mine, exact))
    for left, right in zip(*parts, strict=True):
        squares = (left.double() - right).square()
        apart.append(squares.reshape(len(left), -1).sum(1))
        size += right.double().square().sum()
    samples = torch.cat(apart)
    if left_out and not samples.isnan().any():
        samples = samples.sort().values[:-left_out]
    return float((samples.sum() / size).sqrt())


def aligned(lines: list[list[str]]) -> str:
    """Return a table in columns, text to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def write(rows: Sequence[DataclassInstance], path: Path) -> None:
    """Replace the file of results as a whole, so that it never holds half a run's lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [field.name for field in dataclasses.fields(rows[0])], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    os.replace(partial, path)


def shown(path: Path) -> Path:
    """Return a path as short as it can be said."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
