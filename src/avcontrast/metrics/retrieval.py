"""Retrieval across modalities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics._numerics import share


def recall_at_k(
    similarity: Tensor,
    labels: Tensor | None = None,
    k: Iterable[int] = (1, 5, 10),
    exclude_self: bool = False,
) -> dict[int, Tensor]:
    """Share of queries with a correct item among the k most similar ones.

    Row i of ``similarity`` ranks the gallery (the columns) for query i; pass the transpose for the
    other direction. Without ``labels`` the one correct item is the query's own pair, column i. With
    ``labels`` it is any item of the query's class. Among equal similarities the lower column ranks
    first, so that a collapsed model, whose similarities are all equal, scores k / n by instance and
    not 1.

    Args:
        similarity: similarity of each query with each gallery item, floating point, finite, at
            least one query.
        labels: class of each pair, of an integer dtype.
        k: the lengths of the list, each at least 1; one longer than the gallery stands for the
            whole gallery.
        exclude_self: leave each query's own pair out of its ranking. Needs ``labels``. A query that
            is alone in its class then has nothing to find and counts as a miss.

    Shape:
        ``similarity`` (n, n), ``labels`` (n,); returns scalars.

    Returns:
        The recall for each k, in [0, 1], as 0-dimensional float64 tensors (float32 on a device
        without float64).

    Raises:
        TypeError: ``similarity`` is not a floating-point tensor, ``labels`` not an integer one, or
            ``k`` holds something else than integers.
        ValueError: shapes do not match, ``similarity`` has values that are not finite, a k is below
            1, or ``exclude_self`` comes without ``labels``.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import recall_at_k
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> round(recall_at_k(similarity, k=(1, 2))[1].item(), 4)
        0.6667
        >>> labels = torch.tensor([0, 0, 1])
        >>> round(recall_at_k(similarity, labels, k=(1, 2))[1].item(), 4)
        1.0

    Source:
        The cross-modal retrieval of SSL-Alignment, by class and with the own pair in the gallery,
        as its paper describes it; the script is not released. The own pair makes the task easier:
        ``exclude_self=True`` asks for other members of the class.
    """
    lengths = checks.check_retrieval(similarity, labels, k, exclude_self)
    scores = similarity.detach()
    n = len(scores)
    own = torch.eye(n, dtype=torch.bool, device=scores.device)
    correct = own
    if labels is not None:
        classes = labels.to(scores.device)
        correct = classes[:, None] == classes
    if exclude_self:
        correct = correct & ~own
        scores = scores.masked_fill(own, -math.inf)
    best, column = scores.masked_fill(~correct, -math.inf).max(dim=1, keepdim=True)
    earlier = torch.arange(n, device=scores.device) < column
    rank = ((scores > best) | ((scores == best) & earlier)).sum(dim=1)
    solvable = correct.any(dim=1)
    return {length: share(solvable & (rank < length)) for length in lengths}
