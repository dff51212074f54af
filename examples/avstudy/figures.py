"""The figures of the report."""

from __future__ import annotations

import itertools
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from avcontrast import metrics, plots
from avscenes.pictures import overlays, style
from avscenes.scenes.scene import Scene, make_scene
from avstudy import digits
from avstudy.effects import MEASURES, Stage
from avstudy.plan import ADJACENCY_WEIGHTS, DigitSetting, Method
from avstudy.statistics import Interval, mean_interval

_MARKER: Any = {"fmt": "o", "markersize": 4, "capsize": 2}
COLOURS = (style.MUTED, style.GREEN, style.VERMILION, style.BLUE, style.ORANGE)


def calibration(path: Path, stage: Stage) -> None:
    """Draw the gap between oracle and reference in every candidate."""
    names = stage.settings()
    with style.figure(path, 8.2, 0.9 + 0.32 * len(names)) as figure:
        for axis, (measure, title) in zip(
            figure.subplots(1, 2, sharey=True), MEASURES.items(), strict=True
        ):
            gaps = [stage.gap(measure, name) for name in names]
            _intervals(axis, names, gaps, [style.GREEN] * len(names))
            axis.set_title(f"What false negatives cost: {title}")
            axis.set_xlabel("oracle minus InfoNCE, points, 95 %")


def effects(path: Path, stage: Stage) -> None:
    """Draw the difference of every method to the reference in every setting."""
    reference = stage.plan.report["reference"]
    settings = [s for s in stage.plan.report["settings"].values() if stage.methods(s)]
    lines = [len(stage.methods(setting)) + 3 for setting in settings]
    with style.figure(path, 8.2, 0.2 * sum(lines)) as figure:
        grid = figure.subplots(
            len(settings), 2, squeeze=False, gridspec_kw={"height_ratios": lines}
        )
        for axes, setting in zip(grid, settings, strict=True):
            methods = [m for m in stage.methods(setting) if m != reference]
            colours = [_kind_colour(stage.plan.method(setting, method)) for method in methods]
            for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
                found = [stage.effect(measure, setting, m, reference) for m in methods]
                _intervals(axis, [*map(stage.label, methods)], found, colours)
                axis.set_title(f"{stage.label(setting)}: {title}")
            axes[1].set_yticklabels([])
        for axis in grid[-1]:
            axis.set_xlabel("difference to InfoNCE, points, 95 %")


def _kind_colour(method: Method) -> str:
    """Tell losses that know labels, elimination, adjacency terms, others and InfoNCE apart."""
    if method.ignore != "nothing":
        return style.GREEN
    if method.elimination != "none":
        return style.ORANGE
    if any(getattr(method, name) for name in ADJACENCY_WEIGHTS):
        return style.VERMILION
    return style.BLUE if method.contrast == "nce" else style.MUTED


def _intervals(axis: Axes, labels: list[str], found: list[Interval], colours: list[str]) -> None:
    axis.axvline(0, color=style.INK, linewidth=0.8)
    for place, (interval, colour) in enumerate(zip(found, colours, strict=True)):
        axis.errorbar(interval.mean, place, xerr=_reach([interval]), color=colour, **_MARKER)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def _reach(intervals: list[Interval]) -> list[list[float]]:
    """Return how far intervals reach to both sides; those of a single seed are not drawn."""
    low = [interval.mean - interval.low for interval in intervals]
    high = [interval.high - interval.mean for interval in intervals]
    return [[side if math.isfinite(side) else math.nan for side in sides] for sides in (low, high)]


