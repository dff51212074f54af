"""The gradients: blocks of rows through K3, K4 and K5, then the way from means and sources."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import all_gather, reduce_scatter
from avcontrast.ops import _rows
from avcontrast.ops._settings import TERMS
from avcontrast.ops.triton import steps
from avcontrast.ops.triton.forward import (
    Outputs,
    gram_operands,
    logits_source,
    make_logits,
)
from avcontrast.ops.triton.kernels.finish import finish_kernel
from avcontrast.ops.triton.operands import SMALLEST_BOUND, Positions
from avcontrast.ops.triton.steps import Batch
from avcontrast.ops.triton.tiles import MAP_WARPS, map_block


def backward(
    grad: Tensor,
    audio: Tensor,
    batch: Batch,
    kept: Outputs,
    grad_visual: Tensor,
    grad_audio: Tensor,
    *,
    store: bool,
) -> Tensor:
    """Fill in the gradients of the features that are not empty; return that of the temperature.

    Args:
        grad: of the values.  [terms, n].
        audio: of this process.  [n, d].
        batch: the call.
        kept: outputs of the forward pass.
        grad_visual: (b, d, h, w), or empty where it is not needed.
        grad_audio: [n, d], or empty.
        store: whether the logits were kept.
    """
    settings, own, precision = batch.settings, batch.own, batch.gram_precision
    b, d = batch.audio.shape
    need_visual, need_audio = grad_visual.numel() > 0, grad_audio.numel() > 0
    soft = settings.mask == "soft" and "tne" in settings.terms
    sources_matter = "tne" in settings.terms and (need_visual or soft)
    pooled_matters = settings.needs_pooled and need_visual
    grads = kept.scales.new_zeros(len(TERMS), b)
    everyone = all_gather(grad.T.contiguous(), batch.peers)
    for number, term in enumerate(settings.terms):
        grads[TERMS.index(term)] = everyone[:, number]
    # A softmax times s - <s, Q> is never above two.
    bound = (2 * grads.abs().amax(1).sum() / batch.tau).clamp_min_(SMALLEST_BOUND)
    grams = gram_operands(batch, kept.pooled, kept.sources)
    vectors = grams.audio
    grad_vectors, grad_pooled, grad_sources = (grads.new_zeros(b, d) for _ in range(3))
    grad_tau = grads.new_zeros(())
    grad_maps = grad_visual.flatten(2) if need_visual else grad_visual
    nothing = grads.new_empty(0)
    if settings.needs_logits and not store:
        source = logits_source(batch, grams, kept.pooled)

    for block in steps.row_blocks(batch):
        rows = batch.rows(block)
        lengths = kept.lengths[block]
        logits, index = kept.logits, kept.where
        if settings.needs_logits and store:
            logits = logits[block]
            index = index[block] if settings.needs_index else index
        elif settings.needs_logits:
            logits = grads.new_empty(block.stop - block.start, b)
            visual = batch.maps[block, :, None]
            index = _rows.empty_index(visual, b, settings.needs_index)
            read = Positions(torch.empty_like(lengths), nothing, nothing, nothing)
            make_logits(source, block, read, logits, index)
        gradients = steps.matrix_gradients(
            batch, block, grads, logits, grams, kept.scales, kept.sums
        )
        grad_tau += gradients.tau.sum()
        if settings.needs_index and need_audio:
            read = Positions(torch.empty_like(lengths), nothing, nothing, nothing)
            operand = steps.map_operand(batch, block, read, precision)
            steps.add_to_vectors(gradients.logits, index, bound, operand, grad_vectors, precision)
        if settings.needs_index and need_visual:
            steps.store_to_maps(
                gradients.logits,
                logits,
                index,
                bound,
                batch.tau,
                vectors,
                batch.maps[block],
                lengths,
                grad_maps[block],
                normalize=settings.normalize,
                precision=precision,
            )
        if settings.pools_mean and need_visual:
            steps.add_product(gradients.logits, bound, vectors, grad_pooled[rows], precision)
        if settings.pools_mean and need_audio:
            means = steps.rows_of(grams.pooled, rows)
            steps.add_product(gradients.logits.T, bound, means, grad_vectors, precision)
        for gradient, operand, into, wanted in (
            (gradients.audio, grams.audio, grad_vectors, need_audio),
            (gradients.pooled, grams.pooled, grad_pooled, pooled_matters),
            (gradients.sources, grams.sources, grad_sources, sources_matter),
        ):
            if gradient.numel() and wanted:
                steps.add_gram_gradient(gradient, bound, rows, operand, into, precision)

    own_vectors, vector_lengths = _rows.unit_rows(audio, torch.float32, settings.normalize)
    if pooled_matters or sources_matter:
        if pooled_matters and "fns_visual" in settings.terms:
            own_pooled = reduce_scatter(grad_pooled, batch.peers)
        else:
            own_pooled = grad_pooled[own]
        own_sources = reduce_scatter(grad_sources, batch.peers) if sources_matter else nothing
        of_own_vectors, tau_parts = finish(
            batch,
            kept,
            own_vectors,
            own_pooled if pooled_matters else nothing,
            own_sources,
            grad_maps,
            add=settings.needs_index,
            soft=soft,
        )
        if soft:
            grad_vectors[own] += of_own_vectors
            grad_tau += tau_parts.sum()

    if need_audio:
        own_grad = reduce_scatter(grad_vectors, batch.peers)
        grad_audio.copy_(
            _rows.unit_rows_backward(own_grad, own_vectors, vector_lengths, settings.normalize)
        )
    return -grad_tau / batch.tau


def finish(
    batch: Batch,
    kept: Outputs,
    own_vectors: Tensor,
    grad_pooled: Tensor,
    grad_sources: Tensor,
    grad_maps: Tensor,
    *,
    add: bool,
    soft: bool,
) -> tuple[Tensor, Tensor]:
    """Carry the gradients of means and sources, empty if not needed, to the maps.

    Returns:
        What a soft mask adds to the gradient of the own audio vectors, and to that of -tau, in
        parts.
    """
    n, d, positions = batch.maps.shape
    padded, block = map_block(positions)
    of_vectors = own_vectors.new_empty((n, d) if soft else 0)
    tau_parts = own_vectors.new_empty(n if soft else 0)
    maps = grad_maps.numel() > 0
    finish_kernel[(n,)](
        batch.maps,
        own_vectors,
        batch.tau,
        kept.lengths,
        kept.own_map,
        grad_pooled,
        grad_sources,
        grad_maps,
        of_vectors,
        tau_parts,
        *batch.maps.stride(),
        *(grad_maps.stride() if maps else (0, 0, 0)),
        batch.settings.threshold,
        POSITIONS=positions,
        POSITIONS_PADDED=padded,
        CHANNELS=d,
        BLOCK=block,
        NORMALIZE=batch.settings.normalize,
        POOLED=grad_pooled.numel() > 0,
        SOURCES=grad_sources.numel() > 0,
        SOFT=soft,
        MAPS=maps,
        ADD=add,
        num_warps=MAP_WARPS,
    )
    return of_vectors, tau_parts
