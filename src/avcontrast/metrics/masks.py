"""Scores of segmentation masks, as AVSBench defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics import _scoring as scoring
from avcontrast.metrics._numerics import chunks
from avcontrast.metrics.localization import Inclusive, Threshold

LEVELS = 255


def mask_iou(
    maps: Tensor, gt_masks: Tensor, threshold: Threshold = "fixed", inclusive: Inclusive = False
) -> Tensor:
    """Intersection over union of each predicted mask; its mean is the mIoU.

    Where the true mask is empty the score is the share of pixels that are rightly left out.

    Args:
        maps: scores at the resolution of ``gt_masks`` (see :func:`upsample`), floating point, no
            NaN; in [0, 1] for ``"fixed"``, so pass logits through a sigmoid.
        gt_masks: true masks, zeros and ones of any real or boolean dtype.
        threshold: the rule of binarisation, as in :func:`consensus_iou`: ``"fixed"`` is 0.5,
            ``"half"`` the upper median of the map.
        inclusive: as in :func:`consensus_iou`.

    Shape:
        ``maps`` and ``gt_masks`` (n, H, W); returns (n,).

    Returns:
        The IoU of each mask, in [0, 1], as float64 (float32 on a device without float64).

    Raises:
        TypeError: ``maps`` or ``gt_masks`` is not a tensor of the kind above.
        ValueError: shapes or devices differ, ``maps`` has NaN or, with ``"fixed"``, values outside
            [0, 1], ``gt_masks`` has other values than zero and one, or ``threshold`` or
            ``inclusive`` is none of the rules.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import mask_iou
        >>> maps = torch.tensor([[[0.9, 0.8], [0.6, 0.1]], [[0.9, 0.2], [0.1, 0.1]]])
        >>> gt_masks = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
        >>> [round(iou, 4) for iou in mask_iou(maps, gt_masks).tolist()]
        [0.6667, 0.75]

    Source:
        ``mask_iou`` of the AVSBench code, which adds 1e-7 to the union. It is written for the
        logits of a model trained with masks. For a zero-shot map the rule is open: FNAC states
        none, and ACL's evaluator takes the upper median (``"half"``, ``inclusive=True``). Say which
        one a number was made with.
    """
    checks.check_maps("maps", maps)
    checks.check_threshold(threshold)
    checks.check_inclusive(inclusive)
    _check_masks(maps, gt_masks)
    checks.check_no_nan(maps)
    scores = []
    for some, gt_some in zip(chunks(maps), chunks(gt_masks), strict=True):
        flat = some.flatten(1)
        if threshold == "fixed":
            checks.check_unit("maps", flat)
        gt = _binary(gt_some)
        predicted = scoring.predict(flat, gt, threshold, inclusive)
        left_out = (~predicted).sum(dim=1).to(gt.total.dtype) / flat.shape[1]
        scores.append(torch.where(gt.area > 0, scoring.consensus_iou(predicted, gt), left_out))
    return torch.cat(scores)


def mask_f_score(maps: Tensor, gt_masks: Tensor, beta_squared: float = 0.3) -> Tensor:
    r"""F-score of a data set: the highest over 255 thresholds of its mean over images.

    With precision P and recall R of the pixels at or above a threshold,

    .. math:: F = \frac{(1 + \beta^2) P R}{\beta^2 P + R}

    and 0 where that is 0/0. The thresholds are evenly spaced from 0 to 1 - 1e-10, which is 1 in
    float32. Images whose true mask is empty are left out.

    Args:
        maps: scores in [0, 1] at the resolution of ``gt_masks`` (see :func:`upsample`), floating
            point; pass logits through a sigmoid.
        gt_masks: true masks, zeros and ones of any real or boolean dtype, at least one not empty.
        beta_squared: weight of the recall, above 0.

    Shape:
        ``maps`` and ``gt_masks`` (n, H, W); returns a scalar.

    Returns:
        The F-score, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``maps`` or ``gt_masks`` is not a tensor of the kind above.
        ValueError: shapes or devices differ, ``maps`` has NaN or values outside [0, 1],
            ``gt_masks`` has other values than zero and one or only empty masks, or ``beta_squared``
            is not above 0.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import mask_f_score
        >>> maps = torch.tensor([[[0.9, 0.8], [0.6, 0.1]], [[0.2, 0.9], [0.1, 0.1]]])
        >>> gt_masks = torch.tensor([[[1, 1], [0, 0]], [[1, 1], [0, 0]]])
        >>> round(mask_f_score(maps, gt_masks).item(), 4)
        0.9062

    Source:
        ``Eval_Fmeasure`` of the AVSBench code. It takes the maximum of each mini-batch and averages
        those, so that the score depends on the batch size; here the curves of all images are
        averaged first, as in ACL's evaluator.
    """
    curves, filled = f_score_curves(maps, gt_masks, beta_squared)
    if not filled.any():
        raise ValueError(
            f"gt_masks must hold at least one mask that is not empty, got {len(filled)} empty ones"
        )
    return curves[filled].mean(dim=0).max()


def f_score_curves(
    maps: Tensor, gt_masks: Tensor, beta_squared: float = 0.3
) -> tuple[Tensor, Tensor]:
    """F-scores of each image at each threshold, (n, 255), and whether its mask is filled, (n,)."""
    checks.check_maps("maps", maps)
    checks.check_number("beta_squared", beta_squared)
    if beta_squared <= 0:
        raise ValueError(f"beta_squared must be above 0, got {beta_squared!r}")
    _check_masks(maps, gt_masks)
    checks.check_no_nan(maps)
    curves, filled = [], []
    for some, gt_some in zip(chunks(maps), chunks(gt_masks), strict=True):
        flat = some.flatten(1)
        checks.check_unit("maps", flat)
        gt = _binary(gt_some)
        # Every pixel falls between two thresholds; how many lie above each follows by summing.
        level = _level(flat)
        predicted = _above(level, gt.area.new_ones(1).expand_as(level))
        hits = _above(level, (~gt.background).long())
        # (1 + beta^2) P R / (beta^2 P + R) with P = hits / predicted, R = hits / area.
        below = beta_squared * gt.total[:, None] + predicted
        curves.append((1 + beta_squared) * hits.to(below.dtype) / below.masked_fill(below == 0, 1))
        filled.append(gt.area > 0)
    return torch.cat(curves), torch.cat(filled)


def _level(maps: Tensor) -> Tensor:
    """Number of thresholds that each value reaches, 0 to 255."""
    values = maps.to(torch.promote_types(maps.dtype, torch.float32))
    thresholds = torch.linspace(0, 1 - 1e-10, LEVELS, dtype=values.dtype, device=values.device)
    return torch.bucketize(values.contiguous(), thresholds, right=True)


def _above(level: Tensor, counts: Tensor) -> Tensor:
    """Sum of ``counts`` over the pixels that reach each threshold: (n, P) -> (n, 255)."""
    histogram = counts.new_zeros(len(level), LEVELS + 1).scatter_add_(1, level, counts)
    return histogram.flip(1).cumsum(1).flip(1)[:, 1:]


def _binary(gt_masks: Tensor) -> scoring.Truth:
    gt = scoring.truth(gt_masks, "gt_masks")
    if not ((gt.weights == 1) | gt.background).all():
        raise ValueError("gt_masks must hold zeros and ones, got values between them")
    return gt


def _check_masks(maps: Tensor, gt_masks: Tensor) -> None:
    checks.check_gt_maps(gt_masks, "gt_masks")
    checks.check_match(maps, gt_masks, "gt_masks")
