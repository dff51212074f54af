"""A plugin of pytest that writes down each outcome at once: a run that is killed keeps them.

TEST_OUTCOMES=outcomes.jsonl python -m pytest -p kept_outcomes -m gpu

A line is a test.
"""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what became of a test; of what comes before and after it, only what went wrong."""
    if report.when == "call" or not report.passed:
        _keep(report.nodeid, report.outcome, report.duration, report.longreprtext)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep that a file could not be read."""
    if report.failed:
        _keep(report.nodeid, "failed", 0.0, report.longreprtext)


def _keep(test: str, outcome: str, seconds: float, text: str) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose reports come to the main process as well
        return
    said = text.strip().splitlines()[-1] if text.strip() else ""
    line = {"test": test, "outcome": outcome, "seconds": round(seconds, 3), "said": said}
    with open(os.environ["TEST_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
