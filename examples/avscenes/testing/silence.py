"""Scores of the extended sets, in which some sounds have no source in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast import metrics
from avcontrast.metrics import Protocol
from avscenes.models.object_maps import mixes_absolute
from avscenes.testing.scoring import PREDICTORS


def confidences(heats: dict[str, Tensor], protocol: str) -> dict[str, Tensor]:
    """Return `NAME_confidence` of each map whose scale is the same in all images, on the CPU.

    A mix of maps that were stretched one by one has no such scale.
    """
    return {
        f"{who}_confidence": metrics.map_confidence(heat).cpu()
        for who, heat in heats.items()
        if who != "mix" or mixes_absolute(protocol)
    }


def silence_figures(
    columns: dict[str, Tensor], visible: Tensor, rules: Protocol
) -> dict[str, float]:
    """Return AP, max-F1 and LocAcc as SLAVC defines them, at the threshold of the protocol.

    `chance` is the model with a confidence that says nothing, and so is the centre disc, which has
    none; only the LocAcc of `chance` is that of pixels in random order. The ceiling has the best
    possible confidence.
    """
    columns = {**columns, "ceiling_confidence": best_confidence(columns, visible, rules)}
    results = {}
    for who in PREDICTORS:
        ciou = columns.get(f"{who}_ciou_{rules.threshold}")
        if ciou is None:
            continue
        accuracy = metrics.localization_accuracy(ciou, visible)
        results[f"{who}_localization_accuracy"] = accuracy.item()
        confidence = columns.get(f"{who}_confidence")
        if confidence is not None:
            precision = metrics.average_precision(ciou, confidence, visible)
            results[f"{who}_average_precision"] = precision.item()
            results[f"{who}_max_f1"] = metrics.max_f1(ciou, confidence, visible).item()
    for name, who in (("centre_disc", "centre_disc"), ("chance", "model")):
        found = visible & (columns[f"{who}_ciou_{rules.threshold}"] >= 0.5)
        share = found.double().mean().item()
        # Precision is the same at every threshold, and recall reaches 1 at the lowest.
        results[f"{name}_average_precision"] = share
        results[f"{name}_max_f1"] = 2 * share / (1 + share)
    return results


def best_confidence(columns: dict[str, Tensor], visible: Tensor, rules: Protocol) -> Tensor:
    """Return the confidence, without ties, that gives the ceiling the highest scores.

    What can be found comes first and what is not in the image last: a source that is missed costs
    precision when it is a detection, and recall when it is not.
    """
    found = visible & (columns[f"ceiling_ciou_{rules.threshold}"] >= 0.5)
    return found.double() + visible + torch.linspace(0, 0.5, len(found), dtype=torch.float64)
