"""Draws an image, a heat map over it, the predicted region and true boxes into given axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from avscenes import figure_style as style

Picture = NDArray[np.float32]


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


def show_heat(axis: Axes, picture: Picture, heat: Tensor, cut: float | None) -> None:
    """Lay a map [h, w] over the image in grey, and outline what lies above `cut`."""
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = picture.mean(axis=2)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1.3)
    values = heat.numpy()
    axis.imshow(values, cmap=style.HEAT, alpha=0.6, extent=extent)
    if cut is not None and values.min() < cut < values.max():
        x = (np.arange(values.shape[1]) + 0.5) * width / values.shape[1] - 0.5
        y = (np.arange(values.shape[0]) + 0.5) * height / values.shape[0] - 0.5
        axis.contour(x, y, values, [cut], colors=style.SKY, linewidths=1.6)


def draw_boxes(axis: Axes, boxes: Tensor, width: int, height: int) -> None:
    """Draw boxes [k, 4] in shares of the image, dashed, visible on light and on dark."""
    for x0, y0, x1, y1 in boxes.clamp(0, 1).tolist():
        place = (x0 * width - 0.5, y0 * height - 0.5), (x1 - x0) * width, (y1 - y0) * height
        for colour, line, thickness in ((style.INK, "-", 2.2), ("white", "--", 1.2)):
            axis.add_patch(Rectangle(*place, fill=False, ec=colour, ls=line, lw=thickness))


def cut_of(heat: Tensor, threshold: str | float, area: float) -> float:
    """Return the value above which a map [h, w] predicts, `area` being the share of the object."""
    if threshold == "fixed":
        return 0.5
    if threshold == "area" and area > 0:
        share = area
    else:
        share = 0.5 if isinstance(threshold, str) else 1 - threshold
    return heat.flatten().quantile(1 - share).item()
