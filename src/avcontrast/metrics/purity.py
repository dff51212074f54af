"""How well neighbours within one modality agree with the labels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics import _numerics as numerics


def adjacency_purity(adjacency: Tensor, labels: Tensor, exclude_self: bool = False) -> Tensor:
    """Share of the weight of an adjacency that lies on samples of the same class.

    Each row is divided by its sum, the weights on the sample's own class are added up, and the rows
    are averaged. A row without any weight counts 0.

    Args:
        adjacency: weight of each pair of samples, floating point, finite, not negative, such as
            that of :func:`avcontrast.functional.adjacency`.
        labels: class of each sample, of an integer dtype.
        exclude_self: leave each sample's weight on itself out, which is large in every adjacency. A
            sample that is alone in its class then counts 0.

    Shape:
        ``adjacency`` (n, n), ``labels`` (n,); returns a scalar.

    Returns:
        The purity, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``adjacency`` is not a floating-point tensor or ``labels`` not an integer one.
        ValueError: shapes do not match, or ``adjacency`` has negative values or some that are not
            finite.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import adjacency_purity
        >>> adjacency = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
        >>> labels = torch.tensor([0, 0, 1])
        >>> print(f"{adjacency_purity(adjacency, labels):.4f}")
        0.8333
        >>> print(f"{adjacency_purity(adjacency, labels, exclude_self=True):.4f}")
        0.4167

    Source:
        Not part of any published evaluator. It asks what FNAC relies on: that the adjacencies find
        the samples of the same class.
    """
    checks.check_square("adjacency", adjacency)
    checks.check_labels(labels, "adjacency", adjacency)
    if (adjacency < 0).any():
        raise ValueError(f"adjacency must not be negative, got {adjacency.min().item():g}")
    weights = adjacency.detach().to(numerics.wide(adjacency.device))
    if exclude_self:
        own = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
        weights = weights.masked_fill(own, 0)
    classes = labels.to(weights.device)
    same = (weights * (classes[:, None] == classes)).sum(dim=1)
    total = weights.sum(dim=1)
    return (same / total.masked_fill(total == 0, 1)).mean()


def neighbour_purity(
    features: Tensor, labels: Tensor, k: Iterable[int] = (1, 5, 10)
) -> dict[int, Tensor]:
    """Share of the k nearest neighbours that are of the same class.

    Neighbours are the other samples of highest cosine similarity. Among several that tie for the
    last places, the average over all choices counts. A part of the rows is compared with the whole
    set at a time.

    Args:
        features: one vector a sample, floating point, finite.
        labels: class of each sample, of an integer dtype.
        k: the numbers of neighbours, each at least 1; one above n - 1 stands for all others.

    Shape:
        ``features`` (n, d), ``labels`` (n,); returns scalars.

    Returns:
        The purity for each k, in [0, 1], as 0-dimensional float64 tensors (float32 on a device
        without float64).

    Raises:
        TypeError: ``features`` is not a floating-point tensor, ``labels`` not an integer one, or
            ``k`` holds something else than integers.
        ValueError: shapes do not match, there are fewer than two samples, ``features`` has values
            that are not finite, or a k is below 1.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import neighbour_purity
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.8]])
        >>> labels = torch.tensor([0, 0, 1, 0])
        >>> for k, purity in neighbour_purity(features, labels, (1, 2)).items():
        ...     print(f"{k}: {purity:.4f}")
        1: 0.5000
        2: 0.6250

    Source:
        Not part of any published evaluator. SSL-Alignment and HardPos draw positives from such
        neighbours (k = 1000), FNAC shows some in a figure; this is how many of them are right.
    """
    checks.check_floating("features", features)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise ValueError(
            f"features must have shape (n, d) with n of at least 2, got {checks.shape(features)}"
        )
    checks.check_finite("features", features)
    checks.check_labels(labels, "features", features)
    lengths = checks.check_lengths(k)
    n = len(features)
    precise = numerics.wide(features.device)
    vectors = F.normalize(features.detach().to(torch.promote_types(features.dtype, torch.float32)))
    classes = labels.to(features.device)
    found = {length: torch.zeros((), dtype=precise, device=vectors.device) for length in lengths}
    at_once = numerics.rows_at_once(n, vectors.device)
    for rows in torch.split(torch.arange(n, device=vectors.device), at_once):
        own = rows[:, None] == torch.arange(n, device=vectors.device)
        scores = (vectors[rows] @ vectors.T).masked_fill(own, -torch.inf)
        same = classes[rows, None] == classes
        for length in found:
            found[length] += _same_among_nearest(scores, same, min(length, n - 1)).sum()
    return {length: total / n for length, total in found.items()}


def _same_among_nearest(scores: Tensor, same: Tensor, k: int) -> Tensor:
    """Share of the k highest scores of each row that are of the same class: (r, n) -> (r,)."""
    last = scores.topk(k, dim=1).values[:, -1:]
    nearer, tied = scores > last, scores == last
    chance = (same & tied).sum(dim=1).to(numerics.wide(scores.device)) / tied.sum(dim=1)
    return ((same & nearer).sum(dim=1) + (k - nearer.sum(dim=1)) * chance) / k
