"""What only a card can tell beside the loss benchmark; ``on_a_card.py`` runs all of it.

    python benchmarks/card_measurements.py facts                               print the versions
    python benchmarks/card_measurements.py first-step --output first_step.csv  compile all variants
    python benchmarks/card_measurements.py kernels --output kernels.csv        time of each kernel
    python benchmarks/card_measurements.py one-hot --output one_hot.csv        cuBLAS instead of K4
    python benchmarks/card_measurements.py l2 --output l2.csv                  bytes, needs ncu
    python benchmarks/card_measurements.py largest --output largest.csv        largest batches

Every command measures one dtype and precision, and ``NOTES.md`` says what we expect of it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from implementations import IMPLEMENTATIONS, build
from measuring import (
    DTYPES,
    Size,
    Step,
    environment,
    features,
    positions,
    positive,
    shown,
    write,
)
from on_cuda import versions
from torch.profiler import ProfilerActivity, profile

from avcontrast import ops

PACKAGES = ("triton", "pytest", "xdist", "hypothesis", "lightning", "matplotlib")
"""Which the steps on a card can use and a bare machine may lack."""

OTHER_TILE = (128, 128, 64, 8, 3)
"""Of the forward kernel in 16 bits, beside that of its table."""

PRODUCTS = ("maximum_kernel", "to_vectors_kernel", "to_maps_kernel")

ONE_HOT_IMAGES = 64
"""Whose factor with zeros is made at a time."""

COUNTERS = ("lts__t_bytes.sum", "lts__t_bytes.sum.per_second", "gpu__time_duration.sum")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--matmul-precision", choices=("highest", "high"), default="highest")
    parser.add_argument("--batch-size", type=positive, default=4096, metavar="B")
    parser.add_argument("--channels", type=positive, default=512, metavar="D")
    parser.add_argument("--positions", type=positions, default=(7, 7), metavar="HxW")
    parser.add_argument(
        "--implementations",
        choices=IMPLEMENTATIONS,
        nargs="+",
        default=["released", "triton", "blockwise", "triton-stream"],
        metavar="NAME",
        help="of which the largest batch is looked for",
    )
    parser.add_argument(
        "--largest", type=positive, default=2**18, metavar="B", help="batch that is tried"
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="that a step with the largest batch may take"
    )
    parser.add_argument("--unprofiled", action="store_true", help="kernels for another profiler")
    parser.add_argument("--output", type=Path, metavar="CSV")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and options.what != "facts" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the measurements and return the exit status."""
    options = parse(arguments)
    if options.what == "facts":
        print(json.dumps(facts()))
        return 0
    torch.set_float32_matmul_precision(options.matmul_precision)
    rows: list[Any] = []
    for row in MEASUREMENTS[options.what](options):
        rows.append(row)
        print(row)
        if options.output is not None:
            write(rows, options.output)
    if options.output is not None and rows:
        print(f"wrote {shown(options.output)}")
    return 0 if rows or options.unprofiled else 1


