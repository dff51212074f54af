"""Maps: resized, made of boxes, and made of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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


def ground_truth_map(boxes: object, size: int | Sequence[int], consensus: int = 1) -> Tensor:
    """Ground-truth map of one image from its boxes.

    Coordinates are clipped to [0, 1], multiplied by the size and truncated to whole pixels; a box
    covers ``[ymin:ymax, xmin:xmax]``, without its last row and column. The map is the number of
    boxes over each pixel divided by ``consensus``, at most 1. A box whose maximum is not above its
    minimum covers nothing.

    Args:
        boxes: (xmin, ymin, xmax, ymax) of each box as shares of width and height, as a tensor, an
            array or nested sequences; may be empty. Coordinates outside [0, 1], however far, are
            clipped; NaN is an error.
        size: height and width of the map, or one number for both; each at least 1.
        consensus: how many boxes make a pixel certain, at least 1. 1 gives the union of the boxes.

    Shape:
        ``boxes`` (k, 4); returns (H, W) for ``size=(H, W)``.

    Returns:
        A float32 map in [0, 1], on the device of ``boxes`` if that is a tensor and on the CPU
        otherwise.

    Raises:
        TypeError: ``consensus`` is not an integer.
        ValueError: ``boxes`` are not numbers of shape (k, 4), have NaN, or have no coordinate up to
            1, as pixel coordinates would; ``size`` or ``consensus`` is not as described.

    Example:
        >>> from avcontrast.metrics import ground_truth_map
        >>> boxes = [(0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)]
        >>> ground_truth_map(boxes, 4)[0].tolist()
        [1.0, 1.0, 1.0, 0.0]
        >>> ground_truth_map(boxes, 4, consensus=2)[0].tolist()
        [0.5, 1.0, 0.5, 0.0]

    Source:
        The VGG-SS evaluation of EZ-VSL and FNAC (size 224, ``consensus=1``) and that of
        Flickr-SoundNet (``consensus=2``, three annotators an image). As there, two overlapping
        boxes of one annotator count twice.
    """
    height, width = checks.pair(size)
    checks.check_count("consensus", consensus)
    device = boxes.device if isinstance(boxes, Tensor) else torch.device("cpu")
    corners = checks.corners(boxes).clamp(0, 1)
    # float64 and on the CPU, so that truncation gives the same pixels as the published Python code.
    pixels = (corners * torch.tensor([width, height, width, height])).long()
    votes = torch.zeros(height, width)
    for x0, y0, x1, y1 in pixels.tolist():
        votes[y0:y1, x0:x1] += 1
    return (votes / consensus).clamp(max=1).to(device)


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
