"""Scores of every sample at several thresholds, and the figures of a data set made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast import metrics
from avcontrast.metrics import Protocol
from avcontrast.metrics.localization import Threshold

# Beside the model: its object map, the mix with it, the baseline and the best possible map.
PREDICTORS = ("model", "ogl", "mix", "centre_disc", "ceiling")


def thresholds(rules: Protocol) -> dict[str, Threshold]:
    """Return the threshold of a protocol, the top quarter and the area of the object, by name."""
    return {str(rules.threshold): rules.threshold, "quarter": 0.75, "area": "area"}


def score(heats: dict[str, Tensor], truth: Tensor, rules: Protocol) -> dict[str, Tensor]:
    """Score maps beside the centre disc and the ceiling, a value a sample.

    Args:
        heats: Maps by the name of who made them, [b, size, size] each.
        truth: Ground truth, [b, size, size].
        rules: The protocol; its comparison is that of the other thresholds too.

    Returns:
        `gt_area`, the share of the image, and for each of `heats`, `centre_disc` and `ceiling`:
        `NAME_ciou_THRESHOLD` and `NAME_pointing`, on the CPU.
    """
    disc = metrics.centre_disc(truth.shape[1:]).to(truth.device)
    covered = truth.flatten(1) > 0
    columns = {"gt_area": covered.double().mean(dim=1)}
    for who, heat in {**heats, "centre_disc": disc.expand_as(truth)}.items():
        for name, threshold in thresholds(rules).items():
            ciou = metrics.consensus_iou(heat, truth, threshold, rules.inclusive)
            columns[f"{who}_ciou_{name}"] = ciou
        peak = heat.flatten(1).argmax(dim=1, keepdim=True)
        columns[f"{who}_pointing"] = covered.gather(1, peak)[:, 0]
    for name, threshold in thresholds(rules).items():
        columns[f"ceiling_ciou_{name}"] = metrics.ciou_ceiling(truth, threshold, rules.inclusive)
    columns["ceiling_pointing"] = covered.any(dim=1)
    return {name: column.cpu() for name, column in columns.items()}


def figures(columns: dict[str, Tensor], rules: Protocol) -> dict[str, float]:
    """Return success, AUC and mean cIoU at each threshold and the pointing game, by flat names."""
    results: dict[str, float] = {}
    for who in PREDICTORS:
        if f"{who}_pointing" not in columns:
            continue
        for name in thresholds(rules):
            ciou = columns[f"{who}_ciou_{name}"]
            results[f"{who}_success_{name}"] = metrics.success_rate(ciou).item()
            results[f"{who}_auc_{name}"] = metrics.success_auc(ciou).item()
            results[f"{who}_mean_ciou_{name}"] = ciou.mean().item()
        results[f"{who}_pointing"] = columns[f"{who}_pointing"].double().mean().item()
    return results


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the columns of several batches under each other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
