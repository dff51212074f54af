"""Maps and boxes that several tests of the metrics share, and the definition of the cIoU."""

from __future__ import annotations

import torch

RULES = ["half", "area", 0.75, 0.1]

BOXES = torch.tensor([[60, 50, 160, 150], [80, 70, 180, 170], [0, 0, 10, 10]], dtype=torch.float64)


def published_ciou(values, gt, position, inclusive):
    """The definition, pixel by pixel, on flat lists of numbers."""
    cut = sorted(values)[position]
    if inclusive == "maximum":
        negative = max(values) == min(values) < 0
        inclusive = cut == max(values) and not negative
    hits = false_positives = 0.0
    for value, weight in zip(values, gt, strict=True):
        if value > cut or (inclusive and value == cut):
            hits += weight
            false_positives += weight == 0
    union = sum(gt) + false_positives
    return hits / union if union else 0.0


def position_of(rule, gt):
    foreground = sum(weight > 0 for weight in gt)
    if rule == "area" and foreground:
        return len(gt) - foreground
    return int((rule if isinstance(rule, float) else 0.5) * len(gt))


def reference_ciou(maps, gt_maps, rule, inclusive):
    return torch.tensor(
        [
            published_ciou(values, gt, position_of(rule, gt), inclusive)
            for values, gt in zip(
                maps.flatten(1).tolist(), gt_maps.flatten(1).tolist(), strict=True
            )
        ],
        dtype=torch.float64,
    )


def random_case(generator, n=6, size=(9, 14), levels=(0.0, 0.0, 0.0, 0.5, 1.0)):
    maps = torch.randn(n, *size, generator=generator)
    choice = torch.randint(len(levels), (n, *size), generator=generator)
    return maps, torch.tensor(levels)[choice]


def box_map(height, width, box):
    x0, y0, x1, y1 = box
    gt = torch.zeros(height, width)
    gt[y0:y1, x0:x1] = 1
    return gt


def bump():
    """A smooth map with its peak at row 120, column 100 of 224 x 224, in float64."""
    y, x = torch.meshgrid(
        torch.arange(224, dtype=torch.float64),
        torch.arange(224, dtype=torch.float64),
        indexing="ij",
    )
    values = -((x - 100) ** 2 + (y - 120) ** 2)
    return (values - values.min()) / (values.max() - values.min())
