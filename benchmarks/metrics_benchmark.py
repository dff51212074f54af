"""Time that the scores of a test set take, as accumulators and as `examples/evaluate.py` has them.

    PYTHONPATH=examples python benchmarks/metrics_benchmark.py            5,000 maps, four minutes
    PYTHONPATH=examples python benchmarks/metrics_benchmark.py --quick    a few maps, seconds

Maps of 7 x 7 are resized to 224 x 224 and compared with ground truth of one or two boxes. Before
anything is timed the scores of some of them must be those of a plain loop in float64; otherwise the
exit status is 1. Then the tasks take turns. The time is that of the whole test set.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import ROOT, aligned, environment, positive, shown, write
from torch import Tensor

from avcontrast import metrics
from avcontrast.metrics.accumulators import LocalizationMetric, MaskMetric, SilenceMetric
from avcontrast.metrics.localization import Threshold
from avscenes.testing.scoring import figures, joined, score

SIZE = 224
PROTOCOL = "ezvsl-test"
POOL = 1_000
"""Maps that exist at a time; more than this are the same ones again."""

GOAL = 20.0
"""Seconds that the scores of a test set of 5,000 may take on two cores."""


class Samples(NamedTuple):
    """Maps of a model with their ground truth."""

    maps: Tensor  # [n, 7, 7]
    boxes: list[Tensor]  # [k, 4] each
    truth: Tensor  # [n, SIZE, SIZE]
    visible: Tensor  # [n]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results: what one task took."""

    date: str
    device: str
    device_name: str
    threads: int
    python: str
    torch: str
    avcontrast: str
    load: float
    task: str
    maps: int
    size: int
    batch: int
    rounds: int
    wall_s: float
    process_s: float


