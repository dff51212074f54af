"""From lists of nearest neighbours to the positives of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from avcontrast import _checks as checks


def neighbour_positives(
    samples: Tensor,
    visual_neighbours: Tensor | None = None,
    audio_neighbours: Tensor | None = None,
    *,
    combine: str = "and",
    everyone: Tensor | None = None,
) -> Tensor:
    """Which pairs of a batch are neighbours in the training set, and so positives beside the own.

    Neighbours are found once, before training, in the features of some trained encoders. A row
    holds the neighbours of a sample of the batch: of its image among all images, and of its audio
    among all audios. Whether a pair has to be near in one modality or in both, the paper of HardPos
    leaves open as far as is known.

    Args:
        samples: numbers of the samples of the batch in the training set.
        visual_neighbours: numbers of the k images that are nearest to each of them; None for none.
        audio_neighbours: numbers of the k audios that are nearest to each of them; None for none.
        combine: if there are both, ``"and"`` takes pairs that are in both, ``"or"`` those in one.
        everyone: numbers of the samples of all processes in the order of their ranks, if these
            share the batch; the columns of the result.

    Shape:
        - samples: (b,)
        - visual_neighbours, audio_neighbours: (b, k), each with its own k
        - output: (b, b) bool, or (b_local, b_global) with ``everyone``; sample m is a neighbour of
          sample n, which need not be so the other way round; a sample is one of its own

    Raises:
        ValueError: if there are no neighbours, or a shape or ``combine`` is not one of these.
        TypeError: if something is no tensor of integers.

    Example:
        >>> import torch
        >>> from avcontrast.functional import neighbour_positives
        >>> samples = torch.tensor([7, 3, 5])
        >>> nearest_images = torch.tensor([[3, 9], [5, 7], [8, 0]])
        >>> neighbour_positives(samples, nearest_images)
        tensor([[ True,  True, False],
                [ True,  True,  True],
                [False, False,  True]])
    """
    checks.check_choice("combine", combine, ("and", "or"))
    everyone = samples if everyone is None else everyone
    checks.check_integers("samples", samples, (None,))
    checks.check_integers("everyone", everyone, (None,))
    lists = {"visual_neighbours": visual_neighbours, "audio_neighbours": audio_neighbours}
    given = {name: found for name, found in lists.items() if found is not None}
    if not given:
        raise ValueError("visual_neighbours and audio_neighbours are both None")
    for name, found in given.items():
        checks.check_integers(name, found, (samples.shape[0], None))
    masks = [_contains(found, everyone) for found in given.values()]
    near = masks[0]
    if len(masks) == 2:
        near = masks[0] & masks[1] if combine == "and" else masks[0] | masks[1]
    return near | (samples[:, None] == everyone)


def _contains(lists: Tensor, numbers: Tensor) -> Tensor:
    """Return which numbers are in which row of the lists, by bisection.  [b, numbers]."""
    ordered = lists.sort(1).values
    wanted = numbers.to(ordered.dtype).expand(len(lists), -1).contiguous()
    place = torch.searchsorted(ordered, wanted).clamp_(max=lists.shape[1] - 1)
    return ordered.gather(1, place) == wanted
