"""Time and memory of what the other losses of the field add, against their plain forms.

    python benchmarks/field_benchmark.py           measure; the docs quote the results
    python benchmarks/field_benchmark.py --smoke   tiny sizes, a second

The alignment loss of three views of each image and sound takes turns with a loop over the nine
pairings, each of which normalises its features; pooling by a soft mask, streamed, with the same in
plain PyTorch. Both must first give the same loss and gradients.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import (
    ROOT,
    TOLERANCES,
    Size,
    Step,
    aligned,
    distance,
    environment,
    extra_bytes,
    positive,
    shown,
    time_in_pairs,
    write,
)
from torch import Tensor
from torch.nn import functional as F

from avcontrast import AlignmentLoss, functional

VIEWS, PROJECTED, TEMPERATURE = 3, 128, 0.07
SIZES = {
    "alignment": [Size(b, 512, 14, 14) for b in (32, 64, 128)],
    "soft mask": [Size(b, 512, 7, 7) for b in (128, 256, 512)],
}
SMOKE_SIZES = [Size(6, 8, 3, 3), Size(12, 8, 3, 3)]


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
    loss: str
    batch: int
    channels: int
    height: int
    width: int
    rounds: int
    plain_ms: float
    ours_ms: float
    times_as_fast: float
    plain_bytes: int
    ours_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="at each size (default 10)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, few rounds")
    parser.add_argument("--output", type=Path, metavar="CSV")
    options = parser.parse_args(arguments)
    name = "field_smoke_cpu.csv" if options.smoke else "field_cpu.csv"
    output = options.output or ROOT / "benchmarks" / "results" / name
    torch.set_num_threads(options.threads)
    rows = []
    for loss, sizes in SIZES.items():
        for size in SMOKE_SIZES if options.smoke else sizes:
            seconds = 0.0 if options.smoke else options.seconds
            rows.append(measure(loss, size, options.threads, seconds))
            write(rows, output)
    print(table(rows))
    print(f"wrote {shown(output)}")
    return 0


def plain_alignment(project: Tensor, images: Tensor, sounds: Tensor) -> Tensor:
    """Return the alignment loss as a loop over its pairings."""
    total = images.new_zeros(())
    for image, sound in product(images, sounds):
        unit = F.normalize(image.flatten(2), dim=1).mean(2)
        projected = image.mean((2, 3)) @ project, sound @ project
        for left, right in (
            (unit, F.normalize(sound, dim=1)),
            [F.normalize(vectors, dim=1) for vectors in projected],
        ):
            logits = left @ right.T / TEMPERATURE
            target = torch.arange(len(logits))
            both = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
            total = total + both / 2
    return total


def our_alignment(project: Tensor, images: Tensor, sounds: Tensor) -> Tensor:
    """Return the same from the library."""
    vectors = [[image.mean((2, 3)) @ project for image in images], [s @ project for s in sounds]]
    loss: Tensor = AlignmentLoss(TEMPERATURE)(list(images), list(sounds), *vectors)
    return loss


def soft_mask(backend: str, visual: Tensor, audio: Tensor) -> Tensor:
    """Return the sum of the responses under a soft mask, weighed so that no two are alike."""
    pooled = functional.pooled_similarity(visual, audio, pooling="soft-mask", backend=backend)
    weights = torch.linspace(0, 1, pooled.numel(), dtype=pooled.dtype)
    return (pooled * weights.view_as(pooled)).sum()


def steps_of(loss: str, size: Size) -> tuple[Step, Step]:
    """Return a plain step and that of the library, on the same features."""
    generator = torch.Generator().manual_seed(0)
    views = (VIEWS,) if loss == "alignment" else ()
    visual, audio = (
        torch.randn(*views, *shape, generator=generator).requires_grad_()
        for shape in (size, size[:2])
    )
    forms: tuple[Callable[..., Tensor], Callable[..., Tensor]]
    if loss == "alignment":
        project = torch.randn(size.channels, PROJECTED, generator=generator)
        forms = partial(plain_alignment, project), partial(our_alignment, project)
    else:
        forms = partial(soft_mask, "dense"), partial(soft_mask, "blockwise")
    plain, ours = (Step(form, visual, audio) for form in forms)
    return plain, ours


def measure(loss: str, size: Size, threads: int, seconds: float) -> Row:
    """Return the result at one size."""
    steps = steps_of(loss, size)
    plain, ours = ([step.forward(), *step.backward(step.forward())] for step in steps)
    apart = distance([one.detach() for one in ours], [one.detach() for one in plain])
    if not apart.within(TOLERANCES[torch.float32]):
        raise SystemExit(f"{loss} at {size} differs from its plain form: {apart}")
    times = time_in_pairs(steps, threads, seconds)
    medians = np.median(times, axis=0)
    extra = [extra_bytes(step)["both"] for step in steps]
    about: dict[str, Any] = environment("cpu", threads) | size._asdict()
    return Row(
        **about,
        loss=loss,
        rounds=len(times),
        plain_ms=round(medians[0], 3),
        ours_ms=round(medians[1], 3),
        times_as_fast=round(float(np.median([a / b for a, b in times])), 3),
        plain_bytes=extra[0],
        ours_bytes=extra[1],
    )


def table(rows: Sequence[Row]) -> str:
    """Return the results as text."""
    lines = [["loss", "size", "plain, ms", "ours, ms", "times as fast", "plain, MB", "ours, MB"]]
    for row in rows:
        size = Size(row.batch, row.channels, row.height, row.width)
        numbers = f"{row.plain_ms:.2f}", f"{row.ours_ms:.2f}", f"{row.times_as_fast:.2f}"
        extra = f"{row.plain_bytes / 1e6:.1f}", f"{row.ours_bytes / 1e6:.1f}"
        lines.append([row.loss, str(size), *numbers, *extra])
    return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
