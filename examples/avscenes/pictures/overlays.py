"""Draws what stands beside the maps: true regions, and what the lines in a picture mean."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from avcontrast.plots import OUTLINE, SKY, positions, show_boxes
from avscenes.pictures import style
from avscenes.sets.labelled import LabelledSet


def bare(axis: Axes) -> None:
    """Take everything but the content and the labels away."""
    axis.grid(False)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_truth(axis: Axes, test: LabelledSet, row: int, width: int, height: int) -> None:
    """Outline the boxes or the mask of a sample, visible on light and on dark."""
    if test.masks:
        _draw_mask(axis, test.truth(row), width, height)
    else:
        show_boxes(axis, test.boxes[row], width, height)


def _draw_mask(axis: Axes, mask: Tensor, width: int, height: int) -> None:
    if not mask.any():
        return
    # With nothing around it, the outline closes at the edges of the image.
    values = np.pad(mask.numpy(), 1)
    x, y = (
        np.concatenate([[-0.5], positions(count, length), [length - 0.5]])
        for count, length in ((mask.shape[1], width), (mask.shape[0], height))
    )
    for colour, line, thickness in OUTLINE:
        axis.contour(x, y, values, [0.5], colors=colour, linestyles=line, linewidths=thickness)


def shorten(label: str, most: int) -> str:
    """Return a name that fits above a small picture."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def legend(figure: Figure, true: str | None, predicted: str) -> None:
    """Say under all pictures what the lines in them mean."""
    lines = [Line2D([], [], color=SKY, lw=2, label=predicted)]
    if true is not None:
        lines.insert(0, Line2D([], [], color="white", lw=2, ls="--", label=true))
    figure.legend(
        handles=lines,
        loc="outside lower left",
        ncols=2,
        labelcolor="white",
        facecolor=style.INK,
        frameon=True,
    )
