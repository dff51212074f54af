"""The b x b matrices after the maximum, a block of rows at a time.

A term is the row-wise L1 distance of two softmax matrices, Q and T:

    fns_audio   Q from the audio vectors,   T the cross-modal match
    fns_visual  Q from the pooled vectors,  T the cross-modal match
    tne         Q from the audio vectors,   T from the source vectors

With s = sgn(Q - T), the gradient of a row of |Q - T| is Q (s - <s, Q>) for the logits of Q and
-T (s - <s, T>) for those of T. Where one entry of a row is almost 1, s - <s, Q> nearly cancels; but
the row sums to 1, so that it is also -above where s = -1 and below where s = 1, with the sums
above = <1 + s, Q> and below = <1 - s, Q> of what has another sign. So the backward pass makes the
matrices anew and needs, beside them, how each row was scaled, and these two sums a row, term and
side. A row is scaled by its maximum and the sum of exponentials below it: one log-sum-exp would
lose digits, logits being large. Gram matrices are symmetric: with G = Y Y^T / tau the features get
(dG + dG^T) Y / tau, to which each block of rows of dG, or of its transpose, adds its part.

Pairs that are left out, because the caller wants it or because they are likely false negatives,
count in neither cross entropy, and in the match as ever. It is then a softmax of its own; otherwise
it is that of the one or the other cross entropy. Which pairs are likely is not stored: it is seen
from the logits and two limits a sample. False negative suppression alone leaves pairs out of the
match and of the adjacencies instead; a mask is not symmetric, and its columns are measured as such.

Where processes share a batch, each has the rows of the logits that belong to its own images, and
everything else as if it were alone: vectors of all samples, and what belongs to all rows. ``rows``
then counts within the process, ``own`` within the global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.distributed import ALONE, Peers, all_gather, all_reduce
from avcontrast.ops._elimination import above
from avcontrast.ops._maps import block_bytes, blocks
from avcontrast.ops._settings import Settings

PAIRS = {
    "fns_audio": ("audio", "match"),
    "fns_visual": ("pooled", "match"),
    "tne": ("audio", "sources"),
}
GRAMS = ("audio", "pooled", "sources")
SOFTMAXES = ("visual_to_audio", "audio_to_visual", *GRAMS)
SIDES = tuple((term, side) for term in PAIRS for side in ("left", "right"))


class Matrices(NamedTuple):
    """What the b x b matrices are made of; ``features`` holds only what some term needs.

    Args:
        logits: of the own images with all audio vectors.  [n, b].
        features: vectors of all samples, by name.  [b, d].
        scales: how each row of each softmax was scaled, see :func:`exponentials`.  [., 3, b].
        tau: the temperature.
        anchor: see :class:`Settings`.
        peers: the processes that share the batch.
        ignore: which pairs the caller wants left out of the cross entropies.  [n, b] bool.
        limits: above which likely false negatives lie, see :mod:`._elimination`.  [2, b].
        everywhere: whether what is in ``ignore`` is left out of the match and the adjacencies too.
    """

    logits: Tensor
    features: dict[str, Tensor]
    scales: Tensor
    tau: Tensor
    anchor: str
    peers: Peers = ALONE
    ignore: Tensor | None = None
    limits: Tensor | None = None
    everywhere: bool = False

    @property
    def leaves_out(self) -> bool:
        """Whether some pairs may be left out of the cross entropies."""
        return self.ignore is not None or self.limits is not None

    @property
    def has_own_match(self) -> bool:
        """Whether the match is the softmax of neither cross entropy."""
        return self.leaves_out and not self.everywhere

    def ignored(self, rows: slice) -> Tensor | None:
        """Return which pairs of a block of rows match and adjacencies leave out.  [r, b]."""
        return None if self.ignore is None or not self.everywhere else self.ignore[rows]

    def left_out(self, rows: slice, own: slice) -> Tensor | None:
        """Return which pairs of a block of rows the cross entropies leave out.  [r, b]."""
        ignored = None if self.ignore is None else self.ignore[rows]
        if self.limits is None:
            return ignored
        likely = above(self.logits[rows], self.limits, own)
        return likely if ignored is None else likely.logical_or_(ignored)

    @property
    def own(self) -> slice:
        """Where the samples of this process lie."""
        return self.peers.own(self.scales.shape[-1] // self.peers.size)

    def blocks(self, matrices: int) -> Iterator[tuple[slice, slice]]:
        """Cut the own rows into blocks that leave room for some matrices."""
        first, last, _ = self.own.indices(self.scales.shape[-1])
        bytes_each = matrices * self.scales.shape[-1] * self.scales.element_size()
        for rows in blocks(last - first, bytes_each, block_bytes(self.scales)):
            yield rows, slice(first + rows.start, first + rows.stop)

    def scale(self, name: str) -> Tensor:
        """Return how each row of a softmax was scaled, see :func:`exponentials`.  [3, b]."""
        if name == "match":
            if self.has_own_match:
                return self.scales[len(SOFTMAXES)]
            name = "visual_to_audio" if self.anchor == "visual" else "audio_to_visual"
        return self.scales[SOFTMAXES.index(name)]

    def scores(self, name: str, rows: slice, own: slice) -> Tensor:
        """Return rows of the logits, or new ones of a Gram matrix, for a softmax.  [r, b].

        Where it leaves pairs out, there is minus infinity, in the logits of a copy.
        """
        contrasts = name in ("visual_to_audio", "audio_to_visual")
        left_out = self.left_out(rows, own) if contrasts else self.ignored(rows)
        scores = self.gram(name, own) if name in GRAMS else self.logits[rows]
        return scores if left_out is None else scores.masked_fill(left_out, -torch.inf)

    def softmax(
        self,
        name: str,
        scores: Tensor,
        own: slice,
        left_out: Tensor | None = None,
        *,
        by_column: bool,
    ) -> Tensor:
        """Return the softmax of a block of rows, whose own rows may lie in columns.  [r, b]."""
        highest, total = (along(vector, own, by_column) for vector in self.scale(name)[:2].unbind())
        result = (scores - highest).exp_().div_(total)
        return result if left_out is None else result.masked_fill_(left_out, 0)

    def complement(self, name: str, own: slice) -> Tensor:
        """Return 1 minus the diagonal of a softmax, exact where that is almost 1.  [r]."""
        _, total, others = self.scale(name)[:, own].unbind()
        return others / total

    def cross_entropy(self, direction: str) -> Tensor:
        """Return minus the log-probability of each positive.  [n]."""
        highest, _, others = self.scale(direction)[:, self.own].unbind()
        below = self.logits.diagonal(self.own.start) - highest
        return (others + below.expm1()).log1p_().sub_(below)

    def gram(self, name: str, own: slice) -> Tensor:
        """Return rows of a Gram matrix over the temperature.  [r, b]."""
        features = self.features[name]
        return (features[own] @ features.T).div_(self.tau)


def needed_grams(settings: Settings) -> tuple[str, ...]:
    """Return which Gram matrices the terms compare."""
    used = {name for term in settings.terms if term in PAIRS for name in PAIRS[term]}
    return tuple(name for name in GRAMS if name in used)


def exponentials(scores: Tensor, own: slice, scale: Tensor) -> Tensor:
    """Turn rows of scores, in place, into their exponentials relative to the maximum of each row.

    Writes into ``scale`` (3, r) that maximum, the sum of the exponentials, and the sum without the
    diagonal. Where the positive holds almost all of a row, that last one is what the loss and its
    gradient are made of, and would be lost in 1 - P.
    """
    highest, total, others = scale.unbind()
    torch.amax(scores, 1, out=highest)
    scores.sub_(highest[:, None]).exp_()
    diagonal = scores.diagonal(own.start)
    positive = diagonal.clone()
    diagonal.zero_()
    torch.sum(scores, 1, out=others)
    torch.add(others, positive, out=total)
    diagonal.copy_(positive)
    return scores


def number_of_softmaxes(ignore: Tensor | None, settings: Settings) -> int:
    """Return how many of them have a scale of their own, see :meth:`Matrices.scale`."""
    leaves_out = ignore is not None or settings.eliminates
    has_own_match = leaves_out and settings.suppresses and not settings.suppression_ignores
    return len(SOFTMAXES) + has_own_match


def measure_logits(matrices: Matrices, settings: Settings) -> None:
    """Fill in the scales of the softmaxes over the logits that the terms need."""
    if "visual_to_audio" in settings.directions:
        _measure_rows(matrices, "visual_to_audio")
    if "audio_to_visual" in settings.directions:
        _measure_columns(matrices, "audio_to_visual")
    if matrices.has_own_match and settings.suppresses:
        measure = _measure_rows if settings.anchor == "visual" else _measure_columns
        measure(matrices, "match")


def _measure_rows(matrices: Matrices, name: str) -> None:
    """Fill in the scales of a softmax over each own row of the logits."""
    scale = matrices.scale(name)
    for rows, own in matrices.blocks(4):
        exponentials(matrices.scores(name, rows, own).clone(), own, scale[:, own])


def _measure_columns(matrices: Matrices, name: str) -> None:
    """Fill in the scales of a softmax over each column, of which this process has a part."""
    highest, total, others = matrices.scale(name).unbind()
    highest.copy_(all_reduce(_highest_of_columns(matrices, name), matrices.peers, highest=True))
    sums = torch.zeros_like(matrices.scales[0, :2])
    for rows, own in matrices.blocks(4):
        part = (matrices.scores(name, rows, own) - highest).exp_()
        diagonal = part.diagonal(own.start)
        sums[0, own] = diagonal
        diagonal.zero_()
        sums[1] += part.sum(0)
    positive, rest = all_reduce(sums, matrices.peers).unbind()
    others.copy_(rest)
    torch.add(rest, positive, out=total)


def _highest_of_columns(matrices: Matrices, name: str) -> Tensor:
    """Return the maximum of the own part of each column; minus infinity where nothing counts."""
    if name == "match" or not matrices.leaves_out:
        return matrices.logits.amax(0)
    highest = torch.full_like(matrices.scales[0, 0], -torch.inf)
    for rows, own in matrices.blocks(4):
        torch.maximum(highest, matrices.scores(name, rows, own).amax(0), out=highest)
    return highest


def measure_gram(matrices: Matrices, name: str) -> None:
    """Fill in the scales of all rows of a Gram matrix, whose rows are going to lie in columns."""
    if matrices.everywhere:
        _measure_columns(matrices, name)
        return
    scale = matrices.scale(name)
    for _, own in matrices.blocks(4):
        exponentials(matrices.gram(name, own), own, scale[:, own])
    scale.copy_(all_gather(scale[:, matrices.own].T, matrices.peers).T)


def forward(matrices: Matrices, settings: Settings) -> tuple[dict[str, Tensor], Tensor]:
    """Return the adjacency terms, [n] each, and for ``SIDES`` the sums above and below.  [., 2, b].

    Fills in the scales of the Gram matrices.
    """
    terms = [term for term in settings.terms if term in PAIRS]
    values = {term: torch.zeros_like(matrices.scales[0, 0]) for term in terms}
    sums = matrices.scales.new_zeros(len(SIDES), 2, matrices.scales.shape[-1])
    in_columns = [term for term in terms if _by_column(term, settings.anchor)]
    for term in in_columns:
        measure_gram(matrices, PAIRS[term][0])
    for rows, own in matrices.blocks(8):
        softmax: dict[tuple[str, bool], Tensor] = {}
        for term in terms:
            by_column = term in in_columns
            for name in PAIRS[term]:
                if (name, by_column) not in softmax:
                    made = _softmax_rows(matrices, name, rows, own, by_column=by_column)
                    softmax[name, by_column] = made
            left, right = (softmax[name, by_column] for name in PAIRS[term])
            gap = _gap(left, right, term, matrices, own)
            _add_along(values[term], gap.abs(), own, by_column)
            above = gap.sign_().add_(1)
            below = 2 - above
            for side, half in (("left", left), ("right", right)):
                into = sums[SIDES.index((term, side))]
                _add_along(into[0], above * half, own, by_column)
                _add_along(into[1], below * half, own, by_column)
    for term in in_columns:
        values[term] = all_reduce(values[term], matrices.peers)
        for side in ("left", "right"):
            into = sums[SIDES.index((term, side))]
            into.copy_(all_reduce(into, matrices.peers))
    return {term: value[matrices.own] for term, value in values.items()}, sums


def _softmax_rows(
    matrices: Matrices, name: str, rows: slice, own: slice, *, by_column: bool
) -> Tensor:
    """Return a block of the softmax of a match or Gram matrix, made for the first time.  [r, b]."""
    scores = matrices.scores(name, rows, own)
    if name == "match" or by_column:
        return matrices.softmax(name, scores, own, by_column=by_column)
    scale = matrices.scale(name)[:, own]
    return exponentials(scores, own, scale).div_(scale[1, :, None])


class AdjacencyGradient(NamedTuple):
    """What the adjacency terms hand back.

    Args:
        features: gradients of the vectors, by name; zero where not wanted.  [b, d].
        signs: the sign s of each suppression term, laid out like the logits.  [n, b] int8.
        temperature: the sum of dG * G over all Gram matrices, if needed.
    """

    features: dict[str, Tensor]
    signs: dict[str, Tensor]
    temperature: Tensor


def backward(
    grads: dict[str, Tensor],
    matrices: Matrices,
    sums: Tensor,
    settings: Settings,
    wanted: tuple[str, ...],
    need_temperature: bool,
) -> AdjacencyGradient:
    """Return the gradients of the features named in ``wanted``, and the signs that dL will need."""
    terms = [term for term in settings.terms if term in PAIRS]
    names = needed_grams(settings)
    result = AdjacencyGradient(
        {name: torch.zeros_like(features) for name, features in matrices.features.items()},
        {
            term: torch.empty_like(matrices.logits, dtype=torch.int8)
            for term in terms
            if term != "tne"
        },
        sums.new_zeros(()),
    )
    for rows, own in matrices.blocks(10):
        grams = {name: matrices.gram(name, own) for name in names}
        grad_grams: dict[str, Tensor] = {}
        for term in terms:
            grad = _term_backward(grads[term], term, grams, matrices, sums, rows, own, result.signs)
            for name, part in grad.items():
                if name == "sources" or not settings.detach_adjacency:
                    grad_grams[name] = grad_grams[name].add_(part) if name in grad_grams else part
        for name, grad_gram in grad_grams.items():
            if name in wanted:
                features, into = matrices.features[name], result.features[name]
                into.addmm_(grad_gram.T, features[own])
                into[own] += grad_gram @ features
            if need_temperature:
                result.temperature.add_((grad_gram.mul_(grams[name])).sum())
    for grad_features in result.features.values():
        grad_features.div_(matrices.tau)
    return result


def _term_backward(
    grad: Tensor,
    term: str,
    grams: dict[str, Tensor],
    matrices: Matrices,
    sums: Tensor,
    rows: slice,
    own: slice,
    signs: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the gradients of the Gram matrices of one term in a block of rows.

    The match of an audio anchor has its rows in the columns of the logits. Its term is then
    handled transposed as a whole, which costs nothing since the Gram matrices are symmetric.
    """
    by_column = _by_column(term, matrices.anchor)
    left_name, right_name = PAIRS[term]
    right_scores = matrices.logits[rows] if right_name == "match" else grams[right_name]
    ignored = matrices.ignored(rows)
    left = matrices.softmax(left_name, grams[left_name], own, ignored, by_column=by_column)
    right = matrices.softmax(right_name, right_scores, own, ignored, by_column=by_column)
    sign = _gap(left, right, term, matrices, own).sign_()
    if right_name == "match":
        signs[term][rows] = sign.to(torch.int8)
    grad = along(grad, own, by_column)
    result = {}
    if right_name != "match":
        centred = _centred(sign, sums[SIDES.index((term, "right"))], own, by_column)
        result[right_name] = right.mul_(centred).mul_(-grad)
    centred = _centred(sign, sums[SIDES.index((term, "left"))], own, by_column)
    result[left_name] = left.mul_(centred).mul_(grad)
    return result


