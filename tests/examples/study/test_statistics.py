"""Intervals of the study's report."""

import math

import numpy as np
import pytest
from scipy import stats

from avstudy.statistics import Interval, mean_interval, ratio_interval

VALUES = [3.1, 4.0, 2.2, 5.9, 4.4, 3.8, 2.9, 4.7]
GAPS = [6.0, 7.1, 4.9, 8.8, 7.9, 6.1, 6.6, 8.0]


def test_a_mean_has_the_interval_of_the_t_test():
    found = mean_interval(VALUES)
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(VALUES), expected.low, expected.high))


def test_one_value_says_nothing_of_the_spread():
    assert mean_interval([2.0]) == (2.0, -math.inf, math.inf)
    assert ratio_interval([1.0], [2.0]) == (0.5, -math.inf, math.inf)


def test_a_ratio_has_the_values_that_the_paired_test_does_not_reject():
    found = ratio_interval(VALUES, GAPS)
    assert found.mean == pytest.approx(np.mean(VALUES) / np.mean(GAPS))
    assert found.low < found.mean < found.high
    for end, inside in ((found.low, 1e-6), (found.high, -1e-6)):
        rest = np.subtract(VALUES, np.multiply(end, GAPS))
        assert stats.ttest_1samp(rest, 0).pvalue == pytest.approx(0.05, abs=1e-9)
        rest = np.subtract(VALUES, np.multiply(end + inside, GAPS))
        assert stats.ttest_1samp(rest, 0).pvalue > 0.05


def test_no_value_has_no_mean():
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([])[1:] == (-math.inf, math.inf)


def test_a_ratio_to_nothing_has_no_ends():
    found = ratio_interval(VALUES, [g - np.mean(GAPS) + 0.1 for g in GAPS])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert isinstance(found, Interval)
