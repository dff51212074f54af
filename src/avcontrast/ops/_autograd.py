"""How an operator that keeps what its gradient needs is told to autograd, and where that fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef


def transformed() -> bool:
    """Return whether a transform of torch.func is on; a compiler cannot trace the question."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.maybe_current_level() is not None


def register_gradient(
    operator: CustomOpDef,
    backward: CustomOpDef,
    *,
    tensors: int,
    differentiable: int,
    name: str,
    keep_result: bool = False,
) -> None:
    """Make ``backward`` the gradient of ``operator``, which has no second one.

    The arguments of ``operator`` are tensors, options, and whether there will be a gradient. Its
    first output is the result; the others are kept for ``backward``, whose arguments are the
    gradient of the result, these tensors, what is kept, the options, and for each differentiable
    tensor whether its gradient is needed.

    Args:
        operator: what is differentiated.
        backward: its gradient, one tensor for each differentiable one.
        tensors: how many of the arguments come first and are tensors.
        differentiable: how many of these have a gradient.
        name: of the backend, for the error of a second derivative.
        keep_result: whether ``backward`` wants the result itself too.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        ctx.options = inputs[tensors:-1]
        result, *kept = output if isinstance(output, tuple) else (output,)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)  # else zeros as large as the logits are made for them
        ctx.save_for_backward(*inputs[:tensors], *([result] if keep_result else []), *kept)

    def gradient(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad)
        if grad is None:
            return (None,) * count
        needed = ctx.needs_input_grad[:differentiable]
        grads = backward(grad, *ctx.saved_tensors, *ctx.options, *needed)
        given = (grad if need else None for grad, need in zip(grads, needed, strict=True))
        return *given, *[None] * (count - differentiable)

    def refuse(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            f"the {name} backend has no second derivative; use backend='dense' for double backward"
        )

    operator.register_autograd(gradient, setup_context=setup)
    backward.register_autograd(refuse)
