"""The gradients: blocks of rows through K3, K4 and K5, then the way from means and sources."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import all_gather, reduce_scatter
from avcontrast.ops import _maps
from avcontrast.ops._settings import TERMS
from avcontrast.ops.triton import products
from avcontrast.ops.triton.batch import Batch, row_blocks
from avcontrast.ops.triton.forward import Outputs
from avcontrast.ops.triton.kernels.finish import finish_kernel
from avcontrast.ops.triton.logits import logits_source, make_logits, map_operand
from avcontrast.ops.triton.matrices import MatrixGradients, gram_operands, matrix_gradients
from avcontrast.ops.triton.operands import SMALLEST_BOUND, Positions, rows_of
from avcontrast.ops.triton.tiles import FINISH_LEAST, MAP_WARPS, map_block


class BackwardPass:
    """One way back through a batch, which fills in the gradients of the features.

    Args:
        grad: of the values.  [terms, n].
        audio: of this process.  [n, d].
        batch: the call.
        kept: outputs of the forward pass.
        grad_visual: (b, d, h, w), or empty where it is not needed.
        grad_audio: [n, d], or empty.
        store: whether the logits were kept.
    """

    def __init__(
        self,
        grad: Tensor,
        audio: Tensor,
        batch: Batch,
        kept: Outputs,
        grad_visual: Tensor,
        grad_audio: Tensor,
        *,
        store: bool,
    ) -> None:
        settings, (b, d) = batch.settings, batch.audio.shape
        self.audio, self.batch, self.kept, self.store = audio, batch, kept, store
        self.need_visual, self.need_audio = grad_visual.numel() > 0, grad_audio.numel() > 0
        self.grad_maps = grad_visual.flatten(2) if self.need_visual else grad_visual
        self.grad_audio = grad_audio
        self.soft = settings.mask == "soft" and "tne" in settings.terms
        self.sources_matter = "tne" in settings.terms and (self.need_visual or self.soft)
        self.pooled_matters = settings.needs_pooled and self.need_visual

        self.grads = kept.scales.new_zeros(len(TERMS), b)
        everyone = all_gather(grad.T.contiguous(), batch.peers)
        for number, term in enumerate(settings.terms):
            self.grads[TERMS.index(term)] = everyone[:, number]
        # A softmax times s - <s, Q> is never above two.
        bound = 2 * self.grads.abs().amax(1).sum() / batch.tau
        self.bound = bound.clamp_min_(SMALLEST_BOUND)
        self.nothing = self.grads.new_empty(0)
        self.grams = gram_operands(batch, kept.pooled, kept.sources)
        self.source = None
        if settings.needs_logits and not store:
            self.source = logits_source(batch, self.grams, kept.pooled)
        self.of_vectors, self.of_pooled, self.of_sources = (
            self.grads.new_zeros(b, d) for _ in range(3)
        )
        self.of_tau = self.grads.new_zeros(())

    def run(self) -> Tensor:
        """Fill in the gradients of the features; return that of the temperature."""
        batch, settings = self.batch, self.batch.settings
        for block in row_blocks(batch):
            logits, where = self.logits_of(block)
            gradients = matrix_gradients(
                batch,
                block,
                self.grads,
                logits,
                self.grams,
                self.kept.scales,
                self.kept.sums,
                self.kept.limits,
            )
            self.of_tau += gradients.tau.sum()
            if settings.needs_index:
                self.carry_maxima(block, gradients.logits, logits, where)
            if settings.pools_mean:
                self.carry_means(block, gradients.logits)
            self.carry_grams(block, gradients)
        own_vectors, lengths = _maps.unit_vectors(self.audio, torch.float32, settings.normalize)
        if self.pooled_matters or self.sources_matter:
            self.finish_maps(own_vectors)
        if self.need_audio:
            own = reduce_scatter(self.of_vectors, batch.peers)
            own = _maps.unit_vectors_backward(own, own_vectors, lengths, settings.normalize)
            self.grad_audio.copy_(own)
        return -self.of_tau / batch.tau

    def scratch(self, block: slice) -> Positions:
        """Return where to write what the forward pass has read already."""
        return Positions(torch.empty_like(self.kept.lengths[block]), *[self.nothing] * 3)

    def logits_of(self, block: slice) -> tuple[Tensor, Tensor]:
        """Return the logits of a block and where each is, made anew if they were not kept."""
        batch, kept = self.batch, self.kept
        if self.source is None:
            logits, where = (t[block] if t.numel() else t for t in (kept.logits, kept.where))
            return logits, where
        b = len(batch.audio)
        logits = self.nothing.new_empty(block.stop - block.start, b)
        where = _maps.empty_index(batch.maps[block, :, None], b, batch.settings.needs_index)
        make_logits(self.source, block, self.scratch(block), logits, where)
        return logits, where

    def carry_maxima(self, block: slice, grad: Tensor, logits: Tensor, where: Tensor) -> None:
        """Carry the gradient of a block of logits to the features where each is the maximum."""
        batch, precision = self.batch, self.batch.gram_precision
        if self.need_audio:
            maps = map_operand(batch, block, self.scratch(block), precision)
            products.add_to_vectors(grad, where, self.bound, maps, self.of_vectors, precision)
        if self.need_visual:
            products.store_to_maps(
                grad,
                logits,
                where,
                self.bound,
                batch.tau,
                self.grams.audio,
                batch.maps[block],
                self.kept.lengths[block],
                self.grad_maps[block],
                normalize=batch.settings.normalize,
                precision=precision,
            )

    def carry_means(self, block: slice, grad: Tensor) -> None:
        """Carry the gradient of a block of logits that are products of means."""
        rows, precision = self.batch.rows(block), self.batch.gram_precision
        if self.need_visual:
            into = self.of_pooled[rows]
            products.add_product(grad, self.bound, self.grams.audio, into, precision)
        if self.need_audio:
            means = rows_of(self.grams.pooled, rows)
            products.add_product(grad.T, self.bound, means, self.of_vectors, precision)

    def carry_grams(self, block: slice, gradients: MatrixGradients) -> None:
        """Carry the gradients of rows of the Gram matrices to their vectors."""
        rows, precision = self.batch.rows(block), self.batch.gram_precision
        for grad, vectors, into, wanted in (
            (gradients.audio, self.grams.audio, self.of_vectors, self.need_audio),
            (gradients.pooled, self.grams.pooled, self.of_pooled, self.pooled_matters),
            (gradients.sources, self.grams.sources, self.of_sources, self.sources_matter),
        ):
            if grad.numel() and wanted:
                products.add_gram_gradient(grad, self.bound, rows, vectors, into, precision)

    def finish_maps(self, own_vectors: Tensor) -> None:
        """Carry the gradients of means and sources to the maps."""
        batch, own = self.batch, self.batch.own
        of_pooled = of_sources = self.nothing
        if self.pooled_matters:
            shared = "fns_visual" in batch.settings.terms
            of_pooled = (
                reduce_scatter(self.of_pooled, batch.peers) if shared else self.of_pooled[own]
            )
        if self.sources_matter:
            of_sources = reduce_scatter(self.of_sources, batch.peers)
        of_own_vectors, tau_parts = finish(
            batch,
            self.kept,
            own_vectors,
            of_pooled,
            of_sources,
            self.grad_maps,
            add=batch.settings.needs_index,
            soft=self.soft,
        )
        if self.soft:
            self.of_vectors[own] += of_own_vectors
            self.of_tau += tau_parts.sum()


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
    padded, block = map_block(positions, FINISH_LEAST)
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
