"""The highest similarity of every pair on its own: K1, and on the way back K4 and K5."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import ALONE
from avcontrast.ops import _maps
from avcontrast.ops._autograd import register_gradient
from avcontrast.ops._settings import Settings
from avcontrast.ops.triton import products
from avcontrast.ops.triton.batch import Batch, batch_of, operand_blocks
from avcontrast.ops.triton.logits import LogitsSource, make_logits, map_operand
from avcontrast.ops.triton.matrices import audio_operand
from avcontrast.ops.triton.operands import (
    SMALLEST_BOUND,
    Positions,
    empty_gradients,
    launching_on,
)


def _batch(visual: Tensor, audio: Tensor, normalize: bool, precision: str) -> Batch:
    one = visual.new_ones((), dtype=torch.float32)
    return batch_of(visual, audio.contiguous(), one, Settings((), normalize), ALONE, precision)


@torch.library.custom_op("avcontrast::triton_max_similarity", mutates_args=())
def max_similarity(
    visual: Tensor, audio: Tensor, normalize: bool, precision: str, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest similarities, where they are, and the lengths of the features."""
    with launching_on(visual):
        batch = _batch(visual, audio, normalize, precision)
        best, index, lengths = _empty_outputs(visual, audio, with_index)
        source = LogitsSource(batch, audio_operand(batch, batch.precision), None)
        nothing = lengths.new_empty(0)
        for block in operand_blocks(batch):
            read = Positions(lengths[block], nothing, nothing, nothing)
            where = index[block] if with_index else index
            make_logits(source, block, read, best[block], where)
        return best, index, lengths


@max_similarity.register_fake
def _(
    visual: Tensor, audio: Tensor, normalize: bool, precision: str, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(visual, audio, with_index)


def _empty_outputs(
    visual: Tensor, audio: Tensor, with_index: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, m = len(visual), len(audio)
    return (
        visual.new_empty(n, m, dtype=torch.float32),
        _maps.empty_index(visual, m, with_index),
        visual.new_empty(n, visual.shape[2] * visual.shape[3], dtype=torch.float32),
    )


@torch.library.custom_op("avcontrast::triton_max_similarity_backward", mutates_args=())
def max_similarity_backward(
    grad: Tensor,
    visual: Tensor,
    audio: Tensor,
    best: Tensor,
    index: Tensor,
    lengths: Tensor,
    normalize: bool,
    precision: str,
    need_visual: bool,
    need_audio: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients that are needed; the others are empty."""
    with launching_on(visual):
        batch = _batch(visual, audio, normalize, precision)
        precision = batch.gram_precision
        grad = grad.contiguous()
        bound = grad.abs().amax().clamp_min_(SMALLEST_BOUND)
        vectors, _ = audio_operand(batch, precision)
        grad_visual, grad_audio = empty_gradients(visual, audio, need_visual, need_audio)
        grad_vectors = grad.new_zeros(audio.shape)
        nothing = lengths.new_empty(0)
        for block in operand_blocks(batch):
            if need_audio:
                read = Positions(torch.empty_like(lengths[block]), nothing, nothing, nothing)
                operand = map_operand(batch, block, read, precision)
                products.add_to_vectors(
                    grad[block], index[block], bound, operand, grad_vectors, precision
                )
            if need_visual:
                products.store_to_maps(
                    grad[block],
                    best[block],
                    index[block],
                    bound,
                    batch.tau,
                    vectors,
                    batch.maps[block],
                    lengths[block],
                    grad_visual.flatten(2)[block],
                    normalize=normalize,
                    precision=precision,
                )
        if need_audio:
            rows, row_lengths = _maps.unit_vectors(audio, torch.float32, normalize)
            grad_audio.copy_(
                _maps.unit_vectors_backward(grad_vectors, rows, row_lengths, normalize)
            )
        return grad_visual, grad_audio


@max_similarity_backward.register_fake
def _(
    grad: Tensor, visual: Tensor, audio: Tensor, *others: Tensor | bool | str
) -> tuple[Tensor, Tensor]:
    need_visual, need_audio = map(bool, others[-2:])
    return empty_gradients(visual, audio, need_visual, need_audio)


register_gradient(
    max_similarity,
    max_similarity_backward,
    tensors=2,
    differentiable=2,
    name="triton",
    keep_result=True,
)
