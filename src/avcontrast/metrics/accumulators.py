"""Metrics of data that come in batches or are spread over processes, built on torchmetrics.

Each class has torchmetrics' ``update``, ``compute`` and ``reset``, goes into a ``MetricCollection``
or a Lightning module like any other, and gives the result of the whole data set however it is cut
into batches and processes: they add up counts or keep the samples, and never average averages. Only
repeated samples change it, and torch's ``DistributedSampler`` repeats some where the processes
would get unequally many.

Importing this module needs torchmetrics (``pip install "avcontrast[metrics]"``); importing
:mod:`avcontrast.metrics` does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics.localization import Inclusive, Threshold, consensus_iou
from avcontrast.metrics.maps import flat_maps
from avcontrast.metrics.masks import LEVELS, f_score_curves, mask_iou
from avcontrast.metrics.protocols import (
    Protocol,
    check_inputs,
    find_protocol,
    parts,
    resize,
    scores_of,
    warn_of_flat,
)
from avcontrast.metrics.silence import (
    AREA_SUBSETS,
    area_subset,
    average_precision,
    localization_accuracy,
    map_confidence,
    max_f1,
)
from avcontrast.metrics.success import SUCCESS_LEVELS, success_auc, success_rate

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'avcontrast.metrics.accumulators needs torchmetrics: pip install "avcontrast[metrics]"'
    ) from error

__all__ = ["LocalizationMetric", "MaskMetric", "SilenceMetric"]

PREDICTORS = ("model", "centre_disc", "ceiling")


class LocalizationMetric(Metric):
    """Localisation scores of a data set, beside the centre disc and the ceiling.

    ``compute`` returns, for each of ``model``, ``centre_disc`` and ``ceiling``, the figures
    ``<name>_success`` (:func:`~avcontrast.metrics.success_rate` at 0.5, "CIoU" in papers),
    ``<name>_mean_ciou``, ``<name>_auc`` (:func:`~avcontrast.metrics.success_auc`) and
    ``<name>_pointing`` (:func:`~avcontrast.metrics.pointing_accuracy`), as 0-dimensional float64
    tensors. It keeps counts and sums, so that memory does not grow with the data. A warning then
    says how many maps were flat (see :func:`~avcontrast.metrics.flat_maps`).

    Args:
        protocol: a name in :data:`~avcontrast.metrics.PROTOCOLS`, or a
            :class:`~avcontrast.metrics.Protocol`.
        kwargs: settings of every torchmetrics metric.

    Shape:
        ``update`` takes ``maps`` (n, h, w) and ``gt_maps`` (n, H, W), both as
        :func:`~avcontrast.metrics.localization_ciou` does; sizes may differ between calls.

    Raises:
        TypeError: in ``update``, as :func:`~avcontrast.metrics.localization_ciou`.
        ValueError: there is no such protocol; in ``update``, as
            :func:`~avcontrast.metrics.localization_ciou`; in ``compute``, there were no samples.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import ground_truth_map
        >>> from avcontrast.metrics.accumulators import LocalizationMetric
        >>> metric = LocalizationMetric("lvs")
        >>> y, x = torch.arange(7.0)[:, None], torch.arange(7.0)
        >>> for box in [(0.1, 0.2, 0.8, 0.9), (0.6, 0.1, 0.9, 0.3)]:
        ...     maps = (-((y - 3) ** 2) - (x - 2) ** 2)[None]
        ...     metric.update(maps, ground_truth_map([box], 224)[None])
        >>> results = metric.compute()
        >>> for name in ("model_success", "centre_disc_success", "ceiling_success", "model_auc"):
        ...     print(f"{name} {results[name]:.4f}")
        model_success 0.5000
        centre_disc_success 0.5000
        ceiling_success 0.5000
        model_auc 0.3500
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    reached: Tensor
    total: Tensor
    pointed: Tensor
    samples: Tensor
    flat: Tensor

    def __init__(self, protocol: str | Protocol = "ezvsl-test", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.protocol = find_protocol(protocol)
        names = len(PREDICTORS)
        counts = torch.zeros(names, len(SUCCESS_LEVELS), dtype=torch.int64)
        self.add_state("reached", counts, "sum")
        self.add_state("total", torch.zeros(names, dtype=torch.float64), "sum")
        self.add_state("pointed", torch.zeros(names, dtype=torch.int64), "sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("flat", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, maps: Tensor, gt_maps: Tensor) -> None:
        """Add a batch of maps and their ground truth."""
        rules, flat = check_inputs(maps, gt_maps, self.protocol)
        scores = scores_of(maps, gt_maps, rules)
        ciou = torch.stack([scores.ciou, scores.centre_disc_ciou, scores.ceiling])
        # The best map points at the object wherever there is one.
        there = gt_maps.flatten(1).amax(dim=1) > 0
        pointed = torch.stack([scores.pointing, scores.centre_disc_pointing, there])
        levels = ciou.new_tensor(SUCCESS_LEVELS)
        self.reached += (ciou[..., None] >= levels).sum(dim=1)
        self.total += ciou.sum(dim=1)
        self.pointed += pointed.sum(dim=1)
        self.samples += len(gt_maps)
        self.flat += flat

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all samples so far."""
        _check_seen(int(self.samples))
        warn_of_flat(int(self.flat), int(self.samples))
        shares = self.reached / self.samples.double()
        figures = {
            "success": shares[:, SUCCESS_LEVELS.index(0.5)],
            "mean_ciou": self.total / self.samples,
            "auc": torch.trapezoid(shares, dx=0.05),
            "pointing": self.pointed / self.samples.double(),
        }
        return {
            f"{name}_{figure}": values[i]
            for i, name in enumerate(PREDICTORS)
            for figure, values in figures.items()
        }


class SilenceMetric(Metric):
    """Scores of a test set in which some sounds have no source in the image.

    ``compute`` returns ``average_precision``, ``max_f1`` and ``localization_accuracy`` as the
    functions of these names in :mod:`avcontrast.metrics`; ``success`` and ``auc`` of the samples
    with a visible source; and ``small_success``, ``medium_success``, ``large_success`` and
    ``huge_success`` of those whose object is of that size, NaN where there is none (see
    :func:`~avcontrast.metrics.area_subset`): 0-dimensional float64 tensors. It keeps five numbers a
    sample. A warning then says how many maps were flat (see
    :func:`~avcontrast.metrics.flat_maps`).

    Args:
        protocol: a name in :data:`~avcontrast.metrics.PROTOCOLS`, or a
            :class:`~avcontrast.metrics.Protocol`. The maps are resized as it says before their
            confidence is taken.
        kwargs: settings of every torchmetrics metric.

    Shape:
        ``update`` takes ``maps`` (n, h, w) and ``gt_maps`` (n, H, W), both as
        :func:`~avcontrast.metrics.localization_ciou` does, and ``visible`` (n,), whether the source
        is in the image. The maps must share one scale, as cosines do; see
        :func:`~avcontrast.metrics.map_confidence`.

    Raises:
        TypeError: in ``update``, as :func:`~avcontrast.metrics.localization_ciou`, or ``visible``
            is not a boolean tensor.
        ValueError: there is no such protocol; in ``update``, shapes do not match or as
            :func:`~avcontrast.metrics.localization_ciou`; in ``compute``, there were no samples or
            nothing was visible.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import ground_truth_map
        >>> from avcontrast.metrics.accumulators import SilenceMetric
        >>> metric = SilenceMetric("slavc-test")
        >>> y, x = torch.arange(7.0)[:, None], torch.arange(7.0)
        >>> near = (1 - ((y - 3) ** 2 + (x - 2) ** 2) / 25)[None]
        >>> gt_maps = ground_truth_map([(0.1, 0.2, 0.8, 0.9)], 224)[None]
        >>> for strength, visible in [(0.9, True), (0.5, False), (0.7, True), (0.2, False)]:
        ...     metric.update(strength * near, gt_maps * visible, torch.tensor([visible]))
        >>> results = metric.compute()
        >>> for name in ("max_f1", "localization_accuracy", "auc", "huge_success"):
        ...     print(f"{name} {results[name]:.3f}")
        max_f1 1.000
        localization_accuracy 1.000
        auc 0.675
        huge_success 1.000
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    rows: list[Tensor]

    def __init__(self, protocol: str | Protocol = "slavc-test", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.protocol = find_protocol(protocol)
        self.add_state("rows", [], "cat")
        # A process without samples contributes an empty tensor of this dtype; another than that of
        # the rows would break the exchange.
        self.set_dtype(torch.float64)

    def update(self, maps: Tensor, gt_maps: Tensor, visible: Tensor) -> None:
        """Add a batch of maps, their ground truth, and whether their sources are visible."""
        rules, _ = check_inputs(maps, gt_maps, self.protocol)
        scored = []
        for small, gt in parts(maps, gt_maps):
            heat = resize(small, gt, rules)
            ciou = consensus_iou(heat, gt, rules.threshold, rules.inclusive)
            scored.append(torch.stack([ciou, map_confidence(heat), area_subset(gt).to(ciou)]))
        ciou, confidence, subset = torch.cat(scored, dim=1)
        checks.check_visible(ciou, visible)
        columns = ciou, confidence, visible.to(ciou), subset, flat_maps(maps)
        rows = torch.stack([column.double() for column in columns], dim=1)
        # One flat state, so that processes exchange once and an empty one has a shape that fits.
        self.rows.append(rows.flatten())

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all samples so far."""
        rows = dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0)
        _check_seen(len(rows))
        ciou, confidence, seen, subset, flat = rows.view(-1, 5).unbind(dim=1)
        warn_of_flat(int(flat.sum()), len(flat))
        visible = seen > 0
        results = {
            "average_precision": average_precision(ciou, confidence, visible),
            "max_f1": max_f1(ciou, confidence, visible),
            "localization_accuracy": localization_accuracy(ciou, visible),
            "success": success_rate(ciou[visible]),
            "auc": success_auc(ciou[visible]),
        }
        for i, name in enumerate(AREA_SUBSETS):
            of_size = ciou[visible & (subset == i)]
            results[f"{name}_success"] = (of_size >= 0.5).double().mean()
        return results


class MaskMetric(Metric):
    """Mean IoU and F-score of masks, as AVSBench defines them.

    ``compute`` returns ``miou``, the mean of :func:`~avcontrast.metrics.mask_iou`, and ``f_score``,
    that of :func:`~avcontrast.metrics.mask_f_score` over all images together, NaN where every true
    mask was empty: 0-dimensional float64 tensors. It keeps sums, so that memory does not grow with
    the data.

    Args:
        threshold: the rule of binarisation of :func:`~avcontrast.metrics.mask_iou`; the F-score has
            none.
        inclusive: as in :func:`~avcontrast.metrics.mask_iou`.
        beta_squared: as in :func:`~avcontrast.metrics.mask_f_score`.
        kwargs: settings of every torchmetrics metric.

    Shape:
        ``update`` takes ``maps`` and ``gt_masks`` (n, H, W), both as
        :func:`~avcontrast.metrics.mask_f_score` does; sizes may differ between calls.

    Raises:
        TypeError: in ``update``, as :func:`~avcontrast.metrics.mask_f_score`.
        ValueError: ``threshold`` or ``inclusive`` is none of the rules; in ``update``, as
            :func:`~avcontrast.metrics.mask_f_score`, except that all masks may be empty; in
            ``compute``, there were no samples.

    Example:
        >>> import torch
        >>> from avcontrast.metrics.accumulators import MaskMetric
        >>> metric = MaskMetric()
        >>> gt_masks = torch.tensor([[[1, 1], [0, 0]]])
        >>> metric.update(torch.tensor([[[0.9, 0.8], [0.6, 0.1]]]), gt_masks)
        >>> metric.update(torch.tensor([[[0.2, 0.9], [0.1, 0.1]]]), gt_masks)
        >>> results = metric.compute()
        >>> print(f"{results['miou']:.4f} {results['f_score']:.4f}")
        0.5833 0.9062
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    iou: Tensor
    curve: Tensor
    images: Tensor
    filled: Tensor

    def __init__(
        self,
        threshold: Threshold = "fixed",
        inclusive: Inclusive = False,
        beta_squared: float = 0.3,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        checks.check_threshold(threshold)
        checks.check_inclusive(inclusive)
        self.threshold: Threshold = threshold
        self.inclusive: Inclusive = inclusive
        self.beta_squared = beta_squared
        self.add_state("iou", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("curve", torch.zeros(LEVELS, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("filled", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, maps: Tensor, gt_masks: Tensor) -> None:
        """Add a batch of maps and their true masks."""
        curves, filled = f_score_curves(maps, gt_masks, self.beta_squared)
        self.iou += mask_iou(maps, gt_masks, self.threshold, self.inclusive).sum()
        self.curve += curves[filled].sum(dim=0)
        self.images += len(maps)
        self.filled += filled.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all images so far."""
        _check_seen(int(self.images))
        return {"miou": self.iou / self.images, "f_score": (self.curve / self.filled).max()}


def _check_seen(samples: int) -> None:
    if not samples:
        raise ValueError("compute needs at least one sample, got none: call update first")
