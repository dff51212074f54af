"""Draws an image, a heat map over it, the predicted and the true region into given axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from avscenes.pictures import style
from avscenes.sets.labelled import LabelledSet

Picture = NDArray[np.float32]
# Colours, lines and widths that are drawn over each other.
_OUTLINE: tuple[tuple[str, str, float], ...] = ((style.INK, "-", 2.2), ("white", "--", 1.2))


def as_picture(image: Tensor) -> Picture:
    """Stretch a normalised image [3, h, w] to [0, 1], [h, w, 3]."""
    low, high = image.amin(), image.amax()
    stretched = (image - low) / (high - low).clamp(min=1e-6)
    picture: Picture = stretched.movedim(0, -1).float().numpy()
    return picture


def bare(axis: Axes) -> None:
    """Take everything but the content and the labels away."""
    axis.grid(False)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def show_heat(
    axis: Axes,
    picture: Picture,
    heat: Tensor,
    cut: float | None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Lay a map [h, w] over the image in grey, and outline what lies above `cut`.

    Args:
        axis: To draw into.
        picture: The image.
        heat: The map.
        cut: Of the prediction, or None to outline nothing.
        limits: Values of the darkest and the brightest colour, instead of those of this map.
    """
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = picture.mean(axis=2)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1.3)
    values = heat.numpy()
    low, high = limits or (None, None)
    axis.imshow(values, cmap=style.HEAT, alpha=0.6, extent=extent, vmin=low, vmax=high)
    if cut is not None and values.min() < cut < values.max():
        x, y = _positions(values.shape[1], width), _positions(values.shape[0], height)
        # Left to itself, matplotlib draws the contours of negative values dashed.
        axis.contour(x, y, values, [cut], colors=style.SKY, linestyles="-", linewidths=1.6)


def _positions(count: int, length: int) -> NDArray[np.float64]:
    """Return where the pixels of a map lie in an image of another size."""
    return (np.arange(count) + 0.5) * length / count - 0.5


def draw_truth(axis: Axes, test: LabelledSet, row: int, width: int, height: int) -> None:
    """Outline the boxes or the mask of a sample, visible on light and on dark."""
    if test.masks:
        _draw_mask(axis, test.truth(row), width, height)
    else:
        draw_boxes(axis, test.boxes[row], width, height)


def draw_boxes(axis: Axes, boxes: Tensor, width: int, height: int) -> None:
    """Outline boxes [n, 4], likewise."""
    for x0, y0, x1, y1 in boxes.clamp(0, 1).tolist():
        place = (x0 * width - 0.5, y0 * height - 0.5), (x1 - x0) * width, (y1 - y0) * height
        for colour, line, thickness in _OUTLINE:
            axis.add_patch(Rectangle(*place, fill=False, ec=colour, ls=line, lw=thickness))


def _draw_mask(axis: Axes, mask: Tensor, width: int, height: int) -> None:
    if not mask.any():
        return
    # With nothing around it, the outline closes at the edges of the image.
    values = np.pad(mask.numpy(), 1)
    x, y = (
        np.concatenate([[-0.5], _positions(count, length), [length - 0.5]])
        for count, length in ((mask.shape[1], width), (mask.shape[0], height))
    )
    for colour, line, thickness in _OUTLINE:
        axis.contour(x, y, values, [0.5], colors=colour, linestyles=line, linewidths=thickness)


def cut_of(heat: Tensor, threshold: str | float, area: float) -> float:
    """Return the value above which a map [h, w] predicts, `area` being the share of the object."""
    if threshold == "fixed":
        return 0.5
    if threshold == "area" and area > 0:
        share = area
    else:
        share = 0.5 if isinstance(threshold, str) else 1 - threshold
    return heat.flatten().quantile(1 - share).item()


def shorten(label: str, most: int) -> str:
    """Return a name that fits above a small picture."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def legend(figure: Figure, true: str | None, predicted: str) -> None:
    """Say under all pictures what the lines in them mean."""
    lines = [Line2D([], [], color=style.SKY, lw=2, label=predicted)]
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