def logits_backward(
    grads: dict[str, Tensor],
    matrices: Matrices,
    sums: Tensor,
    signs: dict[str, Tensor],
    rows: slice,
) -> Tensor:
    """Return the gradient of all terms with respect to a block of rows of the logits.  [r, b]."""
    first = matrices.own.start
    own = slice(first + rows.start, first + rows.stop)
    logits = matrices.logits[rows]
    left_out = matrices.left_out(rows, own)
    result = torch.zeros_like(logits)
    for direction in ("visual_to_audio", "audio_to_visual"):
        by_column = direction == "audio_to_visual"
        anchored = signs if by_column == (matrices.anchor == "audio") else {}
        if anchored:
            ignored = matrices.ignored(rows)
            softmax = matrices.softmax("match", logits, own, ignored, by_column=by_column)
        for term, sign in anchored.items():
            side = sums[SIDES.index((term, "right"))]
            centred = _centred(sign[rows].to(result.dtype), side, own, by_column)
            grad = along(grads[term], own, by_column)
            result.addcmul_(centred.mul_(softmax), grad, value=-1)
        if direction in grads:
            if not anchored or left_out is not None:
                softmax = matrices.softmax(direction, logits, own, left_out, by_column=by_column)
            softmax.diagonal(own.start).copy_(-matrices.complement(direction, own))
            result.addcmul_(softmax, along(grads[direction], own, by_column))
    return result


