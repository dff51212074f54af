"""Scores of localisation maps at the resolution of the ground truth."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics import _scoring as scoring
from avcontrast.metrics._numerics import chunks, share

Threshold = Literal["half", "area", "fixed"] | float
Inclusive = bool | Literal["maximum"]


def consensus_iou(
    maps: Tensor,
    gt_maps: Tensor,
    threshold: Threshold = "half",
    inclusive: Inclusive = True,
) -> Tensor:
    r"""Consensus intersection over union (cIoU) of each map with its ground truth.

    With B the pixels predicted by the map and g the ground-truth weights,

    .. math:: \text{cIoU} = \frac{\sum_p B_p\, g_p}{\sum_p g_p + \sum_p B_p\, [g_p = 0]}

    so a false positive costs one wherever the weight is exactly zero, and nothing where some
    annotator drew a box. For binary ground truth this is the ordinary IoU. Where it is 0/0 (no
    ground truth, nothing predicted) it is 0.

    B holds the pixels whose value is above a value of the map itself, or equal to it and
    ``inclusive`` lets it in: ``sorted(map)[i]`` in ascending order, counted from 0, with P = H W
    pixels:

    * ``"half"``: i = floor(P / 2), the upper median, never an average of two values;
    * a number q strictly between 0 and 1: i = floor(q P), so 0.75 predicts the top quarter; 0.5 is
      ``"half"``;
    * ``"area"``: i = P - (number of pixels with g > 0), so that the prediction is as large as the
      ground truth; an empty ground truth takes ``"half"``, and scores 0 whatever is predicted;
    * ``"fixed"``: not a value of the map but 0.5, for scores that mean something by themselves.

    When no value is tied with ``sorted(map)[i]``, P - i pixels are predicted with ``True`` and
    P - i - 1 with ``False``. Ties add pixels to the first and remove pixels from the second: a
    constant map predicts the whole image or nothing. ``"maximum"`` predicts as ``False`` does, but
    where the threshold is the largest value of the map, the pixels that have it; of constant maps
    those of at least 0, the whole image, and none of those below. But for that and for ``"fixed"``
    the order of the values alone decides, so min-max scaling of the maps changes nothing and is
    left out.

    Args:
        maps: localisation maps at the resolution of ``gt_maps`` (see :func:`upsample`), floating
            point, no NaN.
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`).
        threshold: ``"half"``, ``"area"``, ``"fixed"`` or a quantile strictly between 0 and 1.
        inclusive: whether a pixel equal to the threshold is predicted: ``True`` (``>=``), ``False``
            (``>``) or ``"maximum"``, only where the threshold is the maximum of the map.

    Shape:
        ``maps`` and ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        The cIoU of each map, in [0, 1], as float64 (float32 on a device without float64).

    Raises:
        TypeError: ``maps`` or ``gt_maps`` is not a tensor of the kind above.
        ValueError: shapes or devices differ, ``maps`` has NaN, a weight lies outside [0, 1], or
            ``threshold`` or ``inclusive`` is not one of the above.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import consensus_iou, ground_truth_map
        >>> maps = torch.arange(16.0).view(1, 4, 4)
        >>> gt_maps = ground_truth_map([(0.0, 0.75, 1.0, 1.0)], 4)[None]
        >>> consensus_iou(maps, gt_maps).item()
        0.5
        >>> consensus_iou(maps, gt_maps, 0.75).item()
        1.0

    Source:
        ``Evaluator`` of the EZ-VSL and FNAC code (``"half"``, ``>=``); LVS, SSL-TIE and
        SSL-Alignment compare with ``>``. LVS and SSL-TIE keep, besides, whatever is 1 after min-max
        scaling, which is ``"maximum"``; they do not scale a constant map, of which they keep what
        is at least 0. ``"area"`` is the adaptive protocol of SSL-Alignment,
        which compares with ``>`` and so predicts one pixel less than the ground truth has; pass
        ``inclusive=False`` for that. ``"fixed"`` is SLAVC's test without relative prediction, on
        scores of which 0.5 is the middle: (cosine + 1) / 2, into which :func:`localization_ciou`
        turns cosines by itself. The papers' column "CIoU" is not the mean of these values
        but :func:`success_rate`.
    """
    checks.check_maps("maps", maps)
    checks.check_gt_maps(gt_maps)
    checks.check_match(maps, gt_maps)
    checks.check_threshold(threshold)
    checks.check_inclusive(inclusive)
    checks.check_no_nan(maps)
    scores = []
    for some, gt_some in zip(chunks(maps), chunks(gt_maps), strict=True):
        gt = scoring.truth(gt_some)
        predicted = scoring.predict(scoring.rows(some), gt, threshold, inclusive)
        scores.append(scoring.consensus_iou(predicted, gt))
    return torch.cat(scores)


def ciou_ceiling(
    gt_maps: Tensor,
    threshold: Threshold = "half",
    inclusive: Inclusive = True,
) -> Tensor:
    r"""Best cIoU that a map without ties can reach under a threshold rule.

    The rules of :func:`consensus_iou` except ``"fixed"`` set the number k of predicted pixels (half
    of the image, say), and the best k pixels are those of highest weight. With P pixels,
    :math:`g_{(1)} \ge g_{(2)} \ge \dots` the sorted weights and m the number of weights above 0,
    the ceiling is

    .. math:: \frac{\sum_{i \le k} g_{(i)}}{\sum_p g_p + \max(0, k - m)}

    For a box that covers a share a of the image and the ``"half"`` rule that is 2 a where a is
    below one half: a box below a quarter of the image can never be a success at 0.5, however good
    the map.

    Under ``"fixed"`` a map may predict any pixels, and the ceiling is 1 for every object.

    A map with ties at its threshold is not bound to k pixels and can pass this ceiling. Under
    ``>=`` a constant map predicts the whole image, which is better than half of it when the object
    is large; under ``>`` a map of zeros and ones predicts exactly its ones.

    Args:
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`).
        threshold: as in :func:`consensus_iou`.
        inclusive: as in :func:`consensus_iou`; ``False`` means one predicted pixel less, and so
            does ``"maximum"`` where more than one is predicted.

    Shape:
        ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        The ceiling of each sample, in [0, 1], as float64 (float32 on a device without float64); 0
        for an empty map. Its :func:`success_rate` and :func:`success_auc` are the ceilings of
        those.

    Raises:
        TypeError: ``gt_maps`` is not a real or boolean tensor.
        ValueError: ``gt_maps`` has not three dimensions or a weight lies outside [0, 1], or
            ``threshold`` or ``inclusive`` is not one of those of :func:`consensus_iou`.

    Example:
        >>> from avcontrast.metrics import ciou_ceiling, ground_truth_map
        >>> gt_maps = ground_truth_map([(0.0, 0.0, 0.4, 0.5)], 10)[None]
        >>> ciou_ceiling(gt_maps).item(), ciou_ceiling(gt_maps, 0.75).item()
        (0.4, 0.8)

    Source:
        Not part of any published evaluator; it follows from the definition of their threshold.
    """
    checks.check_gt_maps(gt_maps)
    checks.check_threshold(threshold)
    checks.check_inclusive(inclusive)
    return torch.cat(
        [scoring.ceiling(scoring.truth(gt), threshold, inclusive) for gt in chunks(gt_maps)]
    )


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
        >>> import torch
        >>> from avcontrast.metrics import pointing_accuracy
        >>> maps = torch.tensor([[[0.1, 0.9], [0.3, 0.2]], [[0.1, 0.9], [0.3, 0.2]]])
        >>> gt_maps = torch.tensor([[[0, 1], [0, 0]], [[1, 0], [1, 1]]])
        >>> pointing_accuracy(maps, gt_maps).item()
        0.5

    Source:
        Zhang et al., "Top-down neural attention by excitation backprop", which accepts a point
        within 15 pixels of the object; this one must be on it.
    """
    checks.check_maps("maps", maps)
    checks.check_gt_maps(gt_maps)
    checks.check_match(maps, gt_maps)
    if len(maps) == 0:
        raise ValueError("maps must hold at least one map, got shape " + checks.shape(maps))
    checks.check_no_nan(maps)
    return share(scoring.points_at(scoring.rows(maps.detach()), scoring.truth(gt_maps.detach())))
