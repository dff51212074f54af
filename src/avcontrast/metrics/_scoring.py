"""The arithmetic of the localisation scores, on maps with one row a sample and checked before."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics._numerics import wide

FIXED = 0.5
# Rows are padded to the highest rank among them: the fewer rows, the less; each group is a call.
ROWS_OF_SIMILAR_RANK = 32


class Truth(NamedTuple):
    """Ground truth of some samples, and what every score needs of it."""

    weights: Tensor  # [n, p]
    background: Tensor  # where the weight is zero [n, p]
    total: Tensor  # sum of the weights [n]
    area: Tensor  # number of weights above zero [n]


def truth(gt_maps: Tensor, name: str = "gt_maps") -> Truth:
    """Return the ground truth with one row a sample: (n, H, W) -> (n, P)."""
    weights = checks.weights(name, gt_maps).flatten(1)
    background = weights == 0
    area = weights.shape[1] - background.sum(dim=1)
    return Truth(weights, background, weights.sum(dim=1, dtype=wide(weights.device)), area)


def rows(maps: Tensor) -> Tensor:
    """Return maps with one row a sample, an expanded map as one: (n, H, W) -> (n or 1, P)."""
    return (maps[:1] if maps.stride(0) == 0 else maps).flatten(1)


def predict(maps: Tensor, gt: Truth, threshold: str | float, inclusive: bool | str) -> Tensor:
    """Return the predicted pixels; one map may stand for all: (n or 1, P) -> (n or 1, P)."""
    if threshold == "fixed":
        cut = maps.new_full((1, 1), FIXED)
    else:
        position = threshold_position(threshold, gt.area, maps.shape[1])
        cut = order_statistic(maps, position)[:, None]
    if inclusive == "maximum":
        low, high = (bound[:, None] for bound in maps.aminmax(dim=1))
        negative = (low == high) & (high < 0)
        return (maps > cut) | ((maps == cut) & (cut == high) & ~negative)
    return maps >= cut if inclusive else maps > cut


def consensus_iou(predicted: Tensor, gt: Truth) -> Tensor:
    """Return the cIoU of predicted pixels: (n or 1, P) -> (n,)."""
    hits = gt.weights.masked_fill(~predicted, 0).sum(dim=1, dtype=gt.total.dtype)
    union = gt.total + (predicted & gt.background).sum(dim=1)
    return hits / union.masked_fill(union == 0, 1)


def ceiling(gt: Truth, threshold: str | float, inclusive: bool | str) -> Tensor:
    """Return the best cIoU that a map without ties can reach: (n, P) -> (n,)."""
    if threshold == "fixed":
        return (gt.area > 0).to(gt.total.dtype)
    pixels = gt.weights.shape[1]
    position = threshold_position(threshold, gt.area, pixels)
    k = pixels - position - (1 if inclusive in (False, "maximum") else 0)
    if inclusive == "maximum":
        k = k.clamp(min=1)
    hits = torch.minimum(gt.total, k.to(gt.total.dtype))
    # That is exact where the k highest hold all weights, and where all weights above zero are one.
    cut = ((k < gt.area) & (gt.total < gt.area)).nonzero()[:, 0]
    hits[cut] = sum_of_highest(gt.weights[cut], position[cut], k[cut]).to(hits.dtype)
    union = gt.total + (k - gt.area).clamp(min=0)
    return hits / union.masked_fill(union == 0, 1)


def points_at(maps: Tensor, gt: Truth) -> Tensor:
    """Return whether the highest value is on the object: (n or 1, P) -> (n,)."""
    peak = maps.argmax(dim=1, keepdim=True).expand(len(gt.weights), 1)
    return gt.weights.gather(1, peak)[:, 0] > 0


def threshold_position(threshold: str | float, area: Tensor, pixels: int) -> Tensor:
    """Index of each threshold in the sorted values of its map: (n,) -> (n,)."""
    if threshold == "area":
        return torch.where(area > 0, pixels - area, pixels // 2)
    quantile = 0.5 if isinstance(threshold, str) else float(threshold)
    # 0.29 * 100 is 28.999999999999996, and its floor should be 29.
    position = min(int(round(quantile * pixels, 6)), pixels - 1)
    return torch.full_like(area, position)


def order_statistic(values: Tensor, position: Tensor) -> Tensor:
    """Value at ``position`` of each row in ascending order: (n or 1, P), (n,) -> (n or 1,)."""
    if len(position) == 0:
        return values.new_empty(0)
    if int(position.min()) == int(position.max()):
        return values.kthvalue(int(position[0]) + 1, dim=1).values
    if len(values) == 1:
        return values[0].sort().values[position]
    found = values.new_empty(len(values))
    for rows in torch.split(position.argsort(), ROWS_OF_SIMILAR_RANK):
        found[rows] = _padded_order_statistic(values[rows], position[rows])
    return found


def _padded_order_statistic(values: Tensor, position: Tensor) -> Tensor:
    """Value at ``position`` of each row in ascending order: (n, P), (n,) -> (n,)."""
    # kthvalue takes one rank for all rows. Each row gets as many values below all others as its
    # own rank falls short of the highest, and values above all others to make up the width.
    low, high = (int(bound) for bound in position.aminmax())
    short = torch.arange(high - low, device=values.device) < (high - position)[:, None]
    padding = values.new_full(short.shape, math.inf).masked_fill(short, -math.inf)
    return torch.cat([values, padding], dim=1).kthvalue(high + 1, dim=1).values


def sum_of_highest(weights: Tensor, position: Tensor, k: Tensor) -> Tensor:
    """Sum of the k values from ``position`` on, in ascending order: (n, P), (n,), (n,) -> (n,)."""
    # Without sorting: all that are above the k-th, and the others equal it.
    level = order_statistic(weights, position)[:, None]
    above = weights > level
    precise = wide(weights.device)
    equal = (k - above.sum(dim=1)) * level[:, 0].to(precise)
    return weights.masked_fill(~above, 0).sum(dim=1, dtype=precise) + equal
