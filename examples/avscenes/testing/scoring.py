"""Scores of every sample at several thresholds, and the figures of a data set made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avcontrast import metrics
from avcontrast.metrics import Protocol
from avcontrast.metrics.localization import Inclusive, Threshold

# Beside the model: its object map, the mix with it, the baseline, the best possible map, and
# pixels in random order.
PREDICTORS = ("model", "ogl", "mix", "centre_disc", "ceiling", "chance")


def thresholds(rules: Protocol) -> dict[str, Threshold]:
    """Return the threshold of a protocol, the top quarter and the area of the object, by name."""
    return {str(rules.threshold): rules.threshold, "quarter": 0.75, "area": "area"}


def with_disc(heats: dict[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
    """Return maps beside the centre disc."""
    disc = metrics.centre_disc(truth.shape[1:]).to(truth.device)
    return {**heats, "centre_disc": disc.expand_as(truth)}


def score(
    heats: dict[str, Tensor], truth: Tensor, rules: Protocol, *, masks: bool = False
) -> dict[str, Tensor]:
    """Score maps beside the centre disc, the ceiling and chance, a value a sample.

    Args:
        heats: Maps by the name of who made them, [b, size, size] each.
        truth: Ground truth, [b, size, size].
        rules: The protocol; its comparison is that of the other thresholds too.
        masks: Whether the truth is a mask, which may be empty, instead of boxes.

    Returns:
        `gt_area`, the share of the image, and for each of `heats`, `centre_disc`, `ceiling` and
        `chance`: `NAME_ciou_THRESHOLD`, or `NAME_iou_THRESHOLD` of masks, and `NAME_pointing`, on
        the CPU. There is no chance under "fixed", which asks for more than the order of pixels.
    """
    covered, kind = truth.flatten(1) > 0, "iou" if masks else "ciou"
    area = covered.sum(dim=1).cpu().double() / covered.shape[1]
    weight = truth.flatten(1).float().mean(dim=1).cpu().double()
    columns = {"gt_area": area}
    for who, heat in with_disc(heats, truth).items():
        for name, threshold in thresholds(rules).items():
            measure = _mask_iou if masks else metrics.consensus_iou
            columns[f"{who}_{kind}_{name}"] = measure(heat, truth, threshold, rules.inclusive)
        peak = heat.flatten(1).argmax(dim=1, keepdim=True)
        columns[f"{who}_pointing"] = covered.gather(1, peak)[:, 0]
    for name, threshold in thresholds(rules).items():
        best = metrics.ciou_ceiling(truth, threshold, rules.inclusive)
        if masks:
            best = torch.where(covered.any(1), best, _left_out(truth, threshold, rules.inclusive))
        columns[f"ceiling_{kind}_{name}"] = best
        if threshold != "fixed":
            columns[f"chance_{kind}_{name}"] = chance_iou(area, weight, threshold, masks=masks)
    columns["ceiling_pointing"] = covered.any(dim=1)
    columns["chance_pointing"] = area
    return {name: column.cpu() for name, column in columns.items()}


def _mask_iou(heat: Tensor, truth: Tensor, threshold: Threshold, inclusive: Inclusive) -> Tensor:
    if threshold == "fixed":
        # Bicubic maps may leave the range that this rule asks for, far away from its 0.5.
        heat = heat.clamp(0, 1)
    return metrics.mask_iou(heat, truth, threshold, inclusive)


def _left_out(truth: Tensor, threshold: Threshold, inclusive: Inclusive) -> Tensor:
    """Return what any map without ties scores where a mask is empty."""
    ramp = torch.linspace(0, 0.49, truth[0].numel(), device=truth.device).view(truth.shape[1:])
    return metrics.mask_iou(ramp.expand_as(truth), truth, threshold, inclusive)


def figures(columns: dict[str, Tensor], rules: Protocol) -> dict[str, float]:
    """Return the figures of a data set by flat names, from the columns of `score`.

    Of boxes these are success, AUC and mean cIoU at each threshold, of masks the mean IoU; of both
    the pointing game.
    """
    results: dict[str, float] = {}
    for who in _scored(columns):
        for name in thresholds(rules):
            if f"{who}_iou_{name}" in columns:
                results[f"{who}_miou_{name}"] = columns[f"{who}_iou_{name}"].mean().item()
            elif f"{who}_ciou_{name}" in columns:
                ciou = columns[f"{who}_ciou_{name}"]
                results[f"{who}_success_{name}"] = metrics.success_rate(ciou).item()
                results[f"{who}_auc_{name}"] = metrics.success_auc(ciou).item()
                results[f"{who}_mean_ciou_{name}"] = ciou.mean().item()
        results[f"{who}_pointing"] = columns[f"{who}_pointing"].double().mean().item()
    return results


def _scored(columns: dict[str, Tensor]) -> list[str]:
    return [who for who in PREDICTORS if f"{who}_pointing" in columns]


def chance_iou(
    area: Tensor, weight: Tensor, threshold: Threshold, *, masks: bool = False
) -> Tensor:
    """Return the IoU of pixels that are drawn at random, the consensus IoU of boxes.

    It is the ratio of the expected intersection and union; at 224 x 224 the difference to the
    expected ratio is below 0.0001.

    Args:
        area: Shares of the images that their objects cover, [n].
        weight: Means of their weights; the same but for pixels of half a weight, [n].
        threshold: Which says how many pixels are drawn.
        masks: Whether a mask that is empty scores the share of what is rightly left out.
    """
    if threshold == "area":
        drawn = torch.where(area > 0, area, 0.5)
    else:
        drawn = torch.full_like(area, 0.5 if isinstance(threshold, str) else 1 - threshold)
    iou = drawn * weight / (weight + drawn * (1 - area))
    return torch.where(area > 0, iou, 1 - drawn) if masks else iou


def chance_f_score(area: Tensor, beta_squared: float = 0.3) -> float:
    """Return the F-score of predicting every pixel, which every map in [0, 1] reaches at 0."""
    share = area[area > 0]
    return ((1 + beta_squared) * share / (beta_squared * share + 1)).mean().item()


def interactive_figures(
    columns: dict[str, Tensor], scenes: Sequence[str], rules: Protocol
) -> dict[str, float]:
    """Return IIoU and IAUC at each threshold: a scene counts by the worst of its sounds.

    Args:
        columns: Of `score`.
        scenes: What the scene of each sample is called.
        rules: The protocol.
    """
    results = {}
    for who in _scored(columns):
        for name in thresholds(rules):
            for kind in ("ciou", "iou"):
                if f"{who}_{kind}_{name}" in columns:
                    worst = metrics.group_ciou(columns[f"{who}_{kind}_{name}"], scenes)
                    results[f"{who}_iiou_{name}"] = metrics.success_rate(worst).item()
                    results[f"{who}_iauc_{name}"] = metrics.success_auc(worst).item()
    return results


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the columns of several batches under each other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def chosen(columns: dict[str, Tensor], places: Tensor) -> dict[str, Tensor]:
    """Return some samples of the columns."""
    return {name: column[places] for name, column in columns.items()}
