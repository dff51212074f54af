"""The cards that the kernels have passed their tests on; ``"auto"`` takes them nowhere else."""

from __future__ import annotations

from typing import NamedTuple


class PassedRun(NamedTuple):
    """A run of ``pytest -m gpu`` that passed.

    Args:
        capability: compute capability, for all cards of which it stands.
        card: the model.
        torch: version.
        triton: version.
        driver: version.
        date: of the run, as in 2026-01-31.
    """

    capability: tuple[int, int]
    card: str
    torch: str
    triton: str
    driver: str
    date: str


PASSED_RUNS: tuple[PassedRun, ...] = ()
