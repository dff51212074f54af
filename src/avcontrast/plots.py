"""Maps over images: where a model sees what it hears.

Importing this module needs matplotlib (``pip install "avcontrast[plots]"``); importing
:mod:`avcontrast` does not. Nothing here touches ``pyplot`` or its settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avcontrast import _checks as checks
from avcontrast import metrics
from avcontrast.metrics._checks import check_maps

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'avcontrast.plots needs matplotlib: pip install "avcontrast[plots]"'
    ) from error

__all__ = ["as_picture", "draw_maps", "prediction_cut", "show_boxes", "show_map"]

Picture = NDArray[np.float32]

HEAT = "inferno"
SKY = "#56B4E9"  # of the palette of Okabe and Ito
# Colours, lines and widths that are drawn over each other, to be seen on light and on dark.
OUTLINE: tuple[tuple[str, str, float], ...] = (("#222222", "-", 2.2), ("white", "--", 1.2))


def as_picture(image: object) -> Picture:
    """An image as matplotlib shows it.

    Args:
        image: a tensor (3, h, w), or an array or a Pillow image (h, w, 3). Values of 8 bits are
            divided by 255; floating-point ones, normalised in whatever way, are stretched to
            [0, 1].

    Returns:
        An array (h, w, 3) in [0, 1], float32.

    Raises:
        ValueError: ``image`` has another shape.

    Example:
        >>> import torch
        >>> from avcontrast.plots import as_picture
        >>> as_picture(torch.randn(3, 20, 30)).shape
        (20, 30, 3)
    """
    pixels: NDArray[Any] = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    size = pixels.shape
    if isinstance(image, Tensor):
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim else pixels
    checks.check_picture(size, pixels.shape)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    low, high = float(pixels.min()), float(pixels.max())
    return ((pixels - low) / max(high - low, 1e-6)).astype(np.float32)


def prediction_cut(heat: Tensor, threshold: str | float = 0.75, area: float = 0.0) -> float:
    """The value above which a map predicts the place of a sound.

    Args:
        heat: a map, floating point.
        threshold: as in :func:`avcontrast.metrics.consensus_iou`: ``"half"``, ``"area"``,
            ``"fixed"``, or the share of the pixels that is left out.
        area: share of the image that the object covers, for ``"area"``.

    Shape:
        ``heat`` (h, w).

    Example:
        >>> import torch
        >>> from avcontrast.plots import prediction_cut
        >>> prediction_cut(torch.arange(5.0)[None])
        3.0
    """
    if threshold == "fixed":
        return 0.5
    if threshold == "area" and area > 0:
        share = area
    else:
        share = 0.5 if isinstance(threshold, str) else 1 - threshold
    return heat.flatten().quantile(1 - share).item()


def show_map(
    axis: Axes,
    picture: Picture,
    heat: Tensor,
    cut: float | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Lay a map over the image in grey, and outline what lies above ``cut``.

    Args:
        axis: to draw into.
        picture: the image, as :func:`as_picture` returns it.
        heat: the map. It is stretched over the image as it is: enlarge a small one by
            :func:`avcontrast.metrics.upsample` first.
        cut: of the prediction (see :func:`prediction_cut`), or ``None`` to outline nothing.
        limits: values of the darkest and the brightest colour, instead of those of this map.

    Shape:
        ``picture`` (H, W, 3), ``heat`` (h, w).
    """
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = picture.mean(axis=2)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1.3)
    values = heat.detach().float().cpu().numpy()
    low, high = limits or (None, None)
    axis.imshow(values, cmap=HEAT, alpha=0.6, extent=extent, vmin=low, vmax=high)
    if cut is not None and values.min() < cut < values.max():
        x, y = positions(values.shape[1], width), positions(values.shape[0], height)
        # Left to itself, matplotlib draws the contours of negative values dashed.
        axis.contour(x, y, values, [cut], colors=SKY, linestyles="-", linewidths=1.6)


def positions(count: int, length: int) -> NDArray[np.float64]:
    """Return where the pixels of a map lie in an image of another size."""
    return (np.arange(count) + 0.5) * length / count - 0.5


def show_boxes(axis: Axes, boxes: Tensor, width: int, height: int) -> None:
    """Outline boxes, visible on light and on dark.

    Args:
        axis: to draw into.
        boxes: (xmin, ymin, xmax, ymax) of each box as shares of width and height.
        width: of the image that ``axis`` shows, in pixels.
        height: likewise.

    Shape:
        ``boxes`` (k, 4).
    """
    for x0, y0, x1, y1 in boxes.clamp(0, 1).tolist():
        place = (x0 * width - 0.5, y0 * height - 0.5), (x1 - x0) * width, (y1 - y0) * height
        for colour, line, thickness in OUTLINE:
            axis.add_patch(Rectangle(*place, fill=False, ec=colour, ls=line, lw=thickness))


def draw_maps(
    images: Sequence[object] | Tensor,
    maps: Tensor,
    *,
    boxes: Sequence[object] | None = None,
    titles: Sequence[str] | None = None,
    threshold: str | float | None = 0.75,
    limits: tuple[float, float] | None = None,
    columns: int = 4,
) -> Figure:
    """A figure of maps over their images, with what they predict and the true boxes.

    Args:
        images: for each map what :func:`as_picture` takes.
        maps: localisation maps of any size, floating point, such as those of
            :func:`avcontrast.functional.localization_map`.
        boxes: for each map its true boxes, (xmin, ymin, xmax, ymax) as shares of width and height.
        titles: a line above each map.
        threshold: what is outlined: ``"half"``, ``"fixed"`` or the share of the pixels that is left
            out (see :func:`prediction_cut`); ``None`` outlines nothing.
        limits: values of the darkest and the brightest colour; without, each map has its own.
        columns: maps in a row.

    Shape:
        ``maps`` (n, h, w), ``boxes`` n of (k, 4).

    Returns:
        The figure; ``figure.savefig("maps.png")`` writes it.

    Raises:
        TypeError: ``maps`` is not a floating-point tensor.
        ValueError: ``maps`` has not three dimensions or holds none, or the numbers of maps, images,
            boxes and titles differ.

    Example:
        >>> import torch
        >>> from avcontrast.functional import localization_map
        >>> from avcontrast.plots import draw_maps
        >>> images, audio = torch.rand(2, 3, 112, 112), torch.randn(2, 16)
        >>> maps = localization_map(torch.randn(2, 16, 7, 7), audio)
        >>> figure = draw_maps(images, maps, titles=["siren", "dog"])
        >>> [axis.get_title() for axis in figure.axes]
        ['siren', 'dog']
    """
    check_maps("maps", maps)
    small, count = maps.detach(), len(maps)
    checks.check_drawn(count, columns, images=images, boxes=boxes, titles=titles)
    across = min(columns, count)
    down = -(-count // across)
    figure = Figure(figsize=(2.4 * across, 2.5 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flat
    for number, axis in enumerate(axes):
        if number >= count:
            axis.remove()
            continue
        picture = as_picture(images[number])
        height, width = picture.shape[:2]
        heat = metrics.upsample(small[number : number + 1], (height, width))[0]
        cut = None if threshold is None else prediction_cut(heat, threshold)
        show_map(axis, picture, heat, cut, limits)
        if boxes is not None:
            corners = torch.as_tensor(boxes[number], dtype=torch.float64).reshape(-1, 4)
            show_boxes(axis, corners, width, height)
        if titles is not None:
            axis.set_title(titles[number], fontsize=9)
        axis.set_axis_off()
    return figure
