"""Scores of test sets in which some sounds have no source in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics import _scoring as scoring
from avcontrast.metrics._numerics import chunks, share, wide

AREA_SUBSETS = ("small", "medium", "large", "huge")
_AREA_BOUNDS = (32**2, 96**2, 144**2)


def map_confidence(maps: Tensor) -> Tensor:
    """Confidence that the source of the sound is in the image: the mean of the top quarter.

    Of P pixels the ceil(P / 4) of highest value count. The figures made of it compare samples with
    each other, so the maps must not be scaled one by one.

    Args:
        maps: localisation maps, floating point, no NaN; the published evaluator resizes them to
            224 x 224 first (see :func:`upsample`).

    Shape:
        ``maps`` (n, H, W); returns (n,).

    Returns:
        The confidence of each sample, as float64 (float32 on a device without float64).

    Raises:
        TypeError: ``maps`` is not a floating-point tensor.
        ValueError: ``maps`` has not three dimensions or has NaN.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import map_confidence
        >>> map_confidence(torch.arange(8.0).view(1, 2, 4)).item()
        6.5

    Source:
        SLAVC's test script, on scores in [0, 1]: (cos + 1) / 2 of a cosine map. It takes the values
        from index ``-P // 4`` on, which is P / 4 of them rounded up.
    """
    checks.check_maps("maps", maps)
    checks.check_no_nan(maps)
    confidence = []
    for some in chunks(maps):
        flat = some.flatten(1)
        pixels = flat.shape[1]
        k = flat.new_full((len(flat),), -(-pixels // 4), dtype=torch.int64)
        confidence.append(scoring.sum_of_highest(flat, pixels - k, k) / k)
    return torch.cat(confidence)


def average_precision(
    ciou: Tensor,
    confidence: Tensor,
    visible: Tensor,
    at: float = 0.5,
    thresholds: int | None = 200,
) -> Tensor:
    r"""Average precision (AP) of finding the source and saying when there is none.

    A sample is a detection where its confidence reaches a threshold t. A detection is a true
    positive if its source is visible and its cIoU is at least ``at``, and a false positive
    otherwise; what is visible and not detected is a false negative. A visible source found in the
    wrong place is a false positive only. A ratio 0/0 is 1. With precision p and recall r at the
    confidences of the samples as thresholds in descending order, the lowest first taken to be the
    second highest confidence,

    .. math:: \text{AP} = \sum_i \Big(\max_{j \ge i} p_j\Big)\, (r_{i+1} - r_i)

    The recall reached at the first of these thresholds does not count, so that a handful of samples
    scores too low.

    Args:
        ciou: cIoU of each sample, in [0, 1]; where ``visible`` is false it does not matter.
        confidence: confidence of each sample (see :func:`map_confidence`), no NaN.
        visible: whether the source of the sound is in the image.
        at: the cIoU that counts as found, in [0, 1].
        thresholds: about how many of the confidences serve as thresholds: every
            max(1, n // ``thresholds``)-th. ``None`` takes all.

    Shape:
        ``ciou``, ``confidence`` and ``visible`` (n,); returns a scalar.

    Returns:
        The average precision, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device
        without float64); 0 for a single sample.

    Raises:
        TypeError: ``ciou`` or ``confidence`` is not a floating-point tensor, ``visible`` not a
            boolean one, or ``thresholds`` not an integer.
        ValueError: shapes differ, there are no samples, ``ciou`` has values outside [0, 1],
            ``confidence`` has NaN, ``at`` is outside [0, 1] or ``thresholds`` is below 1.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import average_precision
        >>> ciou = torch.tensor([0.7, 0.2, 0.0, 0.55, 0.0, 0.5, 0.9, 0.0])
        >>> confidence = torch.tensor([0.9, 0.8, 0.85, 0.6, 0.4, 0.3, 0.7, 0.2])
        >>> visible = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).bool()
        >>> round(average_precision(ciou, confidence, visible).item(), 10)
        0.4728571429

    Source:
        ``calc_ap`` of SLAVC's ``EvaluatorFull``.
    """
    checks.check_detections(ciou, confidence, visible, at)
    stride = _stride(len(ciou), thresholds)
    levels = confidence.detach().sort().values[:-1].flip(0)[::stride]
    if len(levels) < 2:
        return torch.zeros((), dtype=wide(ciou.device), device=ciou.device)
    precision, recall = _precision_recall(ciou, confidence, visible, levels, at)
    best = precision.flip(0).cummax(0).values.flip(0)
    return (best[:-1] * recall.diff()).sum()


def max_f1(
    ciou: Tensor,
    confidence: Tensor,
    visible: Tensor,
    at: float = 0.5,
    thresholds: int | None = 10,
) -> Tensor:
    """Best F1 score over thresholds of the confidence.

    Precision and recall are those of :func:`average_precision`, at the confidences of the samples
    in ascending order, from the lowest on.

    Args:
        ciou: as in :func:`average_precision`.
        confidence: as in :func:`average_precision`.
        visible: as in :func:`average_precision`.
        at: as in :func:`average_precision`.
        thresholds: as in :func:`average_precision`. More thresholds can only raise the maximum.

    Shape:
        ``ciou``, ``confidence`` and ``visible`` (n,); returns a scalar.

    Returns:
        The highest F1, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: as :func:`average_precision`.
        ValueError: as :func:`average_precision`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import max_f1
        >>> ciou = torch.tensor([0.7, 0.2, 0.0, 0.55, 0.0, 0.5, 0.9, 0.0])
        >>> confidence = torch.tensor([0.9, 0.8, 0.85, 0.6, 0.4, 0.3, 0.7, 0.2])
        >>> visible = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).bool()
        >>> round(max_f1(ciou, confidence, visible).item(), 4)
        0.7273

    Source:
        ``finalize_stats`` of SLAVC's ``EvaluatorFull``, which prints the list of F1 scores; the
        paper reports the highest.
    """
    checks.check_detections(ciou, confidence, visible, at)
    stride = _stride(len(ciou), thresholds)
    levels = confidence.detach().sort().values[::stride]
    return _f1(ciou, confidence, visible, levels, at).max()


def f1_at(
    ciou: Tensor, confidence: Tensor, visible: Tensor, level: float = 0.5, at: float = 0.5
) -> Tensor:
    """F1 score at one threshold of the confidence.

    Args:
        ciou: as in :func:`average_precision`.
        confidence: as in :func:`average_precision`.
        visible: as in :func:`average_precision`.
        level: the confidence from which on a sample is a detection.
        at: as in :func:`average_precision`.

    Shape:
        ``ciou``, ``confidence`` and ``visible`` (n,); returns a scalar.

    Returns:
        The F1, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without float64).

    Raises:
        TypeError: as :func:`average_precision`, or ``level`` is not a number.
        ValueError: as :func:`average_precision`, or ``level`` is NaN.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import f1_at
        >>> ciou = torch.tensor([0.7, 0.2, 0.0, 0.55, 0.0, 0.5, 0.9, 0.0])
        >>> confidence = torch.tensor([0.9, 0.8, 0.85, 0.6, 0.4, 0.3, 0.7, 0.2])
        >>> visible = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).bool()
        >>> round(f1_at(ciou, confidence, visible).item(), 4)
        0.6667

    Source:
        ``f1_at_50`` of SLAVC's ``EvaluatorFull``.
    """
    checks.check_detections(ciou, confidence, visible, at)
    checks.check_number("level", level)
    levels = confidence.new_tensor([level])
    return _f1(ciou, confidence, visible, levels, at)[0]


def localization_accuracy(ciou: Tensor, visible: Tensor, at: float = 0.5) -> Tensor:
    """Share of the visible sources whose cIoU is above ``at`` (LocAcc).

    Args:
        ciou: cIoU of each sample, in [0, 1].
        visible: whether the source of the sound is in the image, for at least one sample.
        at: the cIoU to pass, in [0, 1].

    Shape:
        ``ciou`` and ``visible`` (n,); returns a scalar.

    Returns:
        The share, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor or ``visible`` not a boolean one.
        ValueError: shapes differ, ``ciou`` has values outside [0, 1], nothing is visible, or ``at``
            is outside [0, 1].

    Example:
        >>> import torch
        >>> from avcontrast.metrics import localization_accuracy
        >>> ciou = torch.tensor([0.7, 0.2, 0.0, 0.55, 0.5, 0.9])
        >>> localization_accuracy(ciou, torch.tensor([1, 1, 0, 1, 1, 1]).bool()).item()
        0.6

    Source:
        ``precision_at_50`` of SLAVC's ``EvaluatorFull``, called "Precision" in its README. It
        compares with ``>`` where :func:`success_rate` has ``>=``.
    """
    checks.check_ciou(ciou)
    checks.check_visible(ciou, visible)
    checks.check_at(at)
    if not visible.any():
        raise ValueError(f"visible must hold at least one True, got none among {len(visible)}")
    return share(ciou.detach()[visible] > at)


def area_subset(gt_maps: Tensor) -> Tensor:
    """Subset of each sample by the area of its object, as an index into ``AREA_SUBSETS``.

    The area is the sum of the weights in pixels: small is below 32 x 32, medium below 96 x 96,
    large below 144 x 144, and huge what is left. An empty ground truth counts as small; leave
    samples without a visible source out.

    Args:
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`). The
            bounds are meant for maps of 224 x 224.

    Shape:
        ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        0 (small), 1 (medium), 2 (large) or 3 (huge) for each sample, as int64.

    Raises:
        TypeError: ``gt_maps`` is not a real or boolean tensor.
        ValueError: ``gt_maps`` has not three dimensions or a weight lies outside [0, 1].

    Example:
        >>> import torch
        >>> from avcontrast.metrics import AREA_SUBSETS, area_subset, ground_truth_map
        >>> boxes = [(0.0, 0.0, side, side) for side in (0.1, 0.4, 0.5, 0.9)]
        >>> gt_maps = torch.stack([ground_truth_map([box], 224) for box in boxes])
        >>> [AREA_SUBSETS[i] for i in area_subset(gt_maps)]
        ['small', 'medium', 'large', 'huge']

    Source:
        ``EvaluatorFull`` of the SLAVC code. The older ``Evaluator`` there takes the mean area of
        the boxes instead.
    """
    checks.check_gt_maps(gt_maps)
    areas = torch.cat([scoring.truth(gt).total for gt in chunks(gt_maps)])
    return torch.bucketize(areas, areas.new_tensor(_AREA_BOUNDS), right=True)


def _stride(samples: int, thresholds: int | None) -> int:
    if thresholds is None:
        return 1
    checks.check_count("thresholds", thresholds)
    return max(1, samples // thresholds)


def _f1(ciou: Tensor, confidence: Tensor, visible: Tensor, levels: Tensor, at: float) -> Tensor:
    precision, recall = _precision_recall(ciou, confidence, visible, levels, at)
    both = precision + recall
    return 2 * precision * recall / both.masked_fill(both == 0, 1)


def _precision_recall(
    ciou: Tensor, confidence: Tensor, visible: Tensor, levels: Tensor, at: float
) -> tuple[Tensor, Tensor]:
    """Precision and recall at each confidence: (n,), (n,), (n,), (t,) -> (t,), (t,)."""
    order = confidence.detach().sort()
    missed = torch.searchsorted(order.values, levels.contiguous())
    seen = visible[order.indices]
    found = seen & (ciou.detach()[order.indices] >= at)
    true_positives = found.sum() - _first(found, missed)
    precision = _ratio(true_positives, len(ciou) - missed)
    return precision, _ratio(true_positives, true_positives + _first(seen, missed))


def _first(flags: Tensor, count: Tensor) -> Tensor:
    """How many of the first ``count`` are true: (n,), (t,) -> (t,)."""
    return torch.cat([flags.new_zeros(1, dtype=torch.int64), flags.cumsum(0)])[count]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    ratio = part.to(wide(part.device)) / whole.clamp(min=1)
    return ratio.masked_fill(whole == 0, 1)
