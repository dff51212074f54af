"""Time and extra memory of the losses against the plain PyTorch form and its compiled form.

    python benchmarks/loss_benchmark.py            measure; docs and README quote these results
    python benchmarks/loss_benchmark.py --plot     draw the pictures from the results
    python benchmarks/loss_benchmark.py --smoke    tiny sizes, a few seconds

At each size every implementation must first give the loss and the gradients of the definition in
float64; otherwise the discrepancy is printed, the exit status is 1 and no speed is reported. Then
the implementations take turns, so that whatever else the machine does hits all of them. Extra
memory is the peak of a pass minus what was there, beyond the gradients of the inputs. The budget
is what the library promises to stay within: 2N + 7b^2 + 16 MB for N = b h w d.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import (
    DTYPES,
    MODES,
    ROOT,
    TOLERANCES,
    Error,
    Lap,
    Size,
    Step,
    aligned,
    chosen_sizes,
    clock_name,
    distance,
    environment,
    extra_bytes,
    features,
    positions,
    positive,
    shown,
    time_step,
    write,
)
from torch import Tensor

from avcontrast import FNACLoss, InfoNCE, ops

LOSSES: dict[str, type[FNACLoss] | type[InfoNCE]] = {"fnac": FNACLoss, "nce": InfoNCE}


class Implementation(NamedTuple):
    """A way to compute a loss: one of the library's backends, compiled by PyTorch or not."""

    backend: str
    compiled: bool = False


IMPLEMENTATIONS = {
    "dense": Implementation("dense"),
    "dense-compiled": Implementation("dense", compiled=True),
    "blockwise": Implementation("blockwise"),
    "triton": Implementation("triton"),
    "auto": Implementation("auto"),
}
BASELINES = ("dense", "dense-compiled")


CHANNELS, POSITIONS = 512, (7, 7)
SIZES = {
    "cpu": [
        *(Size(b, CHANNELS, *POSITIONS) for b in (32, 64, 128, 256, 512, 1024)),
        Size(1024, 256, *POSITIONS),
    ],
    "cuda": [Size(b, CHANNELS, *POSITIONS) for b in (256, 512, 1024, 2048, 4096, 8192)],
}
SMOKE_SIZES = [Size(6, 8, 3, 3), Size(12, 8, 3, 3)]

DENSE_COPIES = 3
"""Similarity tensors that ``dense`` may hold at its peak, rounded up."""

MEMORY_LIMIT_GB = 8.0
"""Memory on a CPU that an implementation may need, unless the command line says otherwise."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results: what one pass of one implementation took at one size."""

    date: str
    device: str
    device_name: str
    threads: int
    python: str
    torch: str
    avcontrast: str
    loss: str
    dtype: str
    batch: int
    channels: int
    height: int
    width: int
    implementation: str
    backend: str
    mode: str
    rounds: int
    clock: str
    p20_ms: float
    median_ms: float
    p80_ms: float
    wall_median_ms: float
    extra_bytes: int
    budget_bytes: int
    loss_error: float
    gradient_error: float


class ParityError(Exception):
    """An implementation does not compute what the definition does."""


