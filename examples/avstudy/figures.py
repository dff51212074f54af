"""The figures of the report."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from avscenes.pictures import style
from avstudy.effects import MEASURES, effect, label_of, mean_of, methods_of
from avstudy.plan import Method, Plan
from avstudy.rows import KEY, Table
from avstudy.statistics import Interval, mean_interval

_MARKER: Any = {"fmt": "o", "markersize": 4, "capsize": 2}
COLOURS = (style.MUTED, style.GREEN, style.VERMILION, style.BLUE, style.ORANGE)


def calibration(path: Path, plan: Plan, rows: Table) -> None:
    """Draw the gap between oracle and reference in every candidate."""
    names = list(dict.fromkeys(row["setting"] for row in rows.chosen(stage="calibration")))
    reference, ceiling = plan.report["reference"], plan.report["ceiling"]
    with style.figure(path, 8.2, 0.9 + 0.32 * len(names)) as figure:
        for axis, (measure, title) in zip(
            figure.subplots(1, 2, sharey=True), MEASURES.items(), strict=True
        ):
            gaps = [effect(rows, measure, "calibration", n, ceiling, reference) for n in names]
            _intervals(axis, names, gaps, [style.GREEN] * len(names))
            axis.set_title(f"What false negatives cost: {title}")
            axis.set_xlabel("oracle minus InfoNCE, points, 95 %")


def effects(path: Path, plan: Plan, rows: Table) -> None:
    """Draw the difference of every method to the reference in every setting."""
    reference = plan.report["reference"]
    settings = [s for s in plan.report["settings"].values() if methods_of(rows, s)]
    lines = [len(methods_of(rows, setting)) + 3 for setting in settings]
    with style.figure(path, 8.2, 0.2 * sum(lines)) as figure:
        grid = figure.subplots(
            len(settings), 2, squeeze=False, gridspec_kw={"height_ratios": lines}
        )
        for axes, setting in zip(grid, settings, strict=True):
            methods = [m for m in methods_of(rows, setting) if m != reference]
            labels = [label_of(plan, method) for method in methods]
            colours = [_kind_colour(plan.methods[method]) for method in methods]
            for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
                found = [
                    effect(rows, measure, "evaluation", setting, m, reference) for m in methods
                ]
                _intervals(axis, labels, found, colours)
                axis.set_title(f"{label_of(plan, setting)}: {title}")
            axes[1].set_yticklabels([])
        for axis in grid[-1]:
            axis.set_xlabel("difference to InfoNCE, points, 95 %")


def _kind_colour(method: Method) -> str:
    """Tell losses that know labels, adjacency terms and plain InfoNCE apart."""
    if method.ignore != "nothing":
        return style.GREEN
    weights = method.fns_audio_weight, method.fns_visual_weight, method.tne_weight
    return style.VERMILION if any(weights) else style.BLUE


def _intervals(
    axis: Axes, labels: list[str], found: list[Interval | None], colours: list[str]
) -> None:
    axis.axvline(0, color=style.INK, linewidth=0.8)
    for place, (interval, colour) in enumerate(zip(found, colours, strict=True)):
        if interval is not None:
            axis.errorbar(interval.mean, place, xerr=_reach([interval]), color=colour, **_MARKER)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def _reach(intervals: list[Interval]) -> list[list[float]]:
    """Return how far intervals reach to both sides; those of a single seed are not drawn."""
    low = [interval.mean - interval.low for interval in intervals]
    high = [interval.high - interval.mean for interval in intervals]
    return [[side if math.isfinite(side) else math.nan for side in sides] for sides in (low, high)]


def curves(path: Path, plan: Plan, rows: Table) -> None:
    """Draw both measures over the epochs: means and 95 % intervals over the seeds."""
    settings, methods = plan.report["settings"], plan.report["curves"]
    with style.figure(path, 8.2, 5.0) as figure:
        grid = figure.subplots(2, len(settings), squeeze=False, sharex="col", sharey="row")
        for column, setting in enumerate(settings.values()):
            for row, (measure, title) in enumerate(MEASURES.items()):
                axis = grid[row][column]
                for method, colour in zip(methods, itertools.cycle(COLOURS), strict=False):
                    asked = {"stage": "evaluation", "setting": setting, "method": method}
                    _curve(axis, rows.chosen(**asked), measure, label_of(plan, method), colour)
                if row == 0:
                    axis.set_title(label_of(plan, setting))
                else:
                    axis.set_xlabel("epoch")
                if column == 0:
                    axis.set_ylabel(f"{title}, %")
        grid[0][0].legend(fontsize=8)


def _curve(
    axis: Axes,
    points: list[dict[str, str]],
    measure: str,
    label: str,
    colour: str,
) -> None:
    by_epoch: dict[int, list[float]] = {}
    for point in points:
        by_epoch.setdefault(int(point["epoch"]), []).append(100 * float(point[measure]))
    epochs = sorted(by_epoch)
    bands = [mean_interval(by_epoch[epoch]) for epoch in epochs]
    means = np.array([band.mean for band in bands])
    low, high = _reach(bands)
    axis.plot(epochs, means, color=colour, label=label)
    axis.fill_between(epochs, means - low, means + high, color=colour, alpha=0.15, lw=0)


def classes(path: Path, plan: Plan, rows: Table) -> None:
    """Draw both measures against the number of classes in a batch (Figure 2 of the paper)."""
    names = list(dict.fromkeys(row["setting"] for row in rows.chosen(stage="classes")))
    methods = methods_of(rows, names[0], "classes")
    with style.figure(path, 8.2, 3.2) as figure:
        for axis, (measure, title) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
            for shift, method in enumerate(methods):
                found = [mean_of(rows, measure, "classes", name, method) for name in names]
                bands = [band for band in found if band is not None]
                places = [n + 0.08 * shift for n, band in enumerate(found) if band is not None]
                axis.errorbar(
                    places,
                    [band.mean for band in bands],
                    _reach(bands),
                    color=COLOURS[2 * shift % len(COLOURS)],
                    label=label_of(plan, method),
                    **{**_MARKER, "fmt": "o-"},
                )
            axis.set_xticks(
                range(len(names)), [str(plan.settings[name].classes_per_batch) for name in names]
            )
            axis.set_ylim(-5, 105)  # intervals of few seeds may reach beyond what there is
            axis.set_title(f"Fewer classes in a batch: {title}")
            axis.set_xlabel("classes in a batch of the same size")
            axis.set_ylabel("%")
        axis.legend()


def matrices(path: Path, plan: Plan, rows: Table) -> None:
    """Draw how images and sounds of one class match after training (Figure 7 of the paper)."""
    settings, methods = plan.report["settings"], plan.report["curves"]
    found = {}
    for setting in settings.values():
        for method in methods:
            chosen = rows.chosen(setting=setting, method=method)
            if not chosen:
                continue
            found[setting, method] = np.array(
                [[float(v) for k, v in row.items() if k not in (*KEY, "image")] for row in chosen]
            )
    low = min(matrix.min() for matrix in found.values())
    with style.figure(path, 8.2, 2.3 * len(settings)) as figure:
        grid = figure.subplots(len(settings), len(methods), squeeze=False)
        for axes, setting in zip(grid, settings.values(), strict=True):
            for axis, method in zip(axes, methods, strict=True):
                axis.set_axis_off()
                if (setting, method) not in found:
                    continue
                axis.set_axis_on()
                matrix = found[setting, method]
                image = axis.imshow(matrix, cmap=style.SEQUENTIAL, vmin=low, vmax=1)
                axis.set_title(label_of(plan, method), fontsize=8)
                others = matrix[~np.eye(len(matrix), dtype=bool)].mean()
                axis.set_xlabel(
                    f"others {others:.2f}, own {matrix.diagonal().mean():.2f}", fontsize=7
                )
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(False)
            axes[0].set_ylabel(label_of(plan, setting), fontsize=8)
        figure.colorbar(image, ax=grid, shrink=0.6).set_label("highest cosine")
