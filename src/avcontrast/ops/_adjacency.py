"""The b x b matrices after the maximum, a block of rows at a time.

A term is the row-wise L1 distance of two softmax matrices, Q and T:

    fns_audio   Q from the audio vectors,   T the cross-modal match
    fns_visual  Q from the pooled vectors,  T the cross-modal match
    tne         Q from the audio vectors,   T from the source vectors

With s = sgn(Q - T), the gradient of a row of |Q - T| is Q (s - <s, Q>) for the logits of Q and
-T (s - <s, T>) for those of T. So the backward pass makes the matrices anew and needs, beside
them, how each row was scaled, and two inner products a row and term. A row is scaled by its
maximum and the sum of exponentials below it: one log-sum-exp would lose digits, logits being
large. Gram matrices are symmetric: with G = Y Y^T / tau the features get (dG + dG^T) Y / tau, to
which each block of rows of dG, or of its transpose, adds its part.
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
INNER = tuple((term, side) for term in PAIRS for side in ("left", "right"))


class Matrices(NamedTuple):
    """What the b x b matrices are made of; ``features`` holds only what some term needs."""

    logits: Tensor
    features: dict[str, Tensor]
    scales: Tensor
    tau: Tensor
    anchor: str

    def scale(self, name: str) -> Tensor:
        """Return the maximum and the sum of exponentials of each row of a softmax.  [2, b]."""
        if name == "match":
            name = "visual_to_audio" if self.anchor == "visual" else "audio_to_visual"
        return self.scales[SOFTMAXES.index(name)]

    def softmax(self, name: str, scores: Tensor, block: slice, *, by_column: bool) -> Tensor:
        """Return the softmax of a block of rows, whose own rows may lie in columns.  [r, b]."""
        highest, total = (_along(vector, block, by_column) for vector in self.scale(name).unbind())
        return (scores - highest).exp_().div_(total)

    def cross_entropy(self, direction: str) -> Tensor:
        """Return minus the log-probability of each positive.  [b]."""
        highest, total = self.scale(direction).unbind()
        return total.log() + (highest - self.logits.diagonal())

    def gram(self, name: str, rows: slice) -> Tensor:
        """Return rows of a Gram matrix over the temperature.  [r, b]."""
        features = self.features[name]
        return (features[rows] @ features.T).div_(self.tau)


def needed_grams(settings: Settings) -> tuple[str, ...]:
    """Return which Gram matrices the terms compare."""
    used = {name for term in settings.terms if term in PAIRS for name in PAIRS[term]}
    return tuple(name for name in GRAMS if name in used)


def measure(logits: Tensor, dim: int) -> Tensor:
    """Return the scale of a softmax over ``dim`` of a square matrix.  [2, b]."""
    size = logits.shape[0]
    scale = logits.new_empty(2, size)
    for block in blocks(size, 4 * size * logits.element_size()):
        part = logits[block] if dim == 1 else logits[:, block]
        highest = part.amax(dim, keepdim=True)
        scale[0, block] = highest.flatten()
        scale[1, block] = (part - highest).exp_().sum(dim)
    return scale


def forward(matrices: Matrices, settings: Settings) -> tuple[dict[str, Tensor], Tensor]:
    """Return the adjacency terms, [b] each, and the inner products of ``INNER``.

    Fills in the scales of the Gram matrices.
    """
    b = matrices.scales.shape[-1]
    terms = [term for term in settings.terms if term in PAIRS]
    values = {term: matrices.scales.new_empty(b) for term in terms}
    inner = matrices.scales.new_zeros(len(INNER), b)
    for rows in blocks(b, 8 * b * inner.element_size()):
        softmax = {}
        for name in needed_grams(settings):
            gram = matrices.gram(name, rows)
            highest, total = matrices.scale(name)[:, rows, None]
            torch.amax(gram, 1, keepdim=True, out=highest)
            torch.sum(gram.sub_(highest).exp_(), 1, keepdim=True, out=total)
            softmax[name] = gram.div_(total)
        if settings.suppresses:
            logits = matrices.logits
            scores = logits[rows] if settings.anchor == "visual" else logits[:, rows].T
            softmax["match"] = matrices.softmax("match", scores, rows, by_column=False)
        for term in terms:
            left, right = (softmax[name] for name in PAIRS[term])
            gap = left - right
            values[term][rows] = gap.abs().sum(1)
            sign = gap.sign_()
            inner[INNER.index((term, "left")), rows] = torch.linalg.vecdot(sign, left)
            inner[INNER.index((term, "right")), rows] = torch.linalg.vecdot(sign, right)
    return values, inner


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
    inner: Tensor,
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
        {term: inner.new_empty(b, b, dtype=torch.int8) for term in terms if term != "tne"},
        inner.new_zeros(()),
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
    inner: Tensor,
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
    sign = (left - right).sign_()
    if right_name == "match":
        signs[term][rows] = sign.to(torch.int8)
    grad = _along(grad, rows, by_column)
    left_inner, right_inner = (
        _along(inner[INNER.index((term, side))], rows, by_column) for side in ("left", "right")
    )
    result = {}
    if right_name != "match":
        result[right_name] = right.mul_(right_inner - sign).mul_(grad)
    result[left_name] = left.mul_(sign.sub_(left_inner)).mul_(grad)
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
    for direction in ("visual_to_audio", "audio_to_visual"):
        by_column = direction == "audio_to_visual"
        anchored = signs if by_column == (matrices.anchor == "audio") else {}
        if direction not in grads and not anchored:
            continue
        softmax = matrices.softmax(direction, logits, rows, by_column=by_column)
        for term, sign in anchored.items():
            right_inner = _along(inner[INNER.index((term, "right"))], rows, by_column)
            grad = _along(grads[term], rows, by_column)
            result.addcmul_((right_inner - sign[rows]).mul_(softmax), grad)
        if direction in grads:
            # P - I first: exact where P is almost 1, when what remains of the gradient is small.
            softmax.diagonal(rows.start).sub_(1)
            result.addcmul_(softmax, _along(grads[direction], rows, by_column))
    return result


def _along(vector: Tensor, rows: slice, by_column: bool) -> Tensor:
    """Lay one number a row out so that it meets a block of rows, or of their transposes."""
    return vector[None, :] if by_column else vector[rows, None]
