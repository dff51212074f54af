"""Other remedies for false negatives, to hold the losses of the package against.

All work on the matches of a batch [b, b], images by sounds, and sum both directions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast.functional import max_similarity

SoftKind = Literal["bootstrap", "swapped", "neighbour", "cycle"]


def debiased(
    visual: Tensor, audio: Tensor, temperature: float = 0.5, class_prior: float = 0.1
) -> Tensor:
    """Return the debiased contrast (Chuang et al., 2020).

    What same-class pairs are expected to add to the negatives is taken off again:

        log(1 + g / e_nn),  g = max((sum_{m != n} e_nm - p (b - 1) e_nn) / (1 - p),
                                    (b - 1) exp(-1 / temperature))

    with e = exp(match / temperature). The second term is the least that the negatives of a cosine
    can be. Where it is the larger one, they get no gradient, which at temperatures much below the
    published 0.5 is the rule.

    Args:
        visual: Feature maps [b, d, h, w] or vectors [b, d], two pairs or more.
        audio: Vectors [b, d].
        temperature: Of the matches.
        class_prior: p, the share of pairs that are of one class; with 0 it is InfoNCE.
    """
    match = max_similarity(visual, audio)
    return debiased_rows(match, temperature, class_prior) + debiased_rows(
        match.T, temperature, class_prior
    )


def debiased_rows(match: Tensor, temperature: float, class_prior: float) -> Tensor:
    """Return one direction of it: the mean over rows, whose own match is on the diagonal."""
    left, least = negatives_left(match, temperature, class_prior)
    return F.softplus(left.clamp(min=least) - match.diagonal() / temperature).mean()


def negatives_left(match: Tensor, temperature: float, class_prior: float) -> tuple[Tensor, float]:
    """Return the logarithm of what is left of each row's negatives, and that of the least."""
    count = len(match) - 1
    scores = match / temperature
    own = scores.diagonal()
    itself = torch.eye(len(match), dtype=torch.bool, device=match.device)
    others = scores.masked_fill(itself, -torch.inf).logsumexp(dim=1)
    # What is taken off, as a share of the sum; both are logarithms. From 1 on nothing is left, and
    # just below it the gradient of what is left has no bound.
    prior = math.log(class_prior) if class_prior else -math.inf
    share = prior + math.log(count) + own - others
    nothing = share > -torch.finfo(share.dtype).eps
    left = torch.log(-torch.expm1(share.masked_fill(nothing, -1.0)))
    left = (others + left - math.log1p(-class_prior)).masked_fill(nothing, -torch.inf)
    return left, math.log(count) - 1 / temperature


def soft_targets(
    visual: Tensor,
    audio: Tensor,
    temperature: float = 0.07,
    share: float = 0.5,
    kind: SoftKind = "swapped",
    target_temperature: float = 0.1,
    cycle_temperature: float = 0.1,
) -> Tensor:
    """Return the contrast with soft targets of Robust-xID (Morgado et al., 2021), within the batch.

    The target of an anchor is `1 - share` on its own partner and `share` spread over the batch; it
    is a constant. The published form compares with a bank of features instead of the batch.

    Args:
        visual: Feature maps [b, d, h, w] or vectors [b, d]; images are compared with each other by
            the mean over positions.
        audio: Vectors [b, d].
        temperature: Of the matches.
        share: How much of the target is spread; with 0 it is InfoNCE.
        kind: How it is spread, see `spread`.
        target_temperature: Of what it is spread by.
        cycle_temperature: Of the own matches that `cycle` looks at.
    """
    # No code was published. Low trust: `share` and the temperatures of the targets, and that a
    # target lies on the own partner too.
    match = max_similarity(visual, audio)
    with torch.no_grad():
        itself = torch.eye(len(match), dtype=match.dtype, device=match.device)
        images = F.normalize(visual, dim=1).reshape(*visual.shape[:2], -1).mean(dim=2)
        likenesses = [unit @ unit.T for unit in (F.normalize(x, dim=1) for x in (images, audio))]
        targets = [
            (1 - share) * itself
            + share * spread(kind, there, there.T, within, target_temperature, cycle_temperature)
            for there, within in zip((match, match.T), likenesses, strict=True)
        ]
    return F.cross_entropy(match / temperature, targets[0]) + F.cross_entropy(
        match.T / temperature, targets[1]
    )


def spread(
    kind: SoftKind,
    there: Tensor,
    back: Tensor,
    within: Tensor,
    target_temperature: float,
    cycle_temperature: float,
) -> Tensor:
    """Return how targets are spread over a batch, rows that sum to 1 [b, b].

    Args:
        kind: `bootstrap`, as the anchors match; `swapped`, as their partners do; `neighbour`, by
            likeness within the modality of the anchors; `cycle`, likewise, but little on samples
            whose own match is low, since their partners may be wrong.
        there: Matches of the anchors (rows) with the other modality.
        back: Matches of their partners (rows) with the modality of the anchors.
        within: Likenesses of the anchors with each other.
        target_temperature: Of all these.
        cycle_temperature: Of the own matches.
    """
    by = {"bootstrap": there, "swapped": back, "neighbour": within, "cycle": within}[kind]
    scores = by / target_temperature
    if kind == "cycle":
        scores = scores + there.diagonal() / cycle_temperature
    return scores.softmax(dim=1)
