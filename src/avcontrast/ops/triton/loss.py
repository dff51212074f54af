"""The terms of the loss as an operator, with its shapes and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avcontrast.distributed import all_gather
from avcontrast.ops._autograd import register_gradient
from avcontrast.ops._settings import unpacked, with_options
from avcontrast.ops.triton.backward import BackwardPass
from avcontrast.ops.triton.batch import batch_of
from avcontrast.ops.triton.forward import ForwardPass, Outputs, empty_outputs
from avcontrast.ops.triton.operands import empty_gradients, launching_on


@torch.library.custom_op("avcontrast::triton_contrast", mutates_args=())
@with_options(11, precision=str, store=bool, with_backward=bool)
def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    """Return the values of the terms and what the way back needs, see :class:`Outputs`."""
    settings, peers, (precision, store, with_backward) = unpacked(options)
    with launching_on(visual):
        outputs = empty_outputs(visual, audio, settings, peers, ignore, store, with_backward)
        everyone = all_gather(audio.contiguous(), peers)
        batch = batch_of(visual, everyone, temperature, settings, peers, precision, ignore)
        ForwardPass(batch, outputs, store=store).run()
        return outputs if peers.size == 1 else outputs._replace(audio=everyone)


@contrast.register_fake
def _(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    ignore: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    settings, peers, (_, store, with_backward) = unpacked(options)
    return empty_outputs(visual, audio, settings, peers, ignore, store, with_backward)


@torch.library.custom_op("avcontrast::triton_contrast_backward", mutates_args=())
@with_options(
    3, precision=str, store=bool, need_visual=bool, need_audio=bool, need_temperature=bool
)
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
    limits: Tensor,
    lengths: Tensor,
    own_map: Tensor,
    pooled: Tensor,
    sources: Tensor,
    everyone: Tensor,
    *options: Any,
) -> tuple[Tensor, ...]:
    """Return the gradients that are needed; the others are empty."""
    settings, peers, (precision, store, *needed) = unpacked(options)
    need_visual, need_audio, need_temperature = needed
    kept = Outputs(
        grad, logits, index, scales, sums, limits, lengths, own_map, pooled, sources, everyone
    )
    with launching_on(visual):
        all_audio = everyone if peers.size > 1 else audio.contiguous()
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
) -> tuple[Tensor, ...]:
    need_visual, need_audio, need_temperature = others[-3:]
    return (
        *empty_gradients(visual, audio, need_visual, need_audio),
        torch.empty_like(temperature) if need_temperature else temperature.new_empty(0),
    )


register_gradient(contrast, contrast_backward, tensors=4, differentiable=3, name="triton")
