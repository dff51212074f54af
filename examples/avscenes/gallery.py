"""Draws the best, the median and the worst samples of a test, with every map that was scored."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from torch import Tensor

from avcontrast import functional, metrics
from avscenes import figure_style as style
from avscenes.datasets import LabelledSet
from avscenes.objects import heat_maps
from avscenes.one_pass import Tested
from avscenes.overlays import as_picture, bare, cut_of, draw_boxes, show_heat

EACH = 3
_ROWS = {"model": "model", "ogl": "object map (OGL)", "mix": "mix"}


def ranked(ciou: Tensor) -> dict[str, list[int]]:
    """Return the places of the best, the median and the worst samples, the better ones first.

    Three of each, or fewer where that would show a sample twice; equal ones in their order.
    """
    order = ciou.argsort(descending=True, stable=True).tolist()
    each = min(EACH, max(1, len(order) // 3))
    middle = (len(order) - each) // 2
    return {
        "best": order[:each],
        "median": order[middle : middle + each],
        "worst": order[-each:],
    }


def draw_gallery(
    path: Path,
    test: LabelledSet,
    tested: Tested,
    *,
    protocol: str,
    object_share: float,
    title: str,
) -> None:
    """Draw a column a sample: image with true boxes, then the maps with cIoU and prediction."""
    rules = metrics.PROTOCOLS[protocol]
    groups = ranked(tested.columns[f"model_ciou_{rules.threshold}"])
    places = [place for group in groups.values() for place in group]
    heats = heat_maps(
        functional.localization_map(tested.features.visual[places], tested.features.audio[places]),
        None if tested.objects is None else tested.objects[places],
        size=test.image_size,
        protocol=protocol,
        object_share=object_share,
    )
    each = len(groups["best"])
    with style.figure(path, 1.42 * 3 * each + 0.5, 1.62 * (1 + len(heats)) + 1.25) as figure:
        figure.suptitle(title, x=0.012, ha="left", fontsize=11)
        grid = _grid(figure, each, len(heats))
        for number, (group, members) in enumerate(groups.items()):
            first = number * (each + 1)
            heading = figure.add_subplot(grid[0, first : first + each])
            bare(heading)
            heading.set_title(group, loc="left", fontsize=11, pad=1)
            heading.axhline(0.5, color=style.MUTED, lw=0.8)
            for offset, place in enumerate(members):
                _draw_sample(
                    figure,
                    grid,
                    first + offset,
                    test,
                    int(tested.rows[place]),
                    {who: heat[number * each + offset] for who, heat in heats.items()},
                    {name: column[place].item() for name, column in tested.columns.items()},
                    rules.threshold,
                )
        figure.legend(
            handles=[
                Line2D([], [], color="white", lw=2, ls="--", label="true box"),
                Line2D([], [], color=style.SKY, lw=2, label="predicted region"),
            ],
            loc="outside lower left",
            ncols=2,
            labelcolor="white",
            facecolor=style.INK,
            frameon=True,
        )


def _grid(figure: Figure, each: int, maps: int) -> GridSpec:
    """Return a grid of three groups with a gap between them, under a line of headings."""
    group = [1.0] * each
    return GridSpec(
        2 + maps,
        3 * each + 2,
        figure=figure,
        width_ratios=[*group, 0.08, *group, 0.08, *group],
        height_ratios=[0.06, *[1.0] * (1 + maps)],
    )


def _draw_sample(
    figure: Figure,
    grid: GridSpec,
    column: int,
    test: LabelledSet,
    row: int,
    heats: dict[str, Tensor],
    scores: dict[str, float],
    threshold: str | float,
) -> None:
    picture = as_picture(test.pairs[row][0])
    height, width = picture.shape[:2]
    plain = figure.add_subplot(grid[1, column])
    plain.imshow(picture)
    plain.set_title(shorten(test.class_names[int(test.labels[row])]), fontsize=8)
    axes = [plain]
    for line, (who, heat) in enumerate(heats.items(), start=2):
        axis = figure.add_subplot(grid[line, column])
        show_heat(axis, picture, heat, cut_of(heat, threshold, scores["gt_area"]))
        ciou = scores[f"{who}_ciou_{threshold}"]
        axis.set_title(f"cIoU {ciou:.2f}", fontsize=8, fontweight="normal")
        axes.append(axis)
    for axis in axes:
        draw_boxes(axis, test.boxes[row], width, height)
        bare(axis)
    if column == 0:
        for axis, label in zip(axes, ["image", *(_ROWS[who] for who in heats)], strict=True):
            axis.set_ylabel(label, fontsize=9)


def shorten(label: str) -> str:
    """Return a class name that fits above a small picture."""
    return label if len(label) <= 18 else f"{label[:17]}…"