class Candidate(NamedTuple):
    """An implementation that passed the gate at a size."""

    name: str
    backend: str
    step: Step
    error: Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse(arguments)
    if options.plot:
        from plotting import draw

        try:
            paths = draw(options.output, options.images)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        for path in paths:
            print(f"wrote {shown(path)}")
        return 0

    torch.set_num_threads(options.threads)
    about = environment(options.device, options.threads)
    for name, value in about.items():
        print(f"{name.replace('_', ' '):<12} {value}")
    rows: list[Row] = []
    for size in options.sizes:
        print(f"\n{size}, {options.loss} loss, {options.dtype}")
        try:
            measured = measure(size, options, about)
        except ParityError as error:
            print(f"parity failed: {error}\nno speed is reported for this size", file=sys.stderr)
            return 1
        if measured:
            print(table(measured))
            rows += measured
            write(rows, options.output)
    if not rows:
        print("no implementation could run", file=sys.stderr)
        return 1
    print(f"\nwrote {shown(options.output)}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, complete with the sizes to run and the file of results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=positive, nargs="+", metavar="B")
    parser.add_argument("--channels", type=positive, metavar="D", help=f"default {CHANNELS}")
    parser.add_argument("--positions", type=positions, metavar="HxW", help="default 7x7")
    parser.add_argument(
        "--repeats", type=positive, metavar="N", help="rounds at each size at least (default 9)"
    )
    parser.add_argument(
        "--seconds", type=float, help="go on with rounds at each size for this long (default 10)"
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="16-bit features run under autocast"
    )
    parser.add_argument("--loss", choices=LOSSES, default="fnac")
    parser.add_argument("--implementations", choices=IMPLEMENTATIONS, nargs="+", metavar="NAME")
    parser.add_argument(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="leave out what needs more (default 8; on CUDA what is free)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="CSV",
        help="file of results: written, or read by --plot (default benchmarks/results/loss_*.csv)",
    )
    parser.add_argument("--plot", action="store_true", help="only draw the results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, few rounds, no compiler")
    options = parser.parse_args(arguments)

    if options.output is None:
        kind = f"smoke_{options.device}" if options.smoke else options.device
        options.output = ROOT / "benchmarks" / "results" / f"loss_{kind}.csv"
    if options.plot and not options.output.is_file():
        parser.error(f"--plot needs results, and there is no file {options.output}")
    if options.device == "cuda" and not options.plot:
        if not torch.cuda.is_available():
            parser.error("--device cuda: no CUDA device is available")
        options.memory_limit = options.memory_limit or torch.cuda.mem_get_info()[0] / 1e9
    options.memory_limit = options.memory_limit or MEMORY_LIMIT_GB
    options.repeats = options.repeats or (2 if options.smoke else 9)
    if options.seconds is None:
        options.seconds = 0.0 if options.smoke else 10.0
    if options.implementations is None:
        options.implementations = [
            name for name, one in IMPLEMENTATIONS.items() if not (options.smoke and one.compiled)
        ]
    options.sizes = chosen_sizes(SMOKE_SIZES if options.smoke else SIZES[options.device], options)
    return options


def measure(size: Size, options: argparse.Namespace, about: dict[str, str | int]) -> list[Row]:
    """Return the results at one size: first the gate, then rounds in turns, then memory."""
    candidates = list(passing(size, options))
    laps = time_in_turns(candidates, options)
    rows = []
    for candidate in candidates:
        extra = extra_bytes(candidate.step)
        for mode in MODES:
            times = [lap[mode] for lap in laps[candidate.name]]
            p20, median, p80 = np.percentile([lap.clock for lap in times], (20, 50, 80))
            row = {
                **about,
                **size._asdict(),
                "loss": options.loss,
                "dtype": options.dtype,
                "implementation": candidate.name,
                "backend": candidate.backend,
                "mode": mode,
                "rounds": len(times),
                "clock": clock_name(options.device, options.threads),
                "p20_ms": round(p20, 4),
                "median_ms": round(median, 4),
                "p80_ms": round(p80, 4),
                "wall_median_ms": round(float(np.median([lap.wall for lap in times])), 4),
                "extra_bytes": extra[mode],
                "budget_bytes": size.memory_budget,
                "loss_error": float(f"{candidate.error.loss:.2g}"),
                "gradient_error": float(f"{candidate.error.gradient:.2g}"),
            }
            rows.append(Row(**row))
    return rows


def passing(size: Size, options: argparse.Namespace) -> Iterator[Candidate]:
    """Yield the implementations that can run, each compared with the definition in float64.

    Raises:
        ParityError: if one of them computes something else.
    """
    dtype = DTYPES[options.dtype]
    visual, audio = features(size, dtype, options.device)
    limit = TOLERANCES[dtype]
    exact_backend = "blockwise" if dense_needs(size, torch.float64, options) else "dense"
    exact = Step(
        LOSSES[options.loss](backend=exact_backend),
        *(tensor.detach().double().requires_grad_() for tensor in (visual, audio)),
    )
    truth = evaluate(exact)
    worst = Error(0.0, 0.0)
    torch.compiler.reset()  # else a second size is compiled for all sizes
    for name in options.implementations:
        implementation = IMPLEMENTATIONS[name]
        step = Step(build(implementation, options.loss), visual, audio)
        reasons = unsupported_reasons(implementation, size, visual, audio, options)
        if not reasons:
            result, reasons = first_run(step, implementation)
        if reasons:
            print(f"{name} does not run: {'; '.join(reasons)}")
            continue
        error = distance(result, truth)
        if not error.within(limit):
            raise ParityError(
                f"{name} at {size} differs from {exact_backend} in float64: "
                f"loss by {error.loss:.2g} (allowed {limit.loss:.2g}), "
                f"gradients by {error.gradient:.2g} (allowed {limit.gradient:.2g})"
            )
        worst = Error(*map(max, worst, error))
        yield Candidate(
            name, ops.select_backend(implementation.backend, visual, audio), step, error
        )
    print(
        f"parity with {exact_backend} in float64: loss within {worst.loss:.1e} of {limit.loss:.0e},"
        f" gradients within {worst.gradient:.1e} of {limit.gradient:.0e}"
    )


def unsupported_reasons(
    implementation: Implementation,
    size: Size,
    visual: Tensor,
    audio: Tensor,
    options: argparse.Namespace,
) -> list[str]:
    """Return why an implementation cannot run here; an empty list means that it can."""
    backend = implementation.backend
    if backend == "auto":
        return []
    too_large = dense_needs(size, visual.dtype, options) if backend == "dense" else []
    return ops.unsupported_reasons(backend, visual, audio) + too_large


def dense_needs(size: Size, dtype: torch.dtype, options: argparse.Namespace) -> list[str]:
    """Return the reason why the plain form cannot run, if it needs too much memory."""
    itemsize = torch.promote_types(dtype, torch.float32).itemsize
    needed = DENSE_COPIES * size.similarity_bytes(itemsize) / 1e9
    if needed <= options.memory_limit:
        return []
    return [f"needs about {needed:.0f} GB, the limit is {options.memory_limit:.0f} GB"]


def build(implementation: Implementation, loss: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of an implementation."""
    criterion = LOSSES[loss](backend=implementation.backend)
    if implementation.compiled:
        return torch.compile(criterion, fullgraph=True, dynamic=False)
    return criterion


def first_run(step: Step, implementation: Implementation) -> tuple[tuple[Tensor, ...], list[str]]:
    """Return the loss and the gradients, and why there are none."""
    try:
        return evaluate(step), []
    except torch.OutOfMemoryError as error:
        return (), [first_line(error)]
    except RuntimeError as error:
        if not implementation.compiled:
            raise
        return (), [f"could not be compiled: {first_line(error)}"]


def evaluate(step: Step) -> tuple[Tensor, ...]:
    """Return the loss and the gradients."""
    with ignored_compiler_warnings():
        loss = step.forward()
        return loss.detach(), *step.backward(loss)


@contextmanager
def ignored_compiler_warnings() -> Iterator[None]:
    """Silence what torch's compiler says about torch's own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        yield


def first_line(error: Exception) -> str:
    """Return the beginning of a message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def time_in_turns(
    candidates: list[Candidate], options: argparse.Namespace
) -> dict[str, list[dict[str, Lap]]]:
    """Run every implementation once a round and return every lap; the first round warms up.

    Each round has an order of its own: an implementation leaves the caches and the heap to the
    next one, and in a fixed order that favoured some by up to 30 % at small sizes.
    """
    laps: dict[str, list[dict[str, Lap]]] = {candidate.name: [] for candidate in candidates}
    for candidate in candidates:
        time_step(candidate.step, options.threads)
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        started, rounds = time.monotonic(), 0
        while rounds < options.repeats or time.monotonic() - started < options.seconds:
            for candidate in order.sample(candidates, len(candidates)):
                laps[candidate.name].append(time_step(candidate.step, options.threads))
            rounds += 1
    finally:
        gc.enable()
    return laps


def table(rows: list[Row]) -> str:
    """Return the results at one size as aligned text; speed and memory against the baselines."""
    milliseconds = {(row.implementation, row.mode): row.median_ms for row in rows}
    extra = {(row.implementation, row.mode): row.extra_bytes for row in rows}
    header = ["implementation", "pass", "p20", "median", "p80", "wall", "x dense", "x compiled"]
    header += ["extra MB", "dense x", "budget", "within"]
    lines = [header]
    for row in rows:
        dense, compiled = ((name, row.mode) for name in BASELINES)
        name = row.implementation
        if name == "auto":
            name = f"auto ({row.backend})"
        within = "yes" if row.extra_bytes <= row.budget_bytes else "no"
        if row.implementation in BASELINES:
            within = "-"
        lines.append(
            [
                name if row.mode == MODES[0] else "",
                row.mode,
                *(f"{value:.2f}" for value in (row.p20_ms, row.median_ms, row.p80_ms)),
                f"{row.wall_median_ms:.2f}",
                ratio(milliseconds.get(dense), row.median_ms),
                ratio(milliseconds.get(compiled), row.median_ms),
                f"{row.extra_bytes / 1e6:.2f}",
                ratio(extra.get(dense), row.extra_bytes),
                f"{row.budget_bytes / 1e6:.2f}",
                within,
            ]
        )
    first = rows[0]
    title = (
        f"milliseconds ({first.clock} clock) of {first.rounds} rounds; x dense, x compiled: times "
        "as fast; dense x: times the memory that dense needs"
    )
    return f"{title}\n{aligned(lines)}"


def ratio(baseline: float | None, value: float) -> str:
    """Return a quotient as text, or a dash where there is no baseline."""
    return f"{baseline / value:.2f}" if baseline else "-"


if __name__ == "__main__":
    sys.exit(main())
