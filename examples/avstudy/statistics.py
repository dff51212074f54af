"""Intervals of means and of ratios of means over seeds, by Student's t."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and where it lies with 95 % confidence; the ends may be infinite."""

    mean: float
    low: float = -np.inf
    high: float = np.inf


def mean_interval(values: ArrayLike) -> Interval:
    """Return the mean of values that one number a seed gives; of none it is not a number."""
    numbers = np.asarray(values, dtype=float)
    mean = float(numbers.mean()) if len(numbers) else np.nan
    if len(numbers) < 2:
        return Interval(mean)
    reach = _quantile(len(numbers)) * float(numbers.std(ddof=1)) / len(numbers) ** 0.5
    return Interval(mean, mean - reach, mean + reach)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike) -> Interval:
    """Return the ratio of two paired means, by Fieller's theorem.

    Where the interval of the lower mean holds 0, nothing is known of the ratio, and the ends are
    infinite.
    """
    a, b = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    ratio = float(a.mean() / b.mean()) if b.mean() else np.nan
    if len(a) < 2:
        return Interval(ratio)
    covariance = np.cov(a, b, ddof=1) / len(a)
    squared = _quantile(len(a)) ** 2
    # The ratios r for which the mean of a - r b is not told apart from 0 solve a quadratic.
    first = b.mean() ** 2 - squared * covariance[1, 1]
    if first <= 0:
        return Interval(ratio)
    second = a.mean() * b.mean() - squared * covariance[0, 1]
    third = a.mean() ** 2 - squared * covariance[0, 0]
    root = max(0.0, second**2 - first * third) ** 0.5
    return Interval(ratio, float((second - root) / first), float((second + root) / first))


def _quantile(count: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
