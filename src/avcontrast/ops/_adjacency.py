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
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.ops._rows import blocks
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
    """What the b x b matrices are made of; ``features`` holds only what some term needs."""

    logits: Tensor
    features: dict[str, Tensor]
    scales: Tensor
    tau: Tensor
    anchor: str

    def scale(self, name: str) -> Tensor:
        """Return how each row of a softmax was scaled, see :func:`exponentials`.  [3, b]."""
        if name == "match":
            name = "visual_to_audio" if self.anchor == "visual" else "audio_to_visual"
        return self.scales[SOFTMAXES.index(name)]

    def softmax(self, name: str, scores: Tensor, block: slice, *, by_column: bool) -> Tensor:
        """Return the softmax of a block of rows, whose own rows may lie in columns.  [r, b]."""
        highest, total = (
            _along(vector, block, by_column) for vector in self.scale(name)[:2].unbind()
        )
        return (scores - highest).exp_().div_(total)

    def complement(self, name: str, block: slice) -> Tensor:
        """Return 1 minus the diagonal of a softmax, exact where that is almost 1.  [r]."""
        _, total, others = self.scale(name)[:, block].unbind()
        return others / total

    def cross_entropy(self, direction: str) -> Tensor:
        """Return minus the log-probability of each positive.  [b]."""
        highest, _, others = self.scale(direction).unbind()
        below = self.logits.diagonal() - highest
        return (others + below.expm1()).log1p_().sub_(below)

    def gram(self, name: str, rows: slice) -> Tensor:
        """Return rows of a Gram matrix over the temperature.  [r, b]."""
        features = self.features[name]
        return (features[rows] @ features.T).div_(self.tau)


def needed_grams(settings: Settings) -> tuple[str, ...]:
    """Return which Gram matrices the terms compare."""
    used = {name for term in settings.terms if term in PAIRS for name in PAIRS[term]}
    return tuple(name for name in GRAMS if name in used)


def exponentials(scores: Tensor, offset: int, dim: int, scale: Tensor) -> Tensor:
    """Turn scores, in place, into their exponentials relative to the maximum over ``dim``.

    Writes into ``scale`` (3, r) that maximum, the sum of the exponentials, and the sum without the
    diagonal. Where the positive holds almost all of a row, that last one is what the loss and its
    gradient are made of, and would be lost in 1 - P.
    """
    highest, total, others = scale.unbind()
    torch.amax(scores, dim, out=highest)
    scores.sub_(highest.unsqueeze(dim)).exp_()
    diagonal = scores.diagonal(offset)
    own = diagonal.clone()
    diagonal.zero_()
    torch.sum(scores, dim, out=others)
    torch.add(others, own, out=total)
    diagonal.copy_(own)
    return scores


def measure(logits: Tensor, dim: int) -> Tensor:
    """Return the scale of a softmax over ``dim`` of a square matrix.  [3, b]."""
    size = logits.shape[0]
    scale = logits.new_empty(3, size)
    for block in blocks(size, 4 * size * logits.element_size()):
        if dim == 1:
            exponentials(logits[block].clone(), block.start, 1, scale[:, block])
        else:
            exponentials(logits[:, block].clone(), -block.start, 0, scale[:, block])
    return scale


def forward(matrices: Matrices, settings: Settings) -> tuple[dict[str, Tensor], Tensor]:
    """Return the adjacency terms, [b] each, and for ``SIDES`` the sums above and below.  [., 2, b].

    Fills in the scales of the Gram matrices.
    """
    b = matrices.scales.shape[-1]
    terms = [term for term in settings.terms if term in PAIRS]
    values = {term: matrices.scales.new_empty(b) for term in terms}
    sums = matrices.scales.new_zeros(len(SIDES), 2, b)
    for rows in blocks(b, 8 * b * sums.element_size()):
        softmax = {}
        for name in needed_grams(settings):
            scale = matrices.scale(name)[:, rows]
            gram = exponentials(matrices.gram(name, rows), rows.start, 1, scale)
            softmax[name] = gram.div_(scale[1, :, None])
        if settings.suppresses:
            logits = matrices.logits
            scores = logits[rows] if settings.anchor == "visual" else logits[:, rows].T
            softmax["match"] = matrices.softmax("match", scores, rows, by_column=False)
        for term in terms:
            left, right = (softmax[name] for name in PAIRS[term])
            gap = _gap(left, right, term, matrices, rows)
            values[term][rows] = gap.abs().sum(1)
            above = gap.sign_().add_(1)
            below = 2 - above
            for side, softmax_rows in (("left", left), ("right", right)):
                above_below = sums[SIDES.index((term, side)), :, rows]
                above_below[0] = torch.linalg.vecdot(above, softmax_rows)
                above_below[1] = torch.linalg.vecdot(below, softmax_rows)
    return values, sums


