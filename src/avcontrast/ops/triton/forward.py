"""The loss: blocks of images through K0 and K1, then the b x b matrices tile by tile.

The order of the steps depends on the storage. Where the logits are kept, every map is read once.
Where nothing b x b is kept, mean features and sources are made first, so that the terms can be
summed while the logits of a block are at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.distributed import Peers, all_gather, all_reduce
from avcontrast.ops._adjacency import (
    PAIRS,
    SIDES,
    SOFTMAXES,
    needed_grams,
    number_of_softmaxes,
)
from avcontrast.ops._elimination import limits
from avcontrast.ops._maps import empty_index
from avcontrast.ops._settings import Settings
from avcontrast.ops.triton.batch import Batch, operand_blocks, row_blocks
from avcontrast.ops.triton.logits import (
    LogitsSource,
    logits_source,
    make_logits,
    measure,
    read_maps,
)
from avcontrast.ops.triton.matrices import (
    adjacency_terms,
    combine,
    gram_operands,
    measure_gram,
)
from avcontrast.ops.triton.operands import Positions


class Outputs(NamedTuple):
    """What the forward pass returns: the values of the terms, and what the way back needs."""

    values: Tensor  # [terms, n]
    logits: Tensor  # [n, b], or empty
    where: Tensor  # [n, b] position of each maximum, or empty
    scales: Tensor  # [softmaxes, 3, b]
    sums: Tensor  # [sides, 2, b]
    limits: Tensor  # [2, b] above which pairs are left out, or empty
    lengths: Tensor  # [n, p]
    own_map: Tensor  # [n, p]
    pooled: Tensor  # [b, d]
    sources: Tensor  # [b, d]
    audio: Tensor  # [b, d] of all processes, if there are several


def empty_outputs(
    visual: Tensor,
    audio: Tensor,
    settings: Settings,
    peers: Peers,
    ignore: Tensor | None,
    store: bool,
    with_backward: bool,
) -> Outputs:
    """Return room for the outputs."""
    n, d = audio.shape
    b = n * peers.size
    positions = visual.shape[2] * visual.shape[3]

    def room(*shape: int, needed: bool = True) -> Tensor:
        return audio.new_empty(shape if needed else 0, dtype=torch.float32)

    return Outputs(
        room(len(settings.terms), n),
        room(n, b, needed=store and settings.needs_logits),
        empty_index(visual, b, store and with_backward and settings.needs_index),
        room(number_of_softmaxes(ignore, settings), 3, b),
        room(len(SIDES), 2, b),
        room(2, b, needed=settings.eliminates),
        room(n, positions),
        room(n, positions, needed="tne" in settings.terms),
        room(b, d, needed=settings.needs_pooled),
        room(b, d, needed="tne" in settings.terms),
        audio.new_empty((b, d) if peers.size > 1 else 0),
    )


class ForwardPass:
    """One pass over a batch, which fills in the outputs."""

    def __init__(self, batch: Batch, outputs: Outputs, *, store: bool) -> None:
        settings = batch.settings
        self.batch, self.outputs, self.store = batch, outputs, store
        self.nothing = outputs.lengths.new_empty(0)
        self.terms = [term for term in settings.terms if term in PAIRS]
        self.by_column = settings.anchor == "audio" and settings.suppresses
        self.adjacency = outputs.lengths.new_zeros(len(PAIRS), len(batch.audio))
        self.positives = outputs.lengths.new_empty(len(batch.maps))
        self.grams = gram_operands(batch, self.nothing, self.nothing)

    def run(self) -> None:
        """Fill in the outputs."""
        settings, outputs = self.batch.settings, self.outputs
        outputs.scales.zero_()
        outputs.sums.zero_()
        read_first = not self.store or not settings.needs_index
        if read_first:
            for block in operand_blocks(self.batch):
                read_maps(self.batch, block, self.wanted(block))
            self.measure_grams()
        # Rows of a match are known as soon as their logits are; columns only at the end.
        at_once = bool(self.terms) and not self.store and not self.by_column
        if settings.needs_logits:
            self.make_logits(read=not read_first, with_terms=at_once)
        if not read_first:
            self.measure_grams()
        if self.terms and not (at_once and settings.needs_logits):
            for block in row_blocks(self.batch):
                self.sum_terms(block, self.logits_of(block))
        self.share_columns()
        self.store_values()

    def wanted(self, block: slice, *, everything: bool = True) -> Positions:
        """Return where to write what is read from a block of maps, or only the lengths."""
        rows, outputs = self.batch.rows(block), self.outputs
        means = (outputs.own_map, block), (outputs.pooled, rows), (outputs.sources, rows)
        return Positions(
            outputs.lengths[block],
            *(t[where] if everything and t.numel() else self.nothing for t, where in means),
        )

    def measure_grams(self) -> None:
        """Exchange the vectors of the Gram matrices and fill in how their rows are scaled."""
        batch, (pooled, sources) = self.batch, (self.outputs.pooled, self.outputs.sources)
        if "fns_visual" in self.terms:
            pooled.copy_(all_gather(pooled[batch.own], batch.peers))
        if "tne" in self.terms:
            sources.copy_(all_gather(sources[batch.own], batch.peers))
        self.grams = gram_operands(batch, pooled, sources, self.grams.audio)
        for name in needed_grams(batch.settings):
            scale = self.outputs.scales[SOFTMAXES.index(name)]
            measure_gram(batch, getattr(self.grams, name), scale[:, batch.own])
            if self.by_column:
                scale.copy_(all_gather(scale[:, batch.own].T, batch.peers).T)

    def make_logits(self, *, read: bool, with_terms: bool) -> None:
        """Fill in the logits and how their softmaxes are scaled."""
        batch, outputs, scales = self.batch, self.outputs, self.outputs.scales
        source = logits_source(batch, self.grams, outputs.pooled)
        to_audio, to_visual = scales[:2]
        columns, match_columns = [], []
        if batch.settings.eliminates:
            self.find_limits(source, read=read)
        for block in self.logits_blocks():
            rows, positives = batch.rows(block), self.positives[block]
            if batch.settings.eliminates:
                logits = self.logits_of(block)
                found = measure(batch, block, logits, outputs.limits, positives)
            else:
                logits = self.room_for_logits(block)
                read_to = self.wanted(block, everything=read)
                found = make_logits(source, block, read_to, logits, self.where(block), positives)
            combine(found.rows, positives, to_audio[:, rows])
            columns.append(found.columns)
            if batch.match == "rows":
                combine(found.match, positives, scales[-1][:, rows])
            elif batch.match == "columns":
                match_columns.append(found.match)
            if with_terms:
                self.sum_terms(block, logits)
        if "audio_to_visual" in batch.settings.directions:
            measure_columns(batch, torch.cat(columns), self.positives, to_visual)
        if match_columns:
            measure_columns(batch, torch.cat(match_columns), self.positives, scales[-1])

    def logits_blocks(self) -> Iterator[slice]:
        """Cut the images into blocks whose logits are made at a time."""
        return operand_blocks(self.batch) if self.store else row_blocks(self.batch)

    def where(self, block: slice) -> Tensor:
        """Return where to write the positions of the maxima."""
        where = self.outputs.where
        return where[block] if where.numel() else where

    def find_limits(self, source: LogitsSource, *, read: bool) -> None:
        """Make the logits for the first time, and from them the limits of elimination."""
        batch, own = self.batch, self.batch.own
        row_means = torch.empty_like(self.positives)
        column_sums = self.positives.new_zeros(len(batch.audio))
        for block in self.logits_blocks():
            logits = self.room_for_logits(block)
            make_logits(
                source, block, self.wanted(block, everything=read), logits, self.where(block)
            )
            row_means[block] = logits.mean(1)
            column_sums += logits.sum(0)
            self.positives[block] = logits.diagonal(own.start + block.start)
        found = limits(self.positives, row_means, column_sums, batch.settings, batch.peers)
        self.outputs.limits.copy_(found)

    def room_for_logits(self, block: slice) -> Tensor:
        """Return where the logits of a block are stored, or new memory."""
        if self.store:
            return self.outputs.logits[block]
        return self.nothing.new_empty(block.stop - block.start, len(self.batch.audio))

    def logits_of(self, block: slice) -> Tensor:
        """Return the logits of a block, made anew if they were not stored."""
        if not self.batch.settings.needs_logits:
            return self.nothing
        logits = self.room_for_logits(block)
        if not self.store:
            source = logits_source(self.batch, self.grams, self.outputs.pooled)
            no_index = self.outputs.where.new_empty(0)
            make_logits(source, block, self.wanted(block, everything=False), logits, no_index)
        return logits

    def sum_terms(self, block: slice, logits: Tensor) -> None:
        """Add what a block contributes to the adjacency terms."""
        rows, sums = self.batch.rows(block), self.outputs.sums
        of_rows, of_columns = adjacency_terms(
            self.batch, block, logits, self.grams, self.outputs.scales
        )
        for number, term in enumerate(PAIRS):
            here = slice(5 * number + 1, 5 * number + 5)
            both = slice(2 * number, 2 * number + 2)
            if term not in self.terms:
                continue
            if self.by_column and term != "tne":
                self.adjacency[number] += of_columns[5 * number]
                sums[both] += of_columns[here].view(2, 2, -1)
            else:
                self.adjacency[number, rows] = of_rows[5 * number]
                sums[both, :, rows] = of_rows[here].view(2, 2, -1)

    def share_columns(self) -> None:
        """Add up the columns of suppression terms over all processes."""
        if self.by_column:
            suppression = slice(0, 2)
            peers, sums = self.batch.peers, self.outputs.sums[:4]
            self.adjacency[suppression] = all_reduce(self.adjacency[suppression], peers)
            sums.copy_(all_reduce(sums, peers))

    def store_values(self) -> None:
        """Fill in the values of all terms."""
        own = self.batch.own
        for row, term in enumerate(self.batch.settings.terms):
            if term in PAIRS:
                self.outputs.values[row] = self.adjacency[list(PAIRS).index(term), own]
            else:
                scale = self.outputs.scales[SOFTMAXES.index(term)][:, own]
                self.outputs.values[row] = cross_entropy(scale, self.positives)


def measure_columns(batch: Batch, parts: Tensor, positives: Tensor, scale: Tensor) -> None:
    """Fill in how the columns of the logits are scaled, of which this process has a part."""
    combine(parts, all_gather(positives, batch.peers), scale)
    if batch.peers.size > 1:
        highest, total, others = scale.unbind()
        own_highest = highest.clone()
        highest.copy_(all_reduce(own_highest, batch.peers, highest=True))
        others.copy_(all_reduce(others * (own_highest - highest).exp(), batch.peers))
        positive = (all_gather(positives, batch.peers) - highest).exp()
        torch.add(others, positive, out=total)


def cross_entropy(scale: Tensor, positives: Tensor) -> Tensor:
    """Return minus the log-probability of each positive.  [n]."""
    highest, _, others = scale.unbind()
    below = positives - highest
    return (others + below.expm1()).log1p_().sub_(below)
