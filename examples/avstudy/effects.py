"""What the tables and the figures of the report have in common: effects, and how to write them."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from avstudy.plan import Plan
from avstudy.statistics import Interval, mean_interval, ratio_interval

MEASURES = {"retrieval": "retrieval", "success_quarter": "localisation"}


class Stage(NamedTuple):
    """The rows of a stage, and what the plan says of them; a mean over no row is not a number."""

    plan: Plan
    rows: pd.DataFrame

    def settings(self) -> list[str]:
        """Return the settings that were run, in the order of the plan."""
        return list(self.rows.setting.unique())

    def methods(self, setting: str) -> list[str]:
        """Return the methods that were run in a setting, likewise."""
        return list(self.rows[self.rows.setting == setting].method.unique())

    def label(self, name: str) -> str:
        """Return what a method or a setting is called in the report."""
        return str(self.plan.report.get("labels", {}).get(name, name))

    def paired(self, measure: str, setting: str, *methods: str) -> pd.DataFrame:
        """Return points with a column for each method and a row for each seed that all have."""
        rows = self.rows[(self.rows.setting == setting) & (self.rows.condition == "plain")]
        points = rows.pivot(index="seed", columns="method", values=measure)
        return points.reindex(columns=methods).dropna()

    def mean(self, measure: str, setting: str, method: str) -> Interval:
        """Return the mean of a method in points."""
        return mean_interval(100 * self.paired(measure, setting, method)[method])

    def effect(self, measure: str, setting: str, method: str, reference: str) -> Interval:
        """Return the paired difference of two methods in points."""
        both = self.paired(measure, setting, method, reference)
        return mean_interval(100 * (both[method] - both[reference]))

    def ceilings(self) -> list[str]:
        """Return the methods that know the labels, and whose best says what harm there is."""
        ceiling = self.plan.report["ceiling"]
        return [ceiling] if isinstance(ceiling, str) else ceiling

    def ceiling(self, measure: str, setting: str) -> str:
        """Return the best of them in a setting, over the seeds that all have."""
        means = self.paired(measure, setting, *self.ceilings()).mean()
        return self.ceilings()[0] if means.isna().any() else str(means.idxmax())

    def gap(self, measure: str, setting: str) -> Interval:
        """Return what false negatives cost the reference, in points."""
        ceiling = self.ceiling(measure, setting)
        return self.effect(measure, setting, ceiling, self.plan.report["reference"])

    def share_of_gap(self, measure: str, setting: str, method: str) -> Interval:
        """Return how much of the gap between reference and oracle a method closes, in per cent.

        Not a number where no gap is there: its interval holds 0, or the oracle is the worse one.
        """
        reference, ceiling = self.plan.report["reference"], self.ceiling(measure, setting)
        scores = self.paired(measure, setting, reference, ceiling, method)
        gap = scores[ceiling] - scores[reference]
        if mean_interval(gap).low <= 0:
            return Interval(math.nan)
        return ratio_interval(100 * (scores[method] - scores[reference]), gap)


def written(interval: Interval, form: str = "+.1f") -> str:
    """Write a mean with its interval, `-` where there is none."""
    if math.isnan(interval.mean):
        return "-"
    if not math.isfinite(interval.low):
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