def samples(count: int) -> Samples:
    """Return seeded maps and boxes, a fifth of which are not in the image."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(count, 7, 7, generator=generator)
    middle = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
    half = 0.02 + 0.35 * torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
    corners = torch.cat([middle - half, middle + half], dim=2)
    boxes = [some[: 1 + number % 2] for number, some in enumerate(corners)]
    truth = torch.stack([metrics.ground_truth_map(some, SIZE, clip=True) for some in boxes])
    return Samples(maps, boxes, truth, torch.arange(count) % 5 > 0)


def batches(pool: Samples, count: int, batch: int) -> list[slice]:
    """Return which part of the pool each batch is, up to the number of maps asked for."""
    parts: list[slice] = []
    start, left = 0, count
    while left:
        stop = min(start + batch, start + left, len(pool.maps))
        parts.append(slice(start, stop))
        left -= stop - start
        start = stop % len(pool.maps)
    return parts


def boxes_to_truth(pool: Samples, parts: Sequence[slice]) -> object:
    """Draw the boxes of every sample."""
    for part in parts:
        torch.stack([metrics.ground_truth_map(some, SIZE, clip=True) for some in pool.boxes[part]])
    return None


def localization(pool: Samples, parts: Sequence[slice], protocol: str = PROTOCOL) -> object:
    """Accumulate the scores of the model, the centre disc and the ceiling."""
    metric = LocalizationMetric(protocol)
    for part in parts:
        metric.update(pool.maps[part], pool.truth[part])
    return metric.compute()


def adaptive_localization(pool: Samples, parts: Sequence[slice]) -> object:
    """Do so with a threshold that is another in every map."""
    return localization(pool, parts, "alignment-adaptive")


def silence(pool: Samples, parts: Sequence[slice]) -> object:
    """Accumulate the scores of a test set with sounds without a source."""
    metric = SilenceMetric()
    for part in parts:
        metric.update(pool.maps[part], pool.truth[part], pool.visible[part])
    return metric.compute()


def masks(pool: Samples, parts: Sequence[slice]) -> object:
    """Accumulate mean IoU and F-score, the ground truth being a mask."""
    metric = MaskMetric()
    for part in parts:
        metric.update(metrics.upsample(pool.maps[part], SIZE), pool.truth[part])
    return metric.compute()


def evaluate(pool: Samples, parts: Sequence[slice]) -> object:
    """Score as `examples/evaluate.py` does: three thresholds, pointing, disc and ceiling."""
    rules = metrics.PROTOCOLS[PROTOCOL]
    columns = []
    for part in parts:
        heats = {"model": metrics.upsample(pool.maps[part], SIZE)}
        columns.append(score(heats, pool.truth[part], rules))
    return figures(joined(columns), rules)


TASKS: dict[str, Callable[[Samples, Sequence[slice]], object]] = {
    "ground truth": boxes_to_truth,
    "LocalizationMetric": localization,
    "LocalizationMetric, adaptive": adaptive_localization,
    "SilenceMetric": silence,
    "MaskMetric": masks,
    "evaluate.py": evaluate,
}


def differences(pool: Samples, count: int = 8) -> list[str]:
    """Return what a plain loop in float64 gives differently for the first maps."""
    heats = metrics.upsample(pool.maps[:count], SIZE).double().numpy()
    truth = pool.truth[:count].double().numpy()
    ranks: dict[Threshold, Callable[[int, int], int]] = {
        "half": lambda pixels, area: pixels // 2,
        0.75: lambda pixels, area: 3 * pixels // 4,
        "area": lambda pixels, area: pixels - area,
    }
    wrong = []
    for threshold in ranks:
        mine = metrics.consensus_iou(torch.from_numpy(heats), pool.truth[:count], threshold)
        for number, (heat, weights) in enumerate(zip(heats, truth, strict=True)):
            pixels, area = heat.size, int((weights > 0).sum())
            rank = ranks[threshold](pixels, area)
            predicted = heat >= np.sort(heat, axis=None)[rank]
            union = weights.sum() + (predicted & (weights == 0)).sum()
            expected = (weights * predicted).sum() / union
            if abs(mine[number].item() - expected) > 1e-12:
                wrong.append(
                    f"map {number}, {threshold}: {mine[number].item()} instead of {expected}"
                )
    return wrong


def measure(options: argparse.Namespace) -> list[Row]:
    """Return what each task takes with each number of threads: rounds in turns, medians."""
    pool = samples(min(POOL, options.maps))
    if wrong := differences(pool):
        raise ArithmeticError("; ".join(wrong))
    parts = batches(pool, options.maps, options.batch)
    taken: dict[tuple[int, str], list[tuple[float, float]]] = {}
    order = random.Random(0)
    load = os.getloadavg()[0]
    for task in TASKS.values():
        task(pool, parts[:1])
    for _ in range(options.repeats):
        for threads, name in order.sample(
            [(threads, name) for threads in options.threads for name in TASKS],
            len(options.threads) * len(TASKS),
        ):
            torch.set_num_threads(threads)
            wall, process = time.perf_counter(), time.process_time()
            TASKS[name](pool, parts)
            lap = time.perf_counter() - wall, time.process_time() - process
            taken.setdefault((threads, name), []).append(lap)
    rows = []
    for threads in options.threads:
        for name in TASKS:
            wall_s, process_s = np.median(taken[threads, name], axis=0)
            rows.append(
                Row(
                    **environment("cpu", threads),  # type: ignore[arg-type]
                    load=round(load, 2),
                    task=name,
                    maps=options.maps,
                    size=SIZE,
                    batch=options.batch,
                    rounds=options.repeats,
                    wall_s=round(float(wall_s), 4),
                    process_s=round(float(process_s), 4),
                )
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the results as aligned text."""
    lines = [["task", "threads", "wall s", "process s", "maps a second"]]
    for row in rows:
        numbers = f"{row.wall_s:.2f}", f"{row.process_s:.2f}", f"{row.maps / row.wall_s:.0f}"
        lines.append([row.task, str(row.threads), *numbers])
    first = rows[0]
    return (
        f"{first.maps} maps of {SIZE} x {SIZE}, batches of {first.batch}, medians of "
        f"{first.rounds} rounds, load {first.load:g}\n{aligned(lines)}"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=positive, metavar="N", help="default 5000")
    parser.add_argument("--batch", type=positive, default=256, metavar="B", help="default 256")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], metavar="T")
    parser.add_argument("--repeats", type=positive, metavar="N", help="rounds (default 3)")
    parser.add_argument("--quick", action="store_true", help="few maps, one round")
    parser.add_argument(
        "--output", type=Path, metavar="CSV", help="default benchmarks/results/metrics_cpu.csv"
    )
    options = parser.parse_args(arguments)
    options.maps = options.maps or (40 if options.quick else 5_000)
    options.repeats = options.repeats or (1 if options.quick else 3)
    if options.output is None:
        name = "metrics_quick.csv" if options.quick else "metrics_cpu.csv"
        options.output = ROOT / "benchmarks" / "results" / name
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse(arguments)
    try:
        rows = measure(options)
    except ArithmeticError as error:
        print(f"scores differ from a plain loop: {error}\nno time is reported", file=sys.stderr)
        return 1
    print(table(rows))
    slowest = max(rows, key=lambda row: row.wall_s if row.threads == max(options.threads) else 0)
    if not options.quick:
        per_set = slowest.wall_s * 5_000 / slowest.maps
        verdict = "within" if per_set <= GOAL else "beyond"
        print(
            f"slowest with {slowest.threads} threads: {slowest.task}, {per_set:.1f} s for 5,000 "
            f"maps, {verdict} the goal of {GOAL:g} s"
        )
    write(rows, options.output)
    print(f"wrote {shown(options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
