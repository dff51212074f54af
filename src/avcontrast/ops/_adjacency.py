"""The b x b matrices after the maximum, a block of rows at a time.

A term is the row-wise L1 distance of two softmax matrices, Q and T:

    fns_audio   Q from the audio vectors,   T the cross-modal match
    fns_visual  Q from the pooled vectors,  T the cross-modal match
    tne         Q from the audio vectors,   T from the source vectors

With s = sgn(Q - T), the gradient of a row of |Q - T| is Q (s - <s, Q>) for the logits of Q and
-T (s - <s, T>) for those of T. So the backward pass makes the matrices anew and needs, beside
them, one log-sum-exp a row and matrix, and two inner products a row and term. Gram matrices are
symmetric: with G = Y Y^T / tau the features get (dG + dG^T) Y / tau, to which each block of rows
of dG, or of its transpose, adds its part.
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
LSES = ("visual_to_audio", "audio_to_visual", *GRAMS)
INNER = tuple((term, side) for term in PAIRS for side in ("left", "right"))


class Matrices(NamedTuple):
    """What the b x b matrices are made of; ``features`` holds only what some term needs."""

    logits: Tensor
    features: dict[str, Tensor]
    lse: Tensor
    tau: Tensor
    anchor: str

    def lse_of(self, name: str) -> Tensor:
        """Return the log-sum-exp of each row of a softmax matrix.  [b]."""
        if name == "match":
            name = "visual_to_audio" if self.anchor == "visual" else "audio_to_visual"
        return self.lse[LSES.index(name)]

    def gram(self, name: str, rows: slice) -> Tensor:
        """Return rows of a Gram matrix over the temperature.  [r, b]."""
        features = self.features[name]
        return (features[rows] @ features.T).div_(self.tau)


def needed_grams(settings: Settings) -> tuple[str, ...]:
    """Return which Gram matrices the terms compare."""
    used = {name for term in settings.terms if term in PAIRS for name in PAIRS[term]}
    return tuple(name for name in GRAMS if name in used)


def log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """Return ``logits.logsumexp(dim)`` of a square matrix without a second one of its size."""
    size = logits.shape[0]
    parts = [
        logits.narrow(1 - dim, block.start, block.stop - block.start).logsumexp(dim)
        for block in blocks(size, 4 * size * logits.element_size())
    ]
    return torch.cat(parts)


def forward(matrices: Matrices, settings: Settings) -> tuple[dict[str, Tensor], Tensor]:
    """Return the adjacency terms, [b] each, and the inner products of ``INNER``.

    Fills in the log-sum-exps of the Gram matrices.
    """
    b = matrices.lse.shape[1]
    terms = [term for term in settings.terms if term in PAIRS]
    values = {term: matrices.lse.new_empty(b) for term in terms}
    inner = matrices.lse.new_zeros(len(INNER), b)
    for rows in blocks(b, 8 * b * inner.element_size()):
        softmax = {}
        for name in needed_grams(settings):
            gram = matrices.gram(name, rows)
            lse = torch.logsumexp(gram, 1)
            matrices.lse_of(name)[rows] = lse
            softmax[name] = gram.sub_(lse[:, None]).exp_()
        if settings.suppresses:
            logits = matrices.logits
            scores = logits[rows] if settings.anchor == "visual" else logits[:, rows].T
            softmax["match"] = (scores - matrices.lse_of("match")[rows, None]).exp_()
        for term in terms:
            left, right = (softmax[name] for name in PAIRS[term])
            gap = left - right
            values[term][rows] = torch.linalg.vector_norm(gap, ord=1, dim=1)
            sign = gap.sign_()
            inner[INNER.index((term, "left")), rows] = torch.linalg.vecdot(sign, left)
            inner[INNER.index((term, "right")), rows] = torch.linalg.vecdot(sign, right)
    return values, inner


class AdjacencyGradient(NamedTuple):
    """What the adjacency terms hand back.

    Args:
        features: gradients of the vectors, by name; zero where not wanted.  [b, d].
        signs: the sign s of each suppression term, laid out like the logits.  [b, b] int8.
        temperature: the sum of dG * G over all Gram matrices.
    """

    features: dict[str, Tensor]
    signs: dict[str, Tensor]
    temperature: Tensor


def backward(
    grads: dict[str, Tensor],
    matrices: Matrices,
    inner: Tensor,
    settings: Settings,
    wanted: tuple[str, ...],
) -> AdjacencyGradient:
    """Return the gradients of the features named in ``wanted``, and the signs that dL will need."""
    b = matrices.lse.shape[1]
    terms = [term for term in settings.terms if term in PAIRS]
    names = needed_grams(settings)
    result = AdjacencyGradient(
        {name: torch.zeros_like(features) for name, features in matrices.features.items()},
        {term: inner.new_empty(b, b, dtype=torch.int8) for term in terms if term != "tne"},
        inner.new_zeros((), dtype=torch.float64),
    )
    for rows in blocks(b, 10 * b * inner.element_size()):
        grams = {name: matrices.gram(name, rows) for name in names}
        grad_grams: dict[str, Tensor] = {}
        for term in terms:
            grad = _term_backward(grads[term], term, grams, matrices, inner, rows, result.signs)
            for name, part in grad.items():
                if name == "sources" or not settings.detach_adjacency:
                    grad_grams[name] = grad_grams[name].add_(part) if name in grad_grams else part
        for name, grad_gram in grad_grams.items():
            if name in wanted:
                features, into = matrices.features[name], result.features[name]
                into.addmm_(grad_gram.T, features[rows])
                into[rows] += grad_gram @ features
            result.temperature.add_((grad_gram.mul_(grams[name])).sum())
    for grad_features in result.features.values():
        grad_features.div_(matrices.tau)
    return result


def _term_backward(
    grad: Tensor,
    term: str,
    grams: dict[str, Tensor],
    matrices: Matrices,
    inner: Tensor,
    rows: slice,
    signs: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return the gradients of the Gram matrices of one term in a block of rows.

    The match of an audio anchor has its rows in the columns of the logits. Its term is then
    handled transposed as a whole, which costs nothing since the Gram matrices are symmetric.
    """
    by_column = term != "tne" and matrices.anchor == "audio"

    def along(vector: Tensor) -> Tensor:
        return vector[None, :] if by_column else vector[rows, None]

    left_name, right_name = PAIRS[term]
    left = (grams[left_name] - along(matrices.lse_of(left_name))).exp_()
    right_scores = matrices.logits[rows] if right_name == "match" else grams[right_name]
    right = (right_scores - along(matrices.lse_of(right_name))).exp_()
    sign = (left - right).sign_()
    if right_name == "match":
        signs[term][rows] = sign.to(torch.int8)
    left_inner, right_inner = (
        along(inner[INNER.index((term, side))]) for side in ("left", "right")
    )
    result = {}
    if right_name != "match":
        result[right_name] = right.mul_(right_inner - sign).mul_(along(grad))
    result[left_name] = left.mul_(sign.sub_(left_inner)).mul_(along(grad))
    return result


def logits_backward(
    grads: dict[str, Tensor],
    matrices: Matrices,
    inner: Tensor,
    signs: dict[str, Tensor],
    rows: slice,
) -> Tensor:
    """Return the gradient of all terms with respect to a block of rows of the logits.  [r, b]."""
    logits = matrices.logits[rows]
    result = torch.zeros_like(logits)
    own = result.diagonal(rows.start)
    for direction in ("visual_to_audio", "audio_to_visual"):
        by_column = direction == "audio_to_visual"
        suppress = signs if by_column == (matrices.anchor == "audio") else {}
        if direction not in grads and not suppress:
            continue

        def along(vector: Tensor, by_column: bool = by_column) -> Tensor:
            return vector[None, :] if by_column else vector[rows, None]

        coefficient = torch.zeros_like(logits)
        if direction in grads:
            coefficient += along(grads[direction])
            own -= grads[direction][rows]
        for term, sign in signs.items() if suppress else ():
            right_inner = along(inner[INNER.index((term, "right"))])
            coefficient.addcmul_(right_inner - sign[rows], along(grads[term]))
        softmax = (logits - along(matrices.lse_of(direction))).exp_()
        result.addcmul_(softmax, coefficient)
    return result
