"""What the tables and the figures of the report have in common: effects, and how to write them."""

from __future__ import annotations

import math

from avstudy.plan import Plan
from avstudy.rows import Row, Table
from avstudy.statistics import Interval, mean_interval, ratio_interval

MEASURES = {"retrieval": "retrieval", "success_quarter": "localisation"}


def _asked(stage: str, setting: str, method: str) -> Row:
    return {"stage": stage, "setting": setting, "method": method, "condition": "plain"}


def mean_of(runs: Table, measure: str, stage: str, setting: str, method: str) -> Interval | None:
    """Return the mean of a method in points, or None if it was not run."""
    values = runs.by_seed(measure, **_asked(stage, setting, method)).values()
    return mean_interval([100 * value for value in values]) if values else None


def effect(
    runs: Table, measure: str, stage: str, setting: str, method: str, reference: str
) -> Interval | None:
    """Return the paired difference of two methods in points, or None if one was not run."""
    ours, theirs = runs.paired(
        measure, _asked(stage, setting, method), _asked(stage, setting, reference)
    )
    if not ours:
        return None
    return mean_interval([100 * (a - b) for a, b in zip(ours, theirs, strict=True)])


def share_of_gap(
    runs: Table, measure: str, stage: str, setting: str, method: str, plan: Plan
) -> Interval | None:
    """Return how much of the gap between reference and oracle a method closes, in per cent.

    None where the gap is not there: its interval holds 0, or the oracle is the worse one.
    """
    names = plan.report["reference"], plan.report["ceiling"], method
    values = [runs.by_seed(measure, **_asked(stage, setting, name)) for name in names]
    seeds = sorted(set.intersection(*(set(value) for value in values)))
    plain, best, ours = ([value[seed] for seed in seeds] for value in values)
    gap = [b - a for a, b in zip(plain, best, strict=True)]
    if len(seeds) < 2 or mean_interval(gap).low <= 0:
        return None
    share = ratio_interval([b - a for a, b in zip(plain, ours, strict=True)], gap)
    return Interval(*(100 * value for value in share))


def written(interval: Interval | None, form: str = "+.1f") -> str:
    """Write a mean with its interval."""
    if interval is None:
        return "-"
    if not math.isfinite(interval.low):
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def label_of(plan: Plan, name: str) -> str:
    """Return what a method or a setting is called in the report."""
    label: str = plan.report.get("labels", {}).get(name, name)
    return label


def methods_of(runs: Table, setting: str, stage: str = "evaluation") -> list[str]:
    """Return the methods that were run in a setting, in the order of the plan."""
    chosen = runs.chosen(stage=stage, setting=setting)
    return list(dict.fromkeys(row["method"] for row in chosen))
