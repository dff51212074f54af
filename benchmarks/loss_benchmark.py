"""Time and extra memory of the losses against the plain PyTorch form and its compiled form.

    python benchmarks/loss_benchmark.py                  measure; docs and README quote the results
    python benchmarks/loss_benchmark.py --loss nce       InfoNCE of maps
    python benchmarks/loss_benchmark.py --loss vectors   InfoNCE of vectors against the form of CLIP
    python benchmarks/loss_benchmark.py --device cuda    the same on a GPU
    python benchmarks/loss_benchmark.py --plot           draw the pictures from the results
    python benchmarks/loss_benchmark.py --smoke          tiny sizes, a few seconds

At each size every implementation of the library must first give the loss and the gradients of the
definition in float64; otherwise the discrepancy is printed, the exit status is 1 and no speed is
reported. Then the implementations take turns, so that whatever else the machine does hits all of
them, and so does the one product that none can avoid, of all positions with all sounds: times the
product is a figure that means the same on every machine. Extra memory is the peak of a pass minus
what was there, beyond the gradients of the inputs. The budget is what the library promises to stay
within: 2N + 7b^2 + 16 MB for N = b h w d.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from implementations import (
    BASELINES,
    DEFAULTS,
    IMPLEMENTATIONS,
    LOSSES,
    VECTOR_DEFAULTS,
    VECTORS,
)
from measuring import (
    DTYPES,
    MODES,
    ROOT,
    Lap,
    Size,
    aligned,
    chosen_sizes,
    clock_name,
    environment,
    extra_bytes,
    operator_calls,
    positions,
    positive,
    product_of,
    shown,
    time_product,
    time_step,
    write,
)
from on_cuda import GRAPH, LARGEST_GRAPH_BATCH, time_replay, versions
from parity import Candidate, ParityError, first_line, passing

CHANNELS, POSITIONS = 512, (7, 7)
SIZES = {
    "cpu": [
        *(Size(b, CHANNELS, *POSITIONS) for b in (32, 64, 128, 256, 512, 1024)),
        Size(1024, 256, *POSITIONS),
    ],
    "cuda": [
        Size(b, CHANNELS, side, side)
        for side, largest in ((7, 65536), (14, 16384))
        for b in (256, 1024, 4096, 8192, 16384, 32768, 65536)
        if b <= largest
    ],
}
VECTOR_SIZES = [Size(b, CHANNELS, 1, 1) for b in (128, 256, 512, 1024, 2048, 4096)]
SMOKE_SIZES = [Size(6, 8, 3, 3), Size(12, 8, 3, 3)]

PASSES = {"forward": 1, "backward": 2, "both": 3, GRAPH: 3}
"""Products of all features in each mode, whatever an implementation really computes."""

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
    cuda: str
    driver: str
    triton: str
    loss: str
    dtype: str
    matmul_precision: str
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
    product_ms: float
    operators: int
    extra_bytes: int
    budget_bytes: int
    loss_error: float
    gradient_error: float


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
    torch.set_float32_matmul_precision(options.matmul_precision)
    about = environment(options.device, options.threads) | versions(options.device)
    for name, value in about.items():
        if value != "":
            print(f"{name.replace('_', ' '):<12} {value}")
    if options.graph and options.device != "cuda":
        print("--graph is left out: CUDA graphs need --device cuda")
        options.graph = False
    rows: list[Row] = []
    for size in options.sizes:
        precision = f"products in {options.matmul_precision} precision"
        print(f"\n{size}, {options.loss} loss, {options.dtype}, {precision}")
        try:
            measured = measure(size, options, about)
        except ParityError as error:
            print(f"parity failed: {error}\nno speed is reported for this size", file=sys.stderr)
            return 1
        except torch.OutOfMemoryError as error:
            print(f"{size} is left out: {first_line(error)}")
            continue
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
    parser.add_argument(
        "--matmul-precision",
        choices=("highest", "high"),
        default="highest",
        help="of fp32 products, as in torch.set_float32_matmul_precision (default highest)",
    )
    parser.add_argument(
        "--graph",
        action="store_true",
        help=f"also replay CUDA graphs of forward and backward, up to b = {LARGEST_GRAPH_BATCH}",
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
        help="file of results: written, or read by --plot (default benchmarks/results/*.csv)",
    )
    parser.add_argument("--plot", action="store_true", help="only draw the results")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, few rounds, no compiler")
    options = parser.parse_args(arguments)

    of_vectors = options.loss == VECTORS
    if of_vectors and options.positions not in (None, (1, 1)):
        parser.error("--positions: vectors have none")
    if options.output is None:
        kind = f"smoke_{options.device}" if options.smoke else options.device
        what = {VECTORS: "vectors", "nce": "infonce"}.get(options.loss, "loss")
        options.output = ROOT / "benchmarks" / "results" / f"{what}_{kind}.csv"
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
            name
            for name in (VECTOR_DEFAULTS if of_vectors else DEFAULTS[options.device])
            if not (options.smoke and IMPLEMENTATIONS[name].compile_mode)
        ]
    default = SMOKE_SIZES if options.smoke else SIZES[options.device]
    if of_vectors:
        smoke = [size._replace(height=1, width=1) for size in SMOKE_SIZES]
        default = smoke if options.smoke else VECTOR_SIZES
    options.sizes = chosen_sizes(default, options)
    return options


def measure(size: Size, options: argparse.Namespace, about: dict[str, str | int]) -> list[Row]:
    """Return the results at one size: first the gate, then rounds in turns, then memory."""
    candidates = list(passing(size, options))
    laps, products = time_in_turns(candidates, options)
    rows = []
    for candidate in candidates:
        if candidate.name not in laps:
            continue
        calls = operator_calls(candidate.step)
        for mode, extra in memory(candidate).items():
            times = [lap[mode] for lap in laps[candidate.name]]
            p20, median, p80 = np.percentile([lap.clock for lap in times], (20, 50, 80))
            row = {
                **about,
                **size._asdict(),
                "loss": options.loss,
                "dtype": options.dtype,
                "matmul_precision": options.matmul_precision,
                "implementation": candidate.name,
                "backend": candidate.backend,
                "mode": mode,
                "rounds": len(times),
                "clock": clock_name(options.device, options.threads),
                "p20_ms": round(p20, 4),
                "median_ms": round(median, 4),
                "p80_ms": round(p80, 4),
                "wall_median_ms": round(float(np.median([lap.wall for lap in times])), 4),
                "product_ms": round(float(np.median([lap.clock for lap in products])), 4),
                "operators": calls.get(mode, 0),
                "extra_bytes": extra,
                "budget_bytes": size.memory_budget,
                "loss_error": float(f"{candidate.error.loss:.2g}"),
                "gradient_error": float(f"{candidate.error.gradient:.2g}"),
            }
            rows.append(Row(**row))
    return rows


def memory(candidate: Candidate) -> dict[str, int]:
    """Return the extra bytes of each mode that was timed."""
    if candidate.held is not None:
        return dict.fromkeys(MODES, candidate.held)  # one piece of memory, for both passes
    extra = extra_bytes(candidate.step)
    if candidate.replay is not None:
        extra[GRAPH] = candidate.replay.held
    return extra


def time_in_turns(
    candidates: list[Candidate], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Lap]]], list[Lap]]:
    """Run every implementation, and the product, once a round and return every lap.

    What a first run costs is not counted. Each round has an order of its own: an implementation
    leaves the caches and the heap to the next one, and in a fixed order that favoured some by up to
    30 % at small sizes. What fitted into memory alone but does not beside the others is left out.
    """
    laps: dict[str, list[dict[str, Lap]]] = {}
    if not candidates:
        return laps, []
    product = product_of(candidates[0].step)
    time_product(product, options.threads)
    products: list[Lap] = []
    for candidate in candidates:
        try:
            time_once(candidate, options.threads)
        except torch.OutOfMemoryError as error:
            print(f"{candidate.name} does not run beside the others: {first_line(error)}")
        else:
            laps[candidate.name] = []
    runs = {
        candidate.name: partial(time_once, candidate, options.threads)
        for candidate in candidates
        if candidate.name in laps
    }
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        started, rounds = time.monotonic(), 0
        while rounds < options.repeats or time.monotonic() - started < options.seconds:
            for name in order.sample(list(runs), len(runs)):
                laps[name].append(runs[name]())
            products.append(time_product(product, options.threads))
            rounds += 1
    finally:
        gc.enable()
    return laps, products


def time_once(candidate: Candidate, threads: int) -> dict[str, Lap]:
    """Run an implementation once in each of its modes and return what they took."""
    laps = time_step(candidate.step, threads)
    return laps if candidate.replay is None else laps | time_replay(candidate.replay)


def table(rows: list[Row]) -> str:
    """Return the results at one size as aligned text; speed and memory against the baselines."""
    milliseconds = {(row.implementation, row.mode): row.median_ms for row in rows}
    extra = {(row.implementation, row.mode): row.extra_bytes for row in rows}
    ran = {row.implementation for row in rows}
    plain = next((one for one in BASELINES if {one, BASELINES[one]} & ran), "dense")
    on_cuda = rows[0].device == "cuda"
    header = ["implementation", "pass", "p20", "median", "p80", "wall"]
    header += ["TFLOP/s"] * on_cuda
    header += ["x product", "operators", f"x {plain}", "x compiled"]
    header += ["extra MB", f"{plain} x", "budget", "within"]
    lines = [header]
    for row in rows:
        baseline, compiled = ((name, row.mode) for name in (plain, BASELINES[plain]))
        name = row.implementation
        if name == "auto":
            name = f"auto ({row.backend})"
        within = "yes" if row.extra_bytes <= row.budget_bytes else "no"
        if {row.implementation} & {*BASELINES, *BASELINES.values()}:
            within = "-"
        lines.append(
            [
                name if row.mode == MODES[0] else "",
                row.mode,
                *(f"{value:.2f}" for value in (row.p20_ms, row.median_ms, row.p80_ms)),
                f"{row.wall_median_ms:.2f}",
                *[f"{effective_teraflops(row):.1f}"] * on_cuda,
                ratio(row.median_ms, row.product_ms),
                str(row.operators),
                ratio(milliseconds.get(baseline), row.median_ms),
                ratio(milliseconds.get(compiled), row.median_ms),
                f"{row.extra_bytes / 1e6:.2f}",
                ratio(extra.get(baseline), row.extra_bytes),
                f"{row.budget_bytes / 1e6:.2f}",
                within,
            ]
        )
    first = rows[0]
    title = (
        f"milliseconds ({first.clock} clock) of {first.rounds} rounds; x product: times the one "
        f"product of {first.product_ms:.2f} ms; x {plain}, x compiled: times as fast; "
        f"{plain} x: times the memory that {plain} needs"
    )
    if on_cuda:
        title += "; TFLOP/s: 2 b^2 h w d forward and twice that backward, in the time taken"
    return f"{title}\n{aligned(lines)}"


def effective_teraflops(row: Row) -> float:
    """Return the speed at which a plain form, with its three products, would have had to run."""
    product = 2 * row.batch**2 * row.height * row.width * row.channels
    return PASSES[row.mode] * product / (row.median_ms * 1e9)


def ratio(baseline: float | None, value: float) -> str:
    """Return a quotient as text, or a dash where there is no baseline."""
    return f"{baseline / value:.2f}" if baseline and value else "-"


if __name__ == "__main__":
    sys.exit(main())