def _by_column(term: str, anchor: str) -> bool:
    """Whether a term compares columns of the logits, and so has its rows in columns."""
    return term != "tne" and anchor == "audio"


def _gap(left: Tensor, right: Tensor, term: str, matrices: Matrices, own: slice) -> Tensor:
    """Return Q - T for a block of rows.  [r, b]."""
    left_name, right_name = PAIRS[term]
    gap = left - right
    gap.diagonal(own.start).copy_(
        matrices.complement(right_name, own) - matrices.complement(left_name, own)
    )
    return gap


def _centred(sign: Tensor, above_below: Tensor, own: slice, by_column: bool) -> Tensor:
    """Return s - <s, Q> for a block of rows of signs s.  [r, b]."""
    above, below = (along(vector, own, by_column) for vector in above_below.unbind())
    return torch.lerp(-above, below, (1 + sign).mul_(0.5))


def along(vector: Tensor, own: slice, by_column: bool) -> Tensor:
    """Lay one number a row out so that it meets a block of rows, or of their transposes."""
    return vector[None, :] if by_column else vector[own, None]


def _add_along(vector: Tensor, matrix: Tensor, own: slice, by_column: bool) -> None:
    """Add the sums of a block of rows, or of their transposes, to one number a row."""
    if by_column:
        vector += matrix.sum(0)
    else:
        vector[own] += matrix.sum(1)