def curves(path: Path, stage: Stage) -> None:
    """Draw both measures over the epochs: means and 95 % intervals over the seeds."""
    settings, methods = stage.plan.report["settings"].values(), stage.plan.report["curves"]
    with style.figure(path, 8.2, 5.0) as figure:
        grid = figure.subplots(2, len(settings), squeeze=False, sharex="col", sharey="row")
        for (measure, title), axes in zip(MEASURES.items(), grid, strict=True):
            axes[0].set_ylabel(f"{title}, %")
            for axis, setting in zip(axes, settings, strict=True):
                for method, colour in zip(methods, itertools.cycle(COLOURS), strict=False):
                    points = _chosen(stage.rows, setting, method).set_index("epoch")[measure]
                    _curve(axis, 100 * points, stage.label(method), colour)
        for top, bottom, setting in zip(*grid, settings, strict=True):
            top.set_title(stage.label(setting))
            bottom.set_xlabel("epoch")
        grid[0][0].legend(fontsize=8)


def _chosen(rows: pd.DataFrame, setting: str, method: str) -> pd.DataFrame:
    return rows[(rows.setting == setting) & (rows.method == method)]


def _curve(axis: Axes, points: pd.Series, label: str, colour: str) -> None:
    bands = {epoch: mean_interval(values) for epoch, values in points.groupby(level="epoch")}
    means = np.array([band.mean for band in bands.values()])
    low, high = _reach([*bands.values()])
    axis.plot([*bands], means, color=colour, label=label)
    axis.fill_between([*bands], means - low, means + high, color=colour, alpha=0.15, lw=0)


def classes(path: Path, stage: Stage) -> None:
    """Draw both measures against the number of classes in a batch (Figure 2 of the paper)."""
    names = stage.settings()
    counts = [str(stage.plan.settings[name].classes_per_batch) for name in names]
    with style.figure(path, 8.2, 3.2) as figure:
        for axis, (measure, title) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
            for shift, method in enumerate(stage.methods(names[0])):
                bands = [stage.mean(measure, name, method) for name in names]
                axis.errorbar(
                    [n + 0.08 * shift for n in range(len(names))],
                    [band.mean for band in bands],
                    _reach(bands),
                    color=COLOURS[2 * shift % len(COLOURS)],
                    label=stage.label(method),
                    **{**_MARKER, "fmt": "o-"},
                )
            axis.set_xticks(range(len(names)), counts)
            axis.set_ylim(-5, 105)  # intervals of few seeds may reach beyond what there is
            axis.set_title(f"Fewer classes in a batch: {title}")
            axis.set_xlabel("classes in a batch of the same size")
            axis.set_ylabel("%")
        axis.legend()


def matrices(path: Path, stage: Stage) -> None:
    """Draw how images and sounds of one class match after training (Figure 7 of the paper)."""
    settings, methods = stage.plan.report["settings"].values(), stage.plan.report["curves"]
    rows = stage.rows[stage.rows.setting.isin(settings) & stage.rows.method.isin(methods)]
    low = rows.filter(like="sound_").min(axis=None)
    with style.figure(path, 8.2, 2.3 * len(settings)) as figure:
        grid = figure.subplots(len(settings), len(methods), squeeze=False)
        for axes, setting in zip(grid, settings, strict=True):
            for axis, method in zip(axes, methods, strict=True):
                found = _chosen(rows, setting, method)
                if found.empty:
                    axis.set_axis_off()
                    continue
                matrix = found.filter(like="sound_").to_numpy()
                image = axis.imshow(matrix, cmap=style.SEQUENTIAL, vmin=low, vmax=1)
                axis.set_title(stage.label(method), fontsize=8)
                others = matrix[~np.eye(len(matrix), dtype=bool)].mean()
                axis.set_xlabel(
                    f"others {others:.2f}, own {matrix.diagonal().mean():.2f}", fontsize=7
                )
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(False)
            axes[0].set_ylabel(stage.label(setting), fontsize=8)
        figure.colorbar(image, ax=grid, shrink=0.6).set_label("highest cosine")


def _scene(stage: Stage, setting: str, split: str, number: int) -> Scene:
    """Return a scene to look at; that of digits says nothing."""
    seed, how = stage.plan.report["matrices"]["seed"], stage.plan.settings[setting]
    if isinstance(how, DigitSetting):
        return digits.make_scene(seed, split, number, how)
    return make_scene(seed, split, number, how.design)


