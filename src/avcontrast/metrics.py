"""Metrics of audio-visual localisation and retrieval.

Everything here takes batches of tensors, runs on the device of its inputs and carries no gradient,
except :func:`upsample`, which is differentiable. Localisation goes in three steps::

    maps = upsample(maps, gt_maps.shape[-2:])       # (n, h, w) -> (n, H, W)
    ciou = consensus_iou(maps, gt_maps)             # (n,)
    success_rate(ciou), success_auc(ciou)           # the columns "CIoU" and "AUC" of the literature

Published evaluators agree on the score and differ in how they upsample a map and compare it with
its threshold. Scores obtained with different rows are not strictly comparable:

====================================  ==================================  =============
Evaluator                             :func:`upsample`                    ``inclusive``
====================================  ==================================  =============
EZ-VSL and FNAC, test (default here)  bilinear, ``align_corners=True``    ``True``
EZ-VSL and FNAC, choice of epoch      bicubic, ``align_corners=False``    ``True``
SLAVC, test                           bicubic, ``align_corners=True``     ``True``
LVS and SSL-TIE, test                 bilinear, ``align_corners=False``   ``False``
SSL-Alignment, own model on VGG-SS    bilinear, ``align_corners=False``   ``False``
SSL-Alignment, otherwise              bilinear, ``align_corners=True``    ``False``
====================================  ==================================  =============

Read a localisation number beside what :func:`centre_disc` scores and what :func:`ciou_ceiling`
allows on the same data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "centre_disc",
    "ciou_ceiling",
    "consensus_iou",
    "ground_truth_map",
    "pointing_accuracy",
    "recall_at_k",
    "success_auc",
    "success_rate",
    "upsample",
]

# kthvalue copies its input and makes int64 indices of it: up to half a gigabyte for a chunk.
_VALUES_PER_CHUNK = 2**24


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
    _check_maps("maps", maps)
    height_width = _pair(size)
    if mode not in ("bilinear", "bicubic", "nearest"):
        raise ValueError(f"mode must be 'bilinear', 'bicubic' or 'nearest', got {mode!r}")
    corners = None if mode == "nearest" else align_corners
    return F.interpolate(maps[:, None], height_width, mode=mode, align_corners=corners)[:, 0]


def consensus_iou(
    maps: Tensor,
    gt_maps: Tensor,
    threshold: Literal["half", "area"] | float = "half",
    inclusive: bool = True,
) -> Tensor:
    r"""Consensus intersection over union (cIoU) of each map with its ground truth.

    With B the pixels predicted by the map and g the ground-truth weights,

    .. math:: \text{cIoU} = \frac{\sum_p B_p\, g_p}{\sum_p g_p + \sum_p B_p\, [g_p = 0]}

    so a false positive costs one wherever the weight is exactly zero, and nothing where some
    annotator drew a box. For binary ground truth this is the ordinary IoU. Where it is 0/0 (no
    ground truth, nothing predicted) it is 0.

    B holds the pixels whose value is at least (``inclusive``) or above (not ``inclusive``) a value
    of the map itself, ``sorted(map)[i]`` in ascending order, counted from 0, with P = H W pixels:

    * ``"half"``: i = floor(P / 2), the upper median, never an average of two values;
    * a number q strictly between 0 and 1: i = floor(q P), so 0.75 predicts the top quarter; 0.5 is
      ``"half"``;
    * ``"area"``: i = P - (number of pixels with g > 0), so that the prediction is as large as the
      ground truth; an empty ground truth takes ``"half"``, and scores 0 whatever is predicted.

    When no value is tied with ``sorted(map)[i]``, P - i pixels are predicted with ``inclusive`` and
    P - i - 1 without. Ties add pixels to the first and remove pixels from the second: a constant
    map predicts the whole image or nothing. Every rule depends on the order of the values alone, so
    min-max scaling of the maps changes nothing and is left out.

    Args:
        maps: localisation maps at the resolution of ``gt_maps`` (see :func:`upsample`), floating
            point, no NaN.
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`).
        threshold: ``"half"``, ``"area"`` or a quantile strictly between 0 and 1.
        inclusive: whether a pixel equal to the threshold is predicted (``>=``) or not (``>``).

    Shape:
        ``maps`` and ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        The cIoU of each map, in [0, 1], as float64 (float32 on a device without float64).

    Raises:
        TypeError: ``maps`` or ``gt_maps`` is not a tensor of the kind above.
        ValueError: shapes or devices differ, ``maps`` has NaN, a weight lies outside [0, 1], or
            ``threshold`` is not one of the above.

    Example:
        >>> maps = torch.arange(16.0).view(1, 4, 4)
        >>> gt_maps = ground_truth_map([(0.0, 0.75, 1.0, 1.0)], 4)[None]
        >>> consensus_iou(maps, gt_maps).item()
        0.5
        >>> consensus_iou(maps, gt_maps, 0.75).item()
        1.0

    Source:
        ``Evaluator`` of the EZ-VSL and FNAC code (``"half"``, ``>=``); LVS, SSL-TIE and
        SSL-Alignment compare with ``>``. ``"area"`` is the adaptive protocol of SSL-Alignment,
        which compares with ``>`` and so predicts one pixel less than the ground truth has; pass
        ``inclusive=False`` for that. The papers' column "CIoU" is not the mean of these values but
        :func:`success_rate`.
    """
    _check_maps("maps", maps)
    _check_gt_maps(gt_maps)
    _check_match(maps, gt_maps)
    _check_threshold(threshold)
    return torch.cat(
        [
            _consensus_iou(some.flatten(1), _weights(gt).flatten(1), threshold, inclusive)
            for some, gt in zip(_chunks(maps), _chunks(gt_maps), strict=True)
        ]
    )


def success_rate(ciou: Tensor, at: float = 0.5) -> Tensor:
    """Share of samples whose cIoU is at least ``at``.

    Args:
        ciou: one value for each sample, in [0, 1], at least one sample.
        at: the cIoU that counts as a success, in [0, 1].

    Shape:
        ``ciou`` (n,); returns a scalar.

    Returns:
        The share, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor.
        ValueError: ``ciou`` is empty, not one-dimensional, or has values outside [0, 1] or NaN;
            ``at`` is outside [0, 1].

    Example:
        >>> success_rate(torch.tensor([0.0, 0.3, 0.5, 0.62, 1.0])).item()
        0.6

    Source:
        ``finalize_AP50`` of the EZ-VSL and FNAC ``Evaluator``. Papers tabulate it as "CIoU",
        although the mean of the cIoU is another number (``ciou.mean()``). SLAVC's "LocAcc" is the
        same with a strict ``>``.
    """
    _check_ciou(ciou)
    if not 0 <= at <= 1:
        raise ValueError(f"at must lie in [0, 1], got {at!r}")
    return _share(ciou.detach() >= at)


def success_auc(ciou: Tensor) -> Tensor:
    """Area under the success rate as a function of the cIoU that counts as a success.

    The success rate is taken at 0, 0.05, ..., 1 and integrated with the trapezoidal rule. The first
    point is always 1, so that even a method that never overlaps scores 0.025.

    Args:
        ciou: one value for each sample, in [0, 1], at least one sample.

    Shape:
        ``ciou`` (n,); returns a scalar.

    Returns:
        The area, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor.
        ValueError: ``ciou`` is empty, not one-dimensional, or has values outside [0, 1] or NaN.

    Example:
        >>> ciou = torch.tensor([0.0, 0.3, 0.5, 0.62, 1.0], dtype=torch.float64)
        >>> round(success_auc(ciou).item(), 6)
        0.49

    Source:
        ``finalize_AUC`` of the EZ-VSL and FNAC ``Evaluator``. The thresholds are the products
        ``0.05 * i``, as there. In float64 seven of them (0.15, 0.3, 0.35, 0.6, 0.7, 0.85, 0.95)
        come out just above the decimal number, so a cIoU of exactly 0.3 in float64 does not reach
        0.3, while the same in float32 does.
    """
    _check_ciou(ciou)
    levels = torch.tensor([0.05 * i for i in range(21)], dtype=ciou.dtype, device=ciou.device)
    shares = (ciou.detach() >= levels[:, None]).to(_wide(ciou.device)).mean(dim=1)
    return torch.trapezoid(shares, dx=0.05)


def pointing_accuracy(maps: Tensor, gt_maps: Tensor) -> Tensor:
    """Share of maps whose largest value falls on the ground truth (the pointing game).

    Among equal largest values the first in row-major order counts, so that a constant map points at
    the top left corner. A sample without ground truth is a miss. A weak yardstick where objects are
    large or central: compare with :func:`centre_disc`.

    Args:
        maps: localisation maps at the resolution of ``gt_maps``, floating point, no NaN, at least
            one.
        gt_maps: weights in [0, 1]; every pixel above 0 is a hit.

    Shape:
        ``maps`` and ``gt_maps`` (n, H, W); returns a scalar.

    Returns:
        The share, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``maps`` or ``gt_maps`` is not a tensor of the kind above.
        ValueError: there are no maps, shapes or devices differ, ``maps`` has NaN, or a weight lies
            outside [0, 1].

    Example:
        >>> maps = torch.tensor([[[0.1, 0.9], [0.3, 0.2]], [[0.1, 0.9], [0.3, 0.2]]])
        >>> gt_maps = torch.tensor([[[0, 1], [0, 0]], [[1, 0], [1, 1]]])
        >>> pointing_accuracy(maps, gt_maps).item()
        0.5

    Source:
        Zhang et al., "Top-down neural attention by excitation backprop", which accepts a point
        within 15 pixels of the object; this one must be on it.
    """
    _check_maps("maps", maps)
    _check_gt_maps(gt_maps)
    _check_match(maps, gt_maps)
    if len(maps) == 0:
        raise ValueError("maps must hold at least one map, got shape " + _shape(maps))
    flat = maps.detach().flatten(1)
    _check_no_nan(flat)
    peak = flat.argmax(dim=1, keepdim=True)
    return _share(_weights(gt_maps).flatten(1).gather(1, peak) > 0)


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
        >>> gt_maps = ground_truth_map([(0.25, 0.25, 1.0, 1.0)], 32)[None]
        >>> round(consensus_iou(centre_disc(32)[None], gt_maps).item(), 4)
        0.5428
        >>> centre_disc((3, 5))[1].tolist()[2]
        1.0

    Source:
        Not part of any published evaluator.
    """
    height, width = _pair(size)
    y = 2 * torch.arange(height, dtype=torch.float64) - (height - 1)
    x = 2 * torch.arange(width, dtype=torch.float64) - (width - 1)
    # Whole numbers up to here: pixels equally far from the centre are tied exactly.
    squared = y[:, None].square() + x.square()
    return (1 - (squared / squared[0, 0].clamp(min=1)).sqrt()).float()


def ciou_ceiling(
    gt_maps: Tensor,
    threshold: Literal["half", "area"] | float = "half",
    inclusive: bool = True,
) -> Tensor:
    r"""Best cIoU that a map without ties can reach under a threshold rule.

    The rules of :func:`consensus_iou` fix the number k of predicted pixels (half of the image,
    say), and the best k pixels are those of highest weight. With P pixels, :math:`g_{(1)} \ge
    g_{(2)} \ge \dots` the sorted weights and m the number of weights above 0, the ceiling is

    .. math:: \frac{\sum_{i \le k} g_{(i)}}{\sum_p g_p + \max(0, k - m)}

    For a box that covers a share a of the image and the ``"half"`` rule that is 2 a where a is
    below one half: a box below a quarter of the image can never be a success at 0.5, however good
    the map.

    A map with ties at its threshold is not bound to k pixels and can pass this ceiling. Under
    ``>=`` a constant map predicts the whole image, which is better than half of it when the object
    is large; under ``>`` a map of zeros and ones predicts exactly its ones.

    Args:
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`).
        threshold: as in :func:`consensus_iou`.
        inclusive: as in :func:`consensus_iou`; ``False`` means one predicted pixel less.

    Shape:
        ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        The ceiling of each sample, in [0, 1], as float64 (float32 on a device without float64); 0
        for an empty map. Its :func:`success_rate` and :func:`success_auc` are the ceilings of
        those.

    Raises:
        TypeError: ``gt_maps`` is not a real or boolean tensor.
        ValueError: ``gt_maps`` has not three dimensions or a weight lies outside [0, 1], or
            ``threshold`` is not one of those of :func:`consensus_iou`.

    Example:
        >>> gt_maps = ground_truth_map([(0.0, 0.0, 0.4, 0.5)], 10)[None]
        >>> ciou_ceiling(gt_maps).item(), ciou_ceiling(gt_maps, 0.75).item()
        (0.4, 0.8)

    Source:
        Not part of any published evaluator; it follows from the definition of their threshold.
    """
    _check_gt_maps(gt_maps)
    _check_threshold(threshold)
    return torch.cat(
        [_ciou_ceiling(_weights(gt).flatten(1), threshold, inclusive) for gt in _chunks(gt_maps)]
    )


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
    height, width = _pair(size)
    if isinstance(consensus, bool) or not isinstance(consensus, int):
        raise TypeError(f"consensus must be an integer, got {consensus!r}")
    if consensus < 1:
        raise ValueError(f"consensus must be at least 1, got {consensus}")
    device = boxes.device if isinstance(boxes, Tensor) else torch.device("cpu")
    corners = _boxes(boxes).clamp(0, 1)
    # float64 and on the CPU, so that truncation gives the same pixels as the published Python code.
    pixels = (corners * torch.tensor([width, height, width, height])).long()
    votes = torch.zeros(height, width)
    for x0, y0, x1, y1 in pixels.tolist():
        votes[y0:y1, x0:x1] += 1
    return (votes / consensus).clamp(max=1).to(device)


def recall_at_k(
    similarity: Tensor,
    labels: Tensor | None = None,
    k: Iterable[int] = (1, 5, 10),
    exclude_self: bool = False,
) -> dict[int, Tensor]:
    """Share of queries with a correct item among the k most similar ones.

    Row i of ``similarity`` ranks the gallery (the columns) for query i; pass the transpose for the
    other direction. Without ``labels`` the one correct item is the query's own pair, column i. With
    ``labels`` it is any item of the query's class. Among equal similarities the lower column ranks
    first, so that a collapsed model, whose similarities are all equal, scores k / n by instance and
    not 1.

    Args:
        similarity: similarity of each query with each gallery item, floating point, finite, at
            least one query.
        labels: class of each pair, of an integer dtype.
        k: the lengths of the list, each at least 1; one longer than the gallery stands for the
            whole gallery.
        exclude_self: leave each query's own pair out of its ranking. Needs ``labels``. A query that
            is alone in its class then has nothing to find and counts as a miss.

    Shape:
        ``similarity`` (n, n), ``labels`` (n,); returns scalars.

    Returns:
        The recall for each k, in [0, 1], as 0-dimensional float64 tensors (float32 on a device
        without float64).

    Raises:
        TypeError: ``similarity`` is not a floating-point tensor, ``labels`` not an integer one, or
            ``k`` holds something else than integers.
        ValueError: shapes do not match, ``similarity`` has values that are not finite, a k is below
            1, or ``exclude_self`` comes without ``labels``.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> round(recall_at_k(similarity, k=(1, 2))[1].item(), 4)
        0.6667
        >>> labels = torch.tensor([0, 0, 1])
        >>> round(recall_at_k(similarity, labels, k=(1, 2))[1].item(), 4)
        1.0

    Source:
        The cross-modal retrieval of SSL-Alignment, by class and with the own pair in the gallery,
        as its paper describes it; the script is not released. The own pair makes the task easier:
        ``exclude_self=True`` asks for other members of the class.
    """
    lengths = _check_retrieval(similarity, labels, k, exclude_self)
    scores = similarity.detach()
    n = len(scores)
    own = torch.eye(n, dtype=torch.bool, device=scores.device)
    correct = own
    if labels is not None:
        classes = labels.to(scores.device)
        correct = classes[:, None] == classes
    if exclude_self:
        correct = correct & ~own
        scores = scores.masked_fill(own, -math.inf)
    best, column = scores.masked_fill(~correct, -math.inf).max(dim=1, keepdim=True)
    earlier = torch.arange(n, device=scores.device) < column
    rank = ((scores > best) | ((scores == best) & earlier)).sum(dim=1)
    solvable = correct.any(dim=1)
    return {length: _share(solvable & (rank < length)) for length in lengths}


def _consensus_iou(maps: Tensor, gt: Tensor, threshold: str | float, inclusive: bool) -> Tensor:
    _check_no_nan(maps)
    wide = _wide(maps.device)
    background = gt == 0
    cut = _order_statistic(maps, _threshold_position(threshold, ~background))[:, None]
    predicted = maps >= cut if inclusive else maps > cut
    hits = gt.masked_fill(~predicted, 0).sum(dim=1, dtype=wide)
    union = gt.sum(dim=1, dtype=wide) + (predicted & background).sum(dim=1)
    return hits / union.masked_fill(union == 0, 1)


def _ciou_ceiling(gt: Tensor, threshold: str | float, inclusive: bool) -> Tensor:
    wide = _wide(gt.device)
    foreground = gt > 0
    position = _threshold_position(threshold, foreground)
    # The k highest weights without sorting: all that are above the k-th, the others equal it.
    level = _order_statistic(gt, position)[:, None]
    above = gt > level
    k = gt.shape[1] - position - (0 if inclusive else 1)
    equal = (k - above.sum(dim=1)) * level[:, 0].to(wide)
    hits = gt.masked_fill(~above, 0).sum(dim=1, dtype=wide) + equal
    union = gt.sum(dim=1, dtype=wide) + (k - foreground.sum(dim=1)).clamp(min=0)
    return hits / union.masked_fill(union == 0, 1)


def _threshold_position(threshold: str | float, foreground: Tensor) -> Tensor:
    """Index of each threshold in the sorted values of its map: (n, P) -> (n,)."""
    pixels = foreground.shape[1]
    if threshold == "area":
        area = foreground.sum(dim=1)
        return torch.where(area > 0, pixels - area, pixels // 2)
    quantile = 0.5 if isinstance(threshold, str) else float(threshold)
    # 0.29 * 100 is 28.999999999999996, and its floor should be 29.
    position = min(int(round(quantile * pixels, 6)), pixels - 1)
    return torch.full((len(foreground),), position, device=foreground.device)


def _order_statistic(values: Tensor, position: Tensor) -> Tensor:
    """Value at ``position`` of each row in ascending order: (n, P), (n,) -> (n,)."""
    if len(values) == 0:
        return values.new_empty(0)
    low, high = (int(bound) for bound in position.aminmax())
    # kthvalue takes one rank for all rows. Each row gets as many values below all others as its
    # own rank falls short of the highest, and values above all others to make up the width.
    short = torch.arange(high - low, device=values.device) < (high - position)[:, None]
    padding = values.new_full(short.shape, math.inf).masked_fill(short, -math.inf)
    return torch.cat([values, padding], dim=1).kthvalue(high + 1, dim=1).values


def _chunks(maps: Tensor) -> tuple[Tensor, ...]:
    height, width = maps.shape[1:]
    return torch.split(maps.detach(), max(1, _VALUES_PER_CHUNK // (height * width)))


def _share(hits: Tensor) -> Tensor:
    return hits.to(_wide(hits.device)).mean()


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _weights(gt_maps: Tensor) -> Tensor:
    weights = gt_maps.to(torch.promote_types(gt_maps.dtype, torch.float32))
    if weights.numel():
        low, high = weights.aminmax()
        # Written so that NaN fails too.
        if not (low >= 0 and high <= 1):
            raise ValueError(
                "gt_maps must hold weights in [0, 1], "
                f"got values from {low.item():g} to {high.item():g}"
            )
    return weights


def _boxes(boxes: object) -> Tensor:
    try:
        if isinstance(boxes, Tensor):
            corners = boxes.detach().cpu().double()
        else:
            corners = torch.tensor(boxes, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"boxes must be numbers of shape (k, 4), got {boxes!r}") from error
    if corners.numel() == 0:
        return corners.new_empty(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes must have shape (k, 4), got {_shape(corners)}")
    if corners.isnan().any():
        raise ValueError(f"boxes must not have NaN, got {corners.tolist()}")
    if (corners > 1).all():
        raise ValueError(
            "boxes must be shares of the image in [0, 1], "
            f"got only coordinates above 1 (pixels?): {corners.tolist()}"
        )
    return corners


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size) if _is_sequence(size) else ()
    if len(pair) != 2 or not all(type(side) is int and side >= 1 for side in pair):
        raise ValueError(f"size must be a positive integer or a pair of them, got {size!r}")
    return pair


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _kind(value: object) -> str:
    return f"dtype {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _check_floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {_kind(value)}")


def _check_map_shape(name: str, maps: Tensor) -> None:
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"{name} must have shape (n, height, width), got {_shape(maps)}")


def _check_maps(name: str, maps: Tensor) -> None:
    _check_floating(name, maps)
    _check_map_shape(name, maps)


def _check_gt_maps(gt_maps: Tensor) -> None:
    if not isinstance(gt_maps, Tensor) or gt_maps.is_complex():
        raise TypeError(f"gt_maps must be a real or boolean tensor, got {_kind(gt_maps)}")
    _check_map_shape("gt_maps", gt_maps)


def _check_match(maps: Tensor, gt_maps: Tensor) -> None:
    if maps.shape != gt_maps.shape:
        raise ValueError(
            f"maps and gt_maps must have the same shape, got {_shape(maps)} and {_shape(gt_maps)}"
            "; resize maps with upsample first"
        )
    if maps.device != gt_maps.device:
        raise ValueError(
            f"maps and gt_maps must be on the same device, got {maps.device} and {gt_maps.device}"
        )


def _check_no_nan(maps: Tensor) -> None:
    broken = int(maps.isnan().any(dim=1).sum())
    if broken:
        raise ValueError(f"maps must not have NaN, got NaN in {broken} of {len(maps)} maps")


def _check_threshold(threshold: object) -> None:
    if isinstance(threshold, str) and threshold in ("half", "area"):
        return
    if isinstance(threshold, Real) and 0 < float(threshold) < 1:
        return
    raise ValueError(
        f"threshold must be 'half', 'area' or a number strictly between 0 and 1, got {threshold!r}"
    )


def _check_ciou(ciou: Tensor) -> None:
    _check_floating("ciou", ciou)
    if ciou.ndim != 1 or len(ciou) == 0:
        raise ValueError(f"ciou must have shape (n,) with n of at least 1, got {_shape(ciou)}")
    if not ((ciou >= 0) & (ciou <= 1)).all():
        low, high = ciou.aminmax()
        raise ValueError(
            f"ciou must lie in [0, 1], got values from {low.item():g} to {high.item():g}"
        )


def _check_retrieval(
    similarity: Tensor, labels: Tensor | None, k: Iterable[int], exclude_self: bool
) -> list[int]:
    _check_floating("similarity", similarity)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) == 0:
        raise ValueError(f"similarity must have shape (n, n), got {_shape(similarity)}")
    if not similarity.isfinite().all():
        raise ValueError("similarity must be finite, got NaN or infinite values")
    if labels is None:
        if exclude_self:
            raise ValueError(
                "exclude_self=True needs labels: without them the own pair is all there is to find"
            )
    elif not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be an integer tensor, got {_kind(labels)}")
    elif labels.shape != similarity.shape[:1]:
        raise ValueError(
            "labels must have one entry for each row of similarity, "
            f"got shapes {_shape(labels)} and {_shape(similarity)}"
        )
    if not isinstance(k, Iterable):
        raise TypeError(f"k must be a sequence of integers, got {k!r}")
    lengths = list(k)
    if not all(type(length) is int for length in lengths):
        raise TypeError(f"k must be a sequence of integers, got {lengths!r}")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"k must hold integers of at least 1, got {lengths!r}")
    return lengths