class AdjacencyGradient(NamedTuple):
    """What the adjacency terms hand back.

    Args:
        features: gradients of the vectors, by name; zero where not wanted.  [b, d].
        signs: the sign s of each suppression term, laid out like the logits.  [b, b] int8.
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
    b = matrices.scales.shape[-1]
    terms = [term for term in settings.terms if term in PAIRS]
    names = needed_grams(settings)
    result = AdjacencyGradient(
        {name: torch.zeros_like(features) for name, features in matrices.features.items()},
        {term: sums.new_empty(b, b, dtype=torch.int8) for term in terms if term != "tne"},
        sums.new_zeros(()),
    )
    for rows in blocks(b, 10 * b * sums.element_size()):
        grams = {name: matrices.gram(name, rows) for name in names}
        grad_grams: dict[str, Tensor] = {}
        for term in terms:
            grad = _term_backward(grads[term], term, grams, matrices, sums, rows, result.signs)
            for name, part in grad.items():
                if name == "sources" or not settings.detach_adjacency:
                    grad_grams[name] = grad_grams[name].add_(part) if name in grad_grams else part
        for name, grad_gram in grad_grams.items():
            if name in wanted:
                features, into = matrices.features[name], result.features[name]
                into.addmm_(grad_gram.T, features[rows])
                into[rows] += grad_gram @ features
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
    signs: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the gradients of the Gram matrices of one term in a block of rows.

    The match of an audio anchor has its rows in the columns of the logits. Its term is then
    handled transposed as a whole, which costs nothing since the Gram matrices are symmetric.
    """
    by_column = term != "tne" and matrices.anchor == "audio"
    left_name, right_name = PAIRS[term]
    right_scores = matrices.logits[rows] if right_name == "match" else grams[right_name]
    left = matrices.softmax(left_name, grams[left_name], rows, by_column=by_column)
    right = matrices.softmax(right_name, right_scores, rows, by_column=by_column)
    sign = _gap(left, right, term, matrices, rows).sign_()
    if right_name == "match":
        signs[term][rows] = sign.to(torch.int8)
    grad = _along(grad, rows, by_column)
    result = {}
    if right_name != "match":
        centred = _centred(sign, sums[SIDES.index((term, "right"))], rows, by_column)
        result[right_name] = right.mul_(centred).mul_(-grad)
    centred = _centred(sign, sums[SIDES.index((term, "left"))], rows, by_column)
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
    logits = matrices.logits[rows]
    result = torch.zeros_like(logits)
    for direction in ("visual_to_audio", "audio_to_visual"):
        by_column = direction == "audio_to_visual"
        anchored = signs if by_column == (matrices.anchor == "audio") else {}
        if direction not in grads and not anchored:
            continue
        softmax = matrices.softmax(direction, logits, rows, by_column=by_column)
        for term, sign in anchored.items():
            side = sums[SIDES.index((term, "right"))]
            centred = _centred(sign[rows].to(logits.dtype), side, rows, by_column)
            grad = _along(grads[term], rows, by_column)
            result.addcmul_(centred.mul_(softmax), grad, value=-1)
        if direction in grads:
            softmax.diagonal(rows.start).copy_(-matrices.complement(direction, rows))
            result.addcmul_(softmax, _along(grads[direction], rows, by_column))
    return result


def _gap(left: Tensor, right: Tensor, term: str, matrices: Matrices, rows: slice) -> Tensor:
    """Return Q - T for a block of rows.  [r, b]."""
    left_name, right_name = PAIRS[term]
    gap = left - right
    gap.diagonal(rows.start).copy_(
        matrices.complement(right_name, rows) - matrices.complement(left_name, rows)
    )
    return gap


def _centred(sign: Tensor, above_below: Tensor, rows: slice, by_column: bool) -> Tensor:
    """Return s - <s, Q> for a block of rows of signs s.  [r, b]."""
    above, below = (_along(vector, rows, by_column) for vector in above_below.unbind())
    return torch.lerp(-above, below, (1 + sign).mul_(0.5))


def _along(vector: Tensor, rows: slice, by_column: bool) -> Tensor:
    """Lay one number a row out so that it meets a block of rows, or of their transposes."""
    return vector[None, :] if by_column else vector[rows, None]
