"""Warm-up as a pure function of the step."""

from __future__ import annotations

from avcontrast._checks import check_number


def warmup(step: float, *, start: float, ramp: float = 0) -> float:
    """Strength of the regularisation at ``step``: 0 before ``start``, then up to 1.

    Pass the result as ``regularization`` to :class:`avcontrast.FNACLoss`. The released training
    code contrasts only (strength 0) while the 0-based epoch is below its warm-up, 5 in its scripts
    and 3 in the paper, and then switches every term on at once, which is ``ramp=0``.

    Args:
        step: 0-based epoch or step, whichever ``start`` counts.
        start: first step with regularisation; not negative.
        ramp: number of steps over which the strength grows linearly; 0 switches at once. The first
            step of a ramp has strength ``1 / (ramp + 1)``, so that it is not one more step of 0.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: if an argument is negative or not finite.

    Example:
        >>> from avcontrast import schedules
        >>> [schedules.warmup(epoch, start=2) for epoch in range(4)]
        [0.0, 0.0, 1.0, 1.0]
        >>> [schedules.warmup(epoch, start=1, ramp=3) for epoch in range(5)]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    for name, value in (("step", step), ("start", start), ("ramp", ramp)):
        check_number(name, value)
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / (ramp + 1))
