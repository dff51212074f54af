"""The figures of the report."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from avscenes import figure_style as style
from avstudy.effects import MEASURES, effect, label_of, methods_of
from avstudy.plan import Plan
from avstudy.rows import KEY, Table
from avstudy.statistics import Interval, mean_interval

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
    settings, reference = plan.report["settings"], plan.report["reference"]
    longest = max(len(methods_of(rows, setting)) for setting in settings.values())
    with style.figure(path, 8.2, len(settings) * (0.9 + 0.2 * longest)) as figure:
        grid = figure.subplots(len(settings), 2, squeeze=False)
        for axes, setting in zip(grid, settings.values(), strict=True):
            methods = [m for m in methods_of(rows, setting) if m != reference]
            labels = [label_of(plan, method) for method in methods]
            colours = [
                style.GREEN if m == plan.report["ceiling"] else style.VERMILION for m in methods
            ]
            for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
                found = [
                    effect(rows, measure, "evaluation", setting, m, reference) for m in methods
                ]
                _intervals(axis, labels, found, colours)
                axis.set_title(f"{label_of(plan, setting)}: {title}")
            axes[1].set_yticklabels([])
        for axis in grid[-1]:
            axis.set_xlabel("difference to InfoNCE, points, 95 %")


def _intervals(
    axis: Axes,
    labels: list[str],
    found: list[Interval | None],
    colours: list[str],
) -> None:
    axis.axvline(0, color=style.INK, linewidth=0.8)
    for place, (interval, colour) in enumerate(zip(found, colours, strict=True)):
        if interval is not None:
            reach = [[interval.mean - interval.low], [interval.high - interval.mean]]
            axis.errorbar(
                interval.mean, place, xerr=reach, fmt="o", color=colour, markersize=4, capsize=2
            )
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


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
    axis.plot(epochs, [band.mean for band in bands], color=colour, label=label)
    axis.fill_between(
        epochs, [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.15, lw=0
    )


def classes(path: Path, plan: Plan, rows: Table) -> None:
    """Draw both measures against the number of classes in a batch (Figure 2 of the paper)."""
    chosen = rows.chosen(stage="classes")
    methods = list(dict.fromkeys(row["method"] for row in chosen))
    counts = sorted({int(row["classes_per_batch"]) for row in chosen}, reverse=True)
    with style.figure(path, 8.2, 3.2) as figure:
        for axis, (measure, title) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
            for shift, (method, colour) in enumerate(
                zip(methods, itertools.cycle(COLOURS[::2]), strict=False)
            ):
                bands = [
                    mean_interval(
                        [
                            100 * float(row[measure])
                            for row in chosen
                            if row["method"] == method and int(row["classes_per_batch"]) == count
                        ]
                    )
                    for count in counts
                ]
                axis.errorbar(
                    [place + 0.08 * shift for place in range(len(counts))],
                    [band.mean for band in bands],
                    [[b.mean - b.low for b in bands], [b.high - b.mean for b in bands]],
                    color=colour,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    label=label_of(plan, method),
                )
            axis.set_xticks(range(len(counts)), [str(count) for count in counts])
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
