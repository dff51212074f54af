"""Temperatures that are tensors: what is asked of them, and how one is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast._checks import SMALLEST_TEMPERATURE
from avcontrast.ops._autograd import transformed

MESSAGE = "temperature must be positive and finite"


def checked(temperature: Tensor) -> Tensor:
    """Return ``temperature``, of which it is made sure that it is positive and finite."""
    zero: Tensor = is_usable(temperature.detach())
    return temperature + zero


def learned(log_temperature: Tensor, lowest: float | None) -> Tensor:
    """Return the temperature of which the logarithm is learned, at least ``lowest``."""
    dtype = torch.promote_types(log_temperature.dtype, torch.float32)
    floor = SMALLEST_TEMPERATURE if lowest is None else lowest
    temperature = log_temperature.to(dtype).exp()
    if transformed():  # where operators with a gradient of their own cannot go
        return temperature.clamp(min=floor)
    bounded: Tensor = at_least(temperature, floor)
    return bounded


@torch.library.custom_op("avcontrast::is_usable", mutates_args=())
def is_usable(temperatures: Tensor) -> Tensor:
    """Raise unless all can divide; on CUDA the device does, later, and nothing waits for it.

    Returns a zero for the caller to add, as :func:`avcontrast.ops._ignored.keeps_positives` does.
    """
    values = temperatures.to(torch.promote_types(temperatures.dtype, torch.float32))
    usable = (values >= SMALLEST_TEMPERATURE) & (values < torch.inf)
    if values.device.type == "cuda":
        torch._assert_async(usable.all(), MESSAGE)
    elif not usable.all():
        raise ValueError(f"{MESSAGE}, got {values[~usable][0].item():g}")
    return values.new_zeros((), dtype=torch.uint8)


@is_usable.register_fake
def _(temperatures: Tensor) -> Tensor:
    return temperatures.new_empty((), dtype=torch.uint8)


@is_usable.register_vmap
def _(info: object, in_dims: tuple[int | None], temperatures: Tensor) -> tuple[Tensor, None]:
    return is_usable(temperatures), None


@torch.library.custom_op("avcontrast::at_least", mutates_args=())
def at_least(value: Tensor, lowest: float) -> Tensor:
    """Bound a value from below so that it can come back: only what pushes further down stops.

    The gradient of a clamp is zero below the bound, so that whatever momentum has carried there
    would stay. Without any stop, what pushes down would carry it ever further away from the bound.
    """
    return value.clamp(min=lowest)


@at_least.register_fake
def _(value: Tensor, lowest: float) -> Tensor:
    return torch.empty_like(value)


def _setup(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    value, lowest = inputs
    ctx.save_for_backward(value < lowest)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (below,) = ctx.saved_tensors
    return grad.masked_fill(below & (grad > 0), 0), None


at_least.register_autograd(_backward, setup_context=_setup)
