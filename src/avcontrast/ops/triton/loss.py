"""The terms of the loss as an operator, with its shapes and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast.distributed import Peers, all_gather
from avcontrast.ops._settings import Settings
from avcontrast.ops.triton.backward import BackwardPass
from avcontrast.ops.triton.forward import ForwardPass, Outputs, batch_of, empty_outputs
from avcontrast.ops.triton.operands import (
    NO_SECOND_DERIVATIVE,
    empty_gradients,
    launching_on,
)


@torch.library.custom_op("avcontrast::triton_contrast", mutates_args=())
def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    terms: str,
    normalize: bool,
    pooling: str,
    threshold: float,
    mask: str,
    anchor: str,
    detach_adjacency: bool,
    size: int,
    rank: int,
    group: str,
    precision: str,
    store: bool,
    with_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the values of the terms and what the way back needs, see :class:`Outputs`."""
    settings = Settings(
        tuple(terms.split()), normalize, pooling, threshold, mask, anchor, detach_adjacency
    )
    with launching_on(visual):
        peers = Peers(size, rank, group)
        outputs = empty_outputs(visual, audio, settings, peers, ignore, store, with_backward)
        everyone = all_gather(audio.contiguous(), peers)
        batch = batch_of(visual, everyone, temperature, settings, peers, precision, ignore)
        ForwardPass(batch, outputs, store=store).run()
        return outputs if size == 1 else outputs._replace(audio=everyone)


@contrast.register_fake
def _(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    terms: str,
    normalize: bool,
    pooling: str,
    threshold: float,
    mask: str,
    anchor: str,
    detach_adjacency: bool,
    size: int,
    rank: int,
    group: str,
    precision: str,
    store: bool,
    with_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = Settings(tuple(terms.split()), normalize, pooling)
    peers = Peers(size, rank, group)
    return empty_outputs(visual, audio, settings, peers, ignore, store, with_backward)


@torch.library.custom_op("avcontrast::triton_contrast_backward", mutates_args=())
def contrast_backward(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    logits: Tensor,
    index: Tensor,
    scales: Tensor,
    sums: Tensor,
    lengths: Tensor,
    own_map: Tensor,
    pooled: Tensor,
    sources: Tensor,
    everyone: Tensor,
    terms: str,
    normalize: bool,
    pooling: str,
    threshold: float,
    mask: str,
    anchor: str,
    detach_adjacency: bool,
    size: int,
    rank: int,
    group: str,
    precision: str,
    store: bool,
    need_visual: bool,
    need_audio: bool,
    need_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients that are needed; the others are empty."""
    settings = Settings(
        tuple(terms.split()), normalize, pooling, threshold, mask, anchor, detach_adjacency
    )
    kept = Outputs(grad, logits, index, scales, sums, lengths, own_map, pooled, sources, everyone)
    with launching_on(visual):
        all_audio = everyone if size > 1 else audio.contiguous()
        peers = Peers(size, rank, group)
        batch = batch_of(visual, all_audio, temperature, settings, peers, precision, ignore)
        grad_visual, grad_audio = empty_gradients(visual, audio, need_visual, need_audio)
        way = BackwardPass(grad, audio, batch, kept, grad_visual, grad_audio, store=store)
        grad_tau = way.run()
        if not need_temperature:
            grad_tau = grad_tau.new_empty(0)
        return grad_visual, grad_audio, grad_tau.to(temperature.dtype)


@contrast_backward.register_fake
def _(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    need_visual, need_audio, need_temperature = others[-3:]
    return (
        *empty_gradients(visual, audio, need_visual, need_audio),
        torch.empty_like(temperature) if need_temperature else temperature.new_empty(0),
    )


def _contrast_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    visual, audio, temperature, ignore, *ctx.options, _ = inputs
    _, *kept = output
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(visual, audio, temperature, ignore, *kept)


def _contrast_grad(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * len(ctx.needs_input_grad)
    needed = ctx.needs_input_grad[:3]
    grads = contrast_backward(grad, *ctx.saved_tensors, *ctx.options, *needed)
    given = (grad if need else None for grad, need in zip(grads, needed, strict=True))
    return *given, *[None] * (len(ctx.needs_input_grad) - 3)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    raise RuntimeError(NO_SECOND_DERIVATIVE)


contrast.register_autograd(_contrast_grad, setup_context=_contrast_setup)
contrast_backward.register_autograd(_no_second_derivative)
