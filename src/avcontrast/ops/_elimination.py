"""Which pairs match so well that they are likely false negatives; for the gradient a constant.

A pair (n, m) is left out when its score lies above the limits of its image n and of its audio m, or
above one of the two. The limit of a sample lies between the mean of its scores and the score of its
own pair, and is infinite where the own pair does not stand out from the mean: what the model does
not know yet it cannot tell from others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast.distributed import Peers, all_gather, all_reduce
from avcontrast.ops._settings import Settings


def limits(
    positives: Tensor, row_means: Tensor, column_sums: Tensor, settings: Settings, peers: Peers
) -> Tensor:
    """Return the limits of the images and of the audios, minus infinity on a side not asked for.

    Args:
        positives: scores of the own pairs.  [n].
        row_means: means of the scores of each own image with all audios.  [n].
        column_sums: sums of the scores of each audio with the own images.  [b].
        settings: says on which sides, and how high.
        peers: the processes that share the batch.

    Returns:
        [2, b]; of the images only the own ones are filled in.
    """
    result = column_sums.new_full((2, column_sums.shape[0]), -torch.inf)
    level = settings.elimination_level
    if settings.elimination != "audio":
        result[0, peers.own(positives.shape[0])] = _limit(positives, row_means, level)
    if settings.elimination != "visual":
        means = all_reduce(column_sums, peers) / column_sums.shape[0]
        result[1] = _limit(all_gather(positives, peers), means, level)
    return result


def limits_of(scores: Tensor, settings: Settings, peers: Peers) -> Tensor:
    """Return the limits where all scores of the own images are at hand, [n, b].  [2, b]."""
    positives = scores.diagonal(peers.own(scores.shape[0]).start)
    return limits(positives, scores.mean(1), scores.sum(0), settings, peers)


def above_limits(scores: Tensor, settings: Settings, peers: Peers) -> Tensor:
    """Return which pairs of the own images, whose scores are at hand, are left out.  [n, b]."""
    return above(scores, limits_of(scores, settings, peers), peers.own(scores.shape[0]))


def above(scores: Tensor, limits: Tensor, own: slice) -> Tensor:
    """Return which pairs of a block of rows lie above both limits; a positive never does.  [r, b].

    Args:
        scores: of some images with all audios.  [r, b].
        limits: see :func:`limits`.
        own: where these images lie in the global batch.
    """
    of_images, of_audios = limits.unbind()
    result = (scores > of_images[own, None]) & (scores > of_audios)
    result.diagonal(own.start).fill_(False)
    return result


def _limit(positives: Tensor, means: Tensor, level: float) -> Tensor:
    return torch.where(positives > means, torch.lerp(means, positives, level), torch.inf)