def facts() -> dict[str, Any]:
    """Return what the machine is, what it runs, and what it lacks."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    told: dict[str, Any] = environment(device, torch.get_num_threads()) | versions(device)
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        told |= {
            "capability": [card.major, card.minor],
            "multiprocessors": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "l2_bytes": card.L2_cache_size,
            "cards": torch.cuda.device_count(),
        }
    told["cores"] = os.cpu_count()
    told["compiler"] = ops.HAS_COMPILER
    told["lacks"] = [name for name in PACKAGES if find_spec(name) is None]
    return told


def size_of(options: argparse.Namespace, batch: int | None = None) -> Size:
    """Return the size of the command line, or that of another batch."""
    return Size(batch or options.batch_size, options.channels, *options.positions)


def step_of(name: str, size: Size, options: argparse.Namespace) -> Step:
    """Return the whole loss of an implementation with its inputs."""
    inputs = features(size, DTYPES[options.dtype], options.device)
    return Step(build(IMPLEMENTATIONS[name], "fnac"), *inputs)


def run(step: Step) -> None:
    """Run forward and backward."""
    step.backward(step.forward())


def seconds(call: Callable[[], object], device: str) -> float:
    """Return how long a call takes, with what it makes the device do."""
    wait(device)
    started = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - started


def wait(device: str) -> None:
    """Wait until the device has done everything."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """How long a step takes before and after its kernels are compiled."""

    dtype: str
    matmul_precision: str
    what: str
    batch: int
    seconds: float
    again_seconds: float
    variants: int  # of kernels that were compiled for it


def first_step(options: argparse.Namespace) -> Iterator[FirstStep]:
    """Yield the first step of a process with an empty cache, and that of a smaller last batch."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        compiled = 0
        for what, name, batch in (
            ("first", "triton", options.batch_size),
            ("smaller last batch", "triton", options.batch_size * 3 // 4 + 1),
            ("streaming", "triton-stream", options.batch_size),
        ):
            step = step_of(name, size_of(options, batch), options)
            took, again = (round(seconds(lambda: run(step), options.device), 4) for _ in range(2))  # noqa: B023
            variants = sum(1 for _ in Path(cache).rglob("*.cubin"))
            about = options.dtype, options.matmul_precision, what, batch
            yield FirstStep(*about, took, again, variants - compiled)
            compiled = variants


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a kernel takes in a step, all its launches together."""

    dtype: str
    matmul_precision: str
    batch: int
    channels: int
    positions: int
    tile: str  # of the forward kernel
    kernel: str
    launches: int
    milliseconds: float
    effective_teraflops: float  # of a product with all features; 0 where there is none


def kernels(options: argparse.Namespace) -> Iterator[Kernel]:
    """Yield what each kernel takes, in 16 bits with two tiles of the forward kernel."""
    from avcontrast.ops.triton import tiles

    tables = ["table"]
    if DTYPES[options.dtype].itemsize == 2:
        tables.append("x".join(map(str, OTHER_TILE[:3])))
    step = step_of("triton", size_of(options), options)
    about = options.dtype, options.matmul_precision, options.batch_size, options.channels
    places = options.positions[0] * options.positions[1]
    for tile in tables:
        if tile != "table":
            for table in tiles.TILES.values():
                table["maximum raw"] = (tiles.Tile(*OTHER_TILE),)
        run(step)
        wait(options.device)
        if options.unprofiled:
            run(step)
            wait(options.device)
            continue
        for name, launches, took in profiled(step, options.device):
            product = 2 * step.audio.numel() * step.visual.shape[0] * places
            speed = product / (took * 1e9) if name in PRODUCTS else 0.0
            yield Kernel(*about, places, tile, name, launches, round(took, 4), round(speed, 1))


def profiled(step: Step, device: str) -> Iterator[tuple[str, int, float]]:
    """Yield the kernels of a step, or on a CPU its operators, how often, and milliseconds."""
    on_cuda = device == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as trace:
        run(step)
        wait(device)
    for event in trace.key_averages():
        if on_cuda and event.self_device_time_total > 0:
            yield event.key, event.count, event.self_device_time_total / 1e3
        elif not on_cuda and event.key.startswith("avcontrast::"):
            yield event.key, event.count, event.cpu_time_total / 1e3


@dataclasses.dataclass(frozen=True)
class OneHot:
    """The time of one direction backward in cuBLAS."""

    batch: int
    channels: int
    positions: int
    images_at_once: int
    milliseconds: float


def one_hot(options: argparse.Namespace) -> Iterator[OneHot]:
    """Yield what it takes to write the factor that is zero elsewhere, and multiply it."""
    size = size_of(options)
    places = size.height * size.width
    device, dtype = options.device, torch.float16
    images = min(ONE_HOT_IMAGES, size.batch)
    factor = torch.zeros(images, places, size.batch, device=device, dtype=dtype)
    index = torch.randint(places, (images, 1, size.batch), device=device)
    grad = torch.randn(images, 1, size.batch, device=device, dtype=dtype)
    audio = torch.randn(size.batch, size.channels, device=device, dtype=dtype)

    def all_images() -> None:
        for _ in range(0, size.batch, images):
            factor.zero_().scatter_(1, index, grad).flatten(0, 1) @ audio

    all_images()
    took = sorted(seconds(all_images, device) for _ in range(9))[4]
    yield OneHot(size.batch, size.channels, places, images, round(1e3 * took, 4))


@dataclasses.dataclass(frozen=True)
class Counter:
    """What the counters of the card say of one launch."""

    kernel: str
    launch: int
    counter: str
    unit: str
    value: float


def l2(options: argparse.Namespace) -> Iterator[Counter]:
    """Yield what the L2 cache delivers to the forward kernel: of two runs each, with two tiles."""
    command = ["ncu", "--csv", "--clock-control", "none", "--kernel-name", "maximum_kernel"]
    command += ["--launch-count", "4", "--metrics", ",".join(COUNTERS)]
    command += [*sys.orig_argv[: sys.orig_argv.index("l2")], "kernels", "--unprofiled"]
    for name in ("device", "dtype", "batch_size", "channels"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--positions", "x".join(map(str, options.positions))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:])
        return
    yield from counters(done.stdout)


def counters(text: str) -> Iterator[Counter]:
    """Read what ncu prints: lines of its own, then a table."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    for row in csv.DictReader(lines[start:]) if start is not None else ():
        name, unit = row["Metric Name"], row["Metric Unit"]
        value = float(row["Metric Value"].replace(",", ""))
        yield Counter(row["Kernel Name"], int(row["ID"]), name, unit, value)


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch of an implementation."""

    dtype: str
    channels: int
    positions: int
    implementation: str
    batch: int
    seconds: float  # of a step with it
    peak_bytes: int
    ended_by: str  # what a larger one lacks: memory, time, or that it was tried


def largest(options: argparse.Namespace) -> Iterator[Largest]:
    """Yield the largest batch of each implementation, to an eighth of its size."""
    places = options.positions[0] * options.positions[1]
    for name in options.implementations:
        low, high, best, ended_by = 0, 0, (0.0, 0), "the largest tried"
        batch = options.batch_size
        while 0 < batch <= options.largest:
            ran = try_batch(name, batch, options)
            if ran is not None and ran[0] <= options.seconds:
                low, best = batch, ran
            else:
                high, ended_by = batch, "memory" if ran is None else "time"
            if high and high - low <= high // 8:
                break
            batch = (low + high) // 2 if high else 2 * low
        about = options.dtype, options.channels, places, name
        yield Largest(*about, low, round(best[0], 4), best[1], ended_by)


def try_batch(name: str, batch: int, options: argparse.Namespace) -> tuple[float, int] | None:
    """Return seconds and bytes of a step with a batch, or None if there is no memory for it."""
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = step_of(name, size_of(options, batch), options)
        took = seconds(lambda: run(step), options.device)
        if took > options.seconds:  # it may have been compiled in this time
            took = seconds(lambda: run(step), options.device)
    except torch.OutOfMemoryError:
        return None
    return took, torch.cuda.max_memory_allocated() if options.device == "cuda" else 0


MEASUREMENTS: dict[str, Callable[[argparse.Namespace], Iterator[Any]]] = {
    "facts": lambda options: iter(()),
    "first-step": first_step,
    "kernels": kernels,
    "one-hot": one_hot,
    "l2": l2,
    "largest": largest,
}


if __name__ == "__main__":
    sys.exit(main())
