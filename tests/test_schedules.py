from __future__ import annotations

import pytest

from avcontrast import schedules


def test_switches_on_at_once_as_released():
    assert [schedules.warmup(epoch, start=5) for epoch in range(8)] == [0.0] * 5 + [1.0] * 3


def test_ramp_is_linear_and_ends_at_one():
    strengths = [schedules.warmup(step, start=10, ramp=4) for step in range(9, 17)]
    assert strengths == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])


@pytest.mark.parametrize("name", ["step", "start", "ramp"])
def test_errors_name_the_argument(name):
    arguments = {"step": 1, "start": 2, "ramp": 3, name: -1}
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        schedules.warmup(**arguments)
    with pytest.raises(ValueError, match=f"{name} must be finite, got nan"):
        schedules.warmup(**{**arguments, name: float("nan")})
    with pytest.raises(TypeError, match=f"{name} must be a number, got str"):
        schedules.warmup(**{**arguments, name: "5"})
