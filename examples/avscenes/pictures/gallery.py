"""Draws the best, the median and the worst samples of a test, with every map that was scored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from torch import Tensor

from avcontrast import metrics
from avcontrast.plots import as_picture, prediction_cut, show_map
from avscenes.models.object_maps import heat_maps
from avscenes.pictures import style
from avscenes.pictures.overlays import bare, draw_truth, legend, shorten
from avscenes.sets.testsets import NamedTests
from avscenes.testing.run import Tested

EACH = 3
_ROWS = {"model": "model", "ogl": "object map (OGL)", "mix": "mix"}


class _Column(NamedTuple):
    """One sample of the gallery."""

    row: int  # of the test set
    name: str
    visible: bool
    heats: dict[str, Tensor]
    scores: dict[str, float]


def ranked(scores: Tensor, *, low: bool = False) -> dict[str, list[int]]:
    """Return the places of the best, the median and the worst samples, the better ones first.

    Three of each, or fewer where that would show a sample twice; equal ones in their order. The
    best is the highest score, or the lowest.
    """
    order = scores.argsort(descending=not low, stable=True).tolist()
    each = min(EACH, max(1, len(order) // 3))
    middle = (len(order) - each) // 2
    return {
        "best": order[:each],
        "median": order[middle : middle + each],
        "worst": order[-each:],
    }


def groups_of(tested: Tested, score: str) -> dict[str, list[int]]:
    """Return the places of the samples to draw: visible ones by a score, and the silent ones.

    Of the silent ones those that the model is surest to see sounding, the worst first.
    """
    seen = tested.visible.nonzero().flatten()
    groups = {
        name: seen[places].tolist()
        for name, places in ranked(tested.columns[score][seen], low=score.endswith("_rank")).items()
    }
    silent = (~tested.visible).nonzero().flatten()
    if len(silent):
        order = tested.columns["model_confidence"][silent].argsort(descending=True, stable=True)
        groups["source not in the image"] = silent[order[:EACH]].tolist()
    return groups


def draw_gallery(path: Path, tests: NamedTests, tested: Tested, name: str) -> None:
    """Draw a column a sample: image with its true place, then the maps, scores and predictions.

    Where no true place is known, samples are ranked by where their sound is found, and what is
    outlined is the top quarter of a map.
    """
    test, how = tests.labelled, tested.how
    threshold = metrics.PROTOCOLS[how.protocol].threshold if test.located else 0.75
    measure = "iou" if test.masks else "ciou"
    score = f"model_{measure}_{threshold}" if test.located else "image_to_sound_rank"
    groups = groups_of(tested, score)
    places = [place for group in groups.values() for place in group]
    heats = heat_maps(
        tested.maps[places],
        None if tested.objects is None else tested.objects[places],
        size=test.image_size,
        protocol=how.protocol,
        object_share=how.object_share,
    )
    rows = tested.rows[places].tolist()
    columns = [
        _Column(
            row,
            # Its own name where it has no class.
            test.class_names[int(test.labels[row])] or tests.names[row],
            bool(tested.visible[place]),
            {who: heat[number] for who, heat in heats.items()},
            {column: values[place].item() for column, values in tested.columns.items()},
        )
        for number, (place, row) in enumerate(zip(places, rows, strict=True))
    ]
    width = 1.42 * len(columns) + 0.5
    with style.figure(path, max(width, 6.5), 1.62 * (1 + len(heats)) + 1.25) as figure:
        what = "IoU" if test.masks else "cIoU"
        what = what if test.located else "rank of their sound"
        count = int(tested.visible.sum())
        title = f"Best, median and worst of {count} test pairs by {what} ({name})"
        figure.suptitle(title, x=0.012, ha="left", fontsize=11)
        grid, starts = _grid(figure, [len(group) for group in groups.values()], len(heats))
        left, limits = iter(columns), _limits(tested, heats)
        for (group, members), first in zip(groups.items(), starts, strict=True):
            heading = figure.add_subplot(grid[0, first : first + len(members)])
            bare(heading)
            heading.set_title(group, loc="left", fontsize=11, pad=1)
            heading.axhline(0.5, color=style.MUTED, lw=0.8)
            for number in range(first, first + len(members)):
                _draw_column(figure, grid, number, tests, next(left), threshold, limits)
        true = "true mask" if test.masks else "true box"
        if test.located:
            legend(figure, true, "predicted region")
        else:
            legend(figure, None, "top quarter of the map")


def _limits(tested: Tested, heats: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Return the range of colours of the maps that are compared with each other."""
    return {
        who: (heat.min().item(), heat.max().item())
        for who, heat in heats.items()
        if f"{who}_confidence" in tested.columns
    }


def _grid(figure: Figure, sizes: list[int], maps: int) -> tuple[GridSpec, list[int]]:
    """Return a grid of groups with a gap between them, under headings, and where they start."""
    ratios: list[float] = []
    starts = []
    for size in sizes:
        ratios += [0.08] if ratios else []
        starts.append(len(ratios))
        ratios += [1.0] * size
    grid = GridSpec(
        2 + maps,
        len(ratios),
        figure=figure,
        width_ratios=ratios,
        height_ratios=[0.06, *[1.0] * (1 + maps)],
    )
    return grid, starts


def _draw_column(
    figure: Figure,
    grid: GridSpec,
    number: int,
    tests: NamedTests,
    column: _Column,
    threshold: str | float,
    limits: dict[str, tuple[float, float]],
) -> None:
    test = tests.labelled
    picture = as_picture(test.pairs[column.row][0])
    height, width = picture.shape[:2]
    plain = figure.add_subplot(grid[1, number])
    plain.imshow(picture)
    plain.set_title(shorten(column.name, 18), fontsize=8)
    axes = [plain]
    for line, (who, heat) in enumerate(column.heats.items(), start=2):
        axis = figure.add_subplot(grid[line, number])
        area = column.scores.get("gt_area", 0.0)
        cut = prediction_cut(heat, threshold, area) if column.visible else None
        show_map(axis, picture, heat, cut, limits.get(who))
        axis.set_title(_scores(who, column, threshold), fontsize=8, fontweight="normal")
        axes.append(axis)
    for axis in axes:
        draw_truth(axis, test, column.row, width, height)
        bare(axis)
    if number == 0:
        for axis, label in zip(axes, ["image", *(_ROWS[who] for who in column.heats)], strict=True):
            axis.set_ylabel(label, fontsize=9)


def _scores(who: str, column: _Column, threshold: str | float) -> str:
    parts = []
    for key, label in ((f"{who}_ciou_{threshold}", "cIoU"), (f"{who}_iou_{threshold}", "IoU")):
        if key in column.scores and column.visible:
            parts.append(f"{label} {column.scores[key]:.2f}")
    if who == "model" and "image_to_sound_rank" in column.scores:
        parts.append(f"sound at {column.scores['image_to_sound_rank']:.0f}")
    if f"{who}_confidence" in column.scores:
        parts.append(f"conf. {column.scores[f'{who}_confidence']:.2f}")
    return ", ".join(parts)
