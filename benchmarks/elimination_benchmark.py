"""What leaving likely false negatives out adds to the time and memory of InfoNCE.

    python benchmarks/elimination_benchmark.py           measure; the docs quote the results
    python benchmarks/elimination_benchmark.py --smoke   tiny sizes, a second

Both losses take turns on the same features, of samples of a few kinds, of which elimination leaves
out those of the same kind. The limits it has to keep are 1.05 times the time, and 16 bytes a sample
and 1 MB of memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import (
    ROOT,
    Size,
    Step,
    aligned,
    environment,
    extra_bytes,
    positive,
    shown,
    time_in_pairs,
    write,
)
from torch import Tensor

from avcontrast import InfoNCE, functional

SIZES = [Size(b, 512, 7, 7) for b in (128, 256, 512, 1024)]
SMOKE_SIZES = [Size(6, 8, 3, 3), Size(12, 8, 3, 3)]
KINDS = 16


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results."""

    date: str
    device: str
    device_name: str
    threads: int
    python: str
    torch: str
    avcontrast: str
    batch: int
    channels: int
    height: int
    width: int
    left_out: float
    rounds: int
    plain_ms: float
    elimination_ms: float
    time_ratio: float
    plain_bytes: int
    elimination_bytes: int
    added_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="at each size (default 20)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, few rounds")
    parser.add_argument("--output", type=Path, metavar="CSV")
    options = parser.parse_args(arguments)
    name = "elimination_smoke_cpu.csv" if options.smoke else "elimination_cpu.csv"
    output = options.output or ROOT / "benchmarks" / "results" / name
    torch.set_num_threads(options.threads)
    rows = []
    for size in SMOKE_SIZES if options.smoke else SIZES:
        rows.append(measure(size, options.threads, 0.0 if options.smoke else options.seconds))
        write(rows, output)
    print(table(rows))
    print(f"wrote {shown(output)}")
    return 0


def kinds_of(size: Size) -> tuple[Tensor, Tensor]:
    """Return features of samples of a few kinds, which require a gradient."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(KINDS, size.channels, generator=generator)
    own = kinds[torch.arange(size.batch) % KINDS]
    visual = torch.randn(tuple(size), generator=generator) + own[:, :, None, None]
    audio = torch.randn(size.batch, size.channels, generator=generator) + own
    return visual.requires_grad_(), audio.requires_grad_()


def measure(size: Size, threads: int, seconds: float) -> Row:
    """Return the result at one size."""
    features = kinds_of(size)
    steps = [Step(InfoNCE(elimination=sides), *features) for sides in ("none", "both")]
    times = time_in_pairs(steps, threads, seconds)
    plain, elimination = np.median(times, axis=0)
    extra = [extra_bytes(step)["both"] for step in steps]
    about: dict[str, Any] = environment("cpu", threads) | size._asdict()
    return Row(
        **about,
        left_out=round(functional.likely_false_negatives(*features).double().mean().item(), 4),
        rounds=len(times),
        plain_ms=round(plain, 3),
        elimination_ms=round(elimination, 3),
        time_ratio=round(float(np.median([b / a for a, b in times])), 4),
        plain_bytes=extra[0],
        elimination_bytes=extra[1],
        added_bytes=extra[1] - extra[0],
    )


def table(rows: Sequence[Row]) -> str:
    """Return the results as text."""
    lines = [["batch", "left out", "InfoNCE, ms", "elimination, ms", "ratio", "added KB", "of"]]
    for row in rows:
        numbers = f"{row.plain_ms:.2f}", f"{row.elimination_ms:.2f}", f"{row.time_ratio:.3f}"
        added, limit = row.added_bytes / 1e3, (16 * row.batch + 10**6) / 1e3
        share = f"{100 * row.left_out:.1f} %"
        lines.append([str(row.batch), share, *numbers, f"{added:.0f}", f"{limit:.0f}"])
    return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