def heat_maps(path: Path, stage: Stage, setting: str) -> None:
    """Draw test scenes, and under each the heat maps of methods with the top quarter outlined."""
    found = {name: _chosen(stage.rows, setting, name) for name in stage.plan.report["curves"]}
    found = {name: rows for name, rows in found.items() if not rows.empty}
    numbers = next(iter(found.values())).scene
    scenes = [_scene(stage, setting, "test", number) for number in numbers]
    size = stage.plan.settings[setting].size
    with style.figure(path, 8.2, 0.6 + 8 * (1 + len(found)) / len(scenes)) as figure:
        grid = figure.subplots(1 + len(found), len(scenes), squeeze=False)
        for axis, scene in zip(grid[0], scenes, strict=True):
            axis.imshow(scene.image)
        for axes, (name, rows) in zip(grid[1:], found.items(), strict=True):
            maps = torch.tensor(rows.filter(like="position_").to_numpy())
            side = math.isqrt(maps.shape[1])
            heats = metrics.upsample(maps.reshape(-1, side, side), (size, size))
            axes[0].set_ylabel(textwrap.fill(stage.label(name), 15), fontsize=8)
            for axis, scene, heat in zip(axes, scenes, heats, strict=True):
                picture = plots.as_picture(scene.image)
                plots.show_map(axis, picture, heat, plots.prediction_cut(heat))
        for axes in grid:
            for axis, scene in zip(axes, scenes, strict=True):
                overlays.bare(axis)
                plots.show_boxes(axis, torch.tensor([scene.box]), size, size)
        overlays.legend(figure, "what is heard", "top quarter")


def left_out(path: Path, stage: Stage, setting: str) -> None:
    """Draw images of a batch, and beside each the objects whose sounds were left out for it."""
    rows = _chosen(stage.rows, setting, stage.methods(setting)[0])
    images = dict(list(rows.groupby("image", sort=False)))
    columns = 1 + max(map(len, images.values()))
    with style.figure(path, 1.25 * columns, 0.5 + 1.35 * len(images)) as figure:
        grid = figure.subplots(len(images), columns, squeeze=False)
        for axes, (image, pairs) in zip(grid, images.items(), strict=True):
            shown = [(image, style.INK, "own sound")]
            for pair in pairs.itertuples():
                colour, says = (
                    (style.GREEN, "same class")
                    if pair.same_class
                    else (style.BLUE, "class of the other")
                    if pair.shown
                    else (style.VERMILION, "neither")
                )
                shown.append((pair.sound, colour, says))
            for axis in axes:
                axis.set_axis_off()
            for axis, (number, colour, says) in zip(axes, shown, strict=False):
                scene = _scene(stage, setting, "train", number)
                axis.imshow(scene.image)
                plots.show_boxes(axis, torch.tensor([scene.box]), *scene.image.shape[:2])
                axis.set_title(says, fontsize=7, color=colour)


def left_out_over_time(path: Path, stage: Stage) -> None:
    """Draw over the epochs which share of the pairs is left out, and how much of it rightly."""
    stage = stage._replace(rows=stage.rows[stage.rows.left_out.notna()])
    settings = [name for name in stage.plan.report["settings"].values() if stage.methods(name)]
    lines = {
        "left_out": ("left out", style.INK),
        "left_out_same_class": ("of these: same class", style.GREEN),
        "left_out_shown": ("of these: shown", style.BLUE),
    }
    with style.figure(path, 8.2, 2.8) as figure:
        grid = figure.subplots(1, len(settings), squeeze=False, sharey=True)
        for axis, setting in zip(grid[0], settings, strict=True):
            points = _chosen(stage.rows, setting, stage.methods(setting)[0]).set_index("epoch")
            for name, (label, colour) in lines.items():
                _curve(axis, 100 * points[name].dropna(), label, colour)
            axis.set_title(stage.label(setting))
            axis.set_xlabel("epoch")
            axis.set_ylim(0, 100)
        grid[0][0].set_ylabel("%")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
