"""Maps: resized, made of boxes, and made of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avcontrast.metrics import _checks as checks


def upsample(
    maps: Tensor,
    size: int | Sequence[int],
    mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
    align_corners: bool = True,
) -> Tensor:
    """Resize localisation maps to the resolution of the ground truth.

    Args:
        maps: localisation maps, floating point.
        size: height and width of the result, or one number for both; each at least 1.
        mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        align_corners: ``True`` puts the centres of the corner pixels on each other, ``False`` the
            outer edges of the images. ``"nearest"`` works on edges and is the same either way.

    Shape:
        ``maps`` (n, h, w); returns (n, H, W) for ``size=(H, W)``.

    Returns:
        The resized maps, in the dtype of ``maps``. Bicubic interpolation overshoots: its values can
        leave the range of the input.

    Raises:
        TypeError: ``maps`` is not a floating-point tensor.
        ValueError: ``maps`` has not three dimensions, or ``size`` or ``mode`` is not as described.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import upsample
        >>> maps = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
        >>> [round(x, 4) for x in upsample(maps, 4)[0, 0].tolist()]
        [0.0, 0.3333, 0.6667, 1.0]
        >>> upsample(maps, 4, align_corners=False)[0, 0].tolist()
        [0.0, 0.25, 0.75, 1.0]

    Source:
        The default is that of the EZ-VSL and FNAC test scripts. Bilinear with
        ``align_corners=False`` is what OpenCV's ``INTER_LINEAR`` does when it enlarges a map, as in
        the LVS test script. The papers do not say.
    """
    checks.check_maps("maps", maps)
    height_width = checks.pair(size)
    checks.check_mode(mode)
    corners = None if mode == "nearest" else align_corners
    return F.interpolate(maps[:, None], height_width, mode=mode, align_corners=corners)[:, 0]


def flat_maps(maps: Tensor) -> Tensor:
    """Which maps hold one value throughout, up to rounding: they point nowhere.

    A model that has collapsed gives such maps. What they score is made of ties and rounding: a
    published evaluator takes them for the whole image or for nothing (see :func:`consensus_iou`).

    Args:
        maps: localisation maps as the model gives them, floating point.

    Shape:
        ``maps`` (n, h, w); returns (n,).

    Returns:
        Whether each map is flat, as ``bool``; one with NaN or infinite values is not.

    Raises:
        TypeError: ``maps`` is not a floating-point tensor.
        ValueError: ``maps`` has not three dimensions.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import flat_maps
        >>> maps = torch.tensor([[[0.1, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.2]]])
        >>> flat_maps(maps).tolist()
        [True, False]

    Source:
        Not part of any published evaluator.
    """
    checks.check_maps("maps", maps)
    return checks.flat(*maps.detach().flatten(1).aminmax(dim=1))


def ground_truth_map(
    boxes: object, size: int | Sequence[int], consensus: int = 1, *, clip: bool = False
) -> Tensor:
    """Ground-truth map of one image from its boxes.

    Coordinates are multiplied by the size and truncated to whole pixels; a box covers
    ``[ymin:ymax, xmin:xmax]``, without its last row and column. The map is the number of boxes over
    each pixel divided by ``consensus``, at most 1.

    Args:
        boxes: (xmin, ymin, xmax, ymax) of each box as shares of width and height, in [0, 1] up to
            rounding and with an area, as a tensor, an array or nested sequences; may be empty.
        size: height and width of the map, or one number for both; each at least 1.
        consensus: how many boxes make a pixel certain, at least 1. 1 gives the union of the boxes.
        clip: take the boxes of a published list as its evaluation does: coordinates outside [0, 1],
            however far, are clipped, and a box whose maximum is not above its minimum covers
            nothing.

    Shape:
        ``boxes`` (k, 4); returns (H, W) for ``size=(H, W)``.

    Returns:
        A float32 map in [0, 1], on the device of ``boxes`` if that is a tensor and on the CPU
        otherwise.

    Raises:
        TypeError: ``consensus`` is not an integer, or ``clip`` not a bool.
        ValueError: ``boxes`` are not numbers of shape (k, 4), have NaN, or are not as described,
            such as pixels or (x, y, width, height); with ``clip`` as well if both maxima of a box
            are 2 or more, as in pixels. ``size`` or ``consensus`` is not as described.

    Example:
        >>> from avcontrast.metrics import ground_truth_map
        >>> boxes = [(0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)]
        >>> ground_truth_map(boxes, 4)[0].tolist()
        [1.0, 1.0, 1.0, 0.0]
        >>> ground_truth_map(boxes, 4, consensus=2)[0].tolist()
        [0.5, 1.0, 0.5, 0.0]

    Source:
        The VGG-SS evaluation of EZ-VSL and FNAC (size 224, ``consensus=1``) and that of
        Flickr-SoundNet (``consensus=2``, three annotators an image), which clip. As there, two
        overlapping boxes of one annotator count twice.
    """
    height, width = checks.pair(size)
    checks.check_count("consensus", consensus)
    device = boxes.device if isinstance(boxes, Tensor) else torch.device("cpu")
    corners = checks.corners(boxes, clip=clip)
    # float64 and on the CPU, so that truncation gives the same pixels as the published Python code.
    pixels = (corners * torch.tensor([width, height, width, height])).long()
    votes = torch.zeros(height, width)
    for x0, y0, x1, y1 in pixels.tolist():
        votes[y0:y1, x0:x1] += 1
    return (votes / consensus).clamp(max=1).to(device)


def ground_truth_maps(
    boxes: Sequence[object] | Tensor,
    size: int | Sequence[int],
    consensus: int = 1,
    *,
    clip: bool = False,
) -> Tensor:
    """Ground-truth maps of several images from the boxes of each.

    Args:
        boxes: for each image what :func:`ground_truth_map` takes, of any number of boxes.
        size: see :func:`ground_truth_map`.
        consensus: see :func:`ground_truth_map`.
        clip: see :func:`ground_truth_map`.

    Shape:
        ``boxes`` b times (k, 4), k of each image; returns (b, H, W) for ``size=(H, W)``.

    Returns:
        Float32 maps in [0, 1], on the device of the boxes if these are tensors and on the CPU
        otherwise.

    Raises:
        TypeError: as :func:`ground_truth_map`, or ``boxes`` is no sequence.
        ValueError: as :func:`ground_truth_map`, with the number of the image.

    Example:
        >>> from avcontrast.metrics import ground_truth_maps
        >>> boxes = [[(0.0, 0.0, 0.5, 1.0)], [(0.0, 0.0, 1.0, 0.5), (0.5, 0.5, 1.0, 1.0)]]
        >>> ground_truth_maps(boxes, 2).tolist()
        [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]]

    Source:
        See :func:`ground_truth_map`.
    """
    if not isinstance(boxes, (Sequence, Tensor, np.ndarray)) or isinstance(boxes, str):
        raise TypeError(
            f"boxes must be a sequence of the boxes of each image, got {type(boxes).__name__}"
        )
    maps = []
    for image, of_image in enumerate(boxes):
        try:
            maps.append(ground_truth_map(of_image, size, consensus, clip=clip))
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from error
    return torch.stack(maps) if maps else torch.zeros(0, *checks.pair(size))


def centre_disc(size: int | Sequence[int]) -> Tensor:
    """A map that points at the centre of every image: the baseline that needs no input.

    The value is 1 - r / R, with r the distance to the centre of the image in pixels and R that of
    the corner pixels. Whatever the threshold of :func:`consensus_iou`, the prediction is a centred
    disc, whole rings at a time. On a map that is not square the disc stays round, and the nearer
    sides cut it off once it is wider than they are apart.

    Args:
        size: height and width of the map, or one number for both; each at least 1.

    Shape:
        Returns (H, W) for ``size=(H, W)``.

    Returns:
        A float32 map in [0, 1] on the CPU.

    Raises:
        ValueError: ``size`` is not as described.

    Example:
        >>> from avcontrast.metrics import centre_disc, consensus_iou, ground_truth_map
        >>> gt_maps = ground_truth_map([(0.25, 0.25, 1.0, 1.0)], 32)[None]
        >>> round(consensus_iou(centre_disc(32)[None], gt_maps).item(), 4)
        0.5428
        >>> centre_disc((3, 5))[1].tolist()[2]
        1.0

    Source:
        Not part of any published evaluator.
    """
    height, width = checks.pair(size)
    y = 2 * torch.arange(height, dtype=torch.float64) - (height - 1)
    x = 2 * torch.arange(width, dtype=torch.float64) - (width - 1)
    # Whole numbers up to here: pixels equally far from the centre are tied exactly.
    squared = y[:, None].square() + x.square()
    return (1 - (squared / squared[0, 0].clamp(min=1)).sqrt()).float()
