"""Retrieval across modalities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics._numerics import rows_at_once, share, wide


def recall_at_k(
    similarity: Tensor,
    labels: Tensor | None = None,
    k: Iterable[int] = (1, 5, 10),
    exclude_self: bool = False,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
) -> dict[int, Tensor]:
    """Share of queries with a right answer among the k most similar items (R@k).

    Row i of ``similarity`` ranks the gallery (the columns) for query i; pass the transpose for the
    other direction. What is right is said in one of four ways:

    * by nothing: the query's own pair, column i, of a square ``similarity``;
    * by ``labels`` of the pairs of a square one: every item of the query's class;
    * by ``labels`` of the queries and ``gallery_labels`` of another gallery: the same;
    * by ``relevant``: every item that it marks, such as the five captions of an image.

    One right answer is enough; :func:`relevant_found_at_k` asks for all of them. Among equal
    similarities the lower column ranks first, so that a collapsed model, whose similarities are all
    equal, scores k / n by instance and not 1.

    Args:
        similarity: similarity of each query with each gallery item, floating point, finite, at
            least one query and one item.
        labels: class of each query, of an integer dtype.
        k: the lengths of the list, each at least 1; one longer than the gallery stands for the
            whole gallery.
        exclude_self: leave item i out of the ranking of query i: its own pair. Needs a square
            ``similarity``, and ``labels`` or ``relevant``. A query that is alone in its class then
            has nothing to find and counts as a miss, as does every query without a right answer.
        gallery_labels: class of each gallery item, of an integer dtype; without them those of the
            queries.
        relevant: whether each item is a right answer to each query, ``bool``; instead of labels.

    Shape:
        ``similarity`` (n, m), ``labels`` (n,), ``gallery_labels`` (m,), ``relevant`` (n, m);
        returns scalars.

    Returns:
        The recall for each k, in [0, 1], as 0-dimensional float64 tensors (float32 on a device
        without float64).

    Raises:
        TypeError: ``similarity`` is not a floating-point tensor, ``labels`` or ``gallery_labels``
            not an integer one, ``relevant`` not a boolean one, or ``k`` holds something else than
            integers.
        ValueError: shapes do not match, ``similarity`` has values that are not finite, a k is below
            1, what is right is said in two ways or, of a ``similarity`` that is not square, in
            none, or ``exclude_self`` comes without what it needs.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import recall_at_k
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> round(recall_at_k(similarity, k=(1, 2))[1].item(), 4)
        0.6667
        >>> labels = torch.tensor([0, 0, 1])
        >>> round(recall_at_k(similarity, labels, k=(1, 2))[1].item(), 4)
        1.0
        >>> captions = torch.tensor([[0.1, 0.7, 0.9, 0.2], [0.3, 0.6, 0.4, 0.5]])
        >>> relevant = torch.tensor([[True, True, False, False], [False, False, True, True]])
        >>> {k: recall.item() for k, recall in recall_at_k(captions, relevant=relevant).items()}
        {1: 0.0, 5: 1.0, 10: 1.0}

    Source:
        The cross-modal retrieval of SSL-Alignment, by class and with the own pair in the gallery,
        as its paper describes it; the script is not released. The own pair makes the task easier:
        ``exclude_self=True`` asks for other members of the class. Information retrieval calls this
        the hit rate, which torchmetrics has as ``RetrievalHitRate``.
    """
    checks.check_retrieval(similarity, labels, gallery_labels, relevant, exclude_self)
    lengths = checks.check_lengths(k)
    ranks = _ranks(similarity, labels, gallery_labels, relevant, exclude_self)
    return {length: share(ranks <= length) for length in lengths}


def relevant_found_at_k(
    similarity: Tensor,
    labels: Tensor | None = None,
    k: Iterable[int] = (1, 5, 10),
    exclude_self: bool = False,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
) -> dict[int, Tensor]:
    """Share of its right answers that a query finds among the k most similar items, on average.

    This is the recall of information retrieval. With r right answers no query can find more than
    k / r of them, so that it suits a k beyond r; :func:`r_precision` chooses it for each query.

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        k: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`. A query without a right answer counts as 0.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.

    Shape:
        As :func:`recall_at_k`; returns scalars.

    Returns:
        The mean share for each k, in [0, 1], as 0-dimensional float64 tensors (float32 on a device
        without float64).

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import relevant_found_at_k
        >>> captions = torch.tensor([[0.1, 0.7, 0.9, 0.2], [0.3, 0.6, 0.4, 0.5]])
        >>> relevant = torch.tensor([[True, True, False, False], [False, False, True, True]])
        >>> found = relevant_found_at_k(captions, relevant=relevant, k=(1, 2, 3, 4))
        >>> {k: share.item() for k, share in found.items()}
        {1: 0.0, 2: 0.5, 3: 0.75, 4: 1.0}

    Source:
        Recall at k of information retrieval; ``RetrievalRecall`` of torchmetrics, which finds no
        item of a similarity up to 0 and breaks ties in an order of its own.
    """
    checks.check_retrieval(similarity, labels, gallery_labels, relevant, exclude_self)
    lengths = checks.check_lengths(k)
    last = similarity.shape[1] - 1
    found: dict[int, list[Tensor]] = {length: [] for length in lengths}
    for scores, right in _blocks(similarity, labels, gallery_labels, relevant, exclude_self):
        hits, total = _found(scores, right)
        for length, shares in found.items():
            shares.append(hits[:, min(length - 1, last)] / total.clamp(min=1))
    return {length: torch.cat(shares).mean() for length, shares in found.items()}


def retrieval_ranks(
    similarity: Tensor,
    labels: Tensor | None = None,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """Rank of the first right answer to each query, counted from 1.

    Among equal similarities the lower column ranks first.

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`.

    Shape:
        As :func:`recall_at_k`; returns (n,).

    Returns:
        The ranks, as float64 (float32 on a device without float64), from 1 to the size of the
        gallery; infinity for a query without a right answer.

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import retrieval_ranks
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> retrieval_ranks(similarity).tolist()
        [1.0, 2.0, 1.0]
        >>> retrieval_ranks(similarity, torch.tensor([0, 0, 1]), exclude_self=True).tolist()
        [2.0, 1.0, inf]

    Source:
        What every figure of the retrieval literature is made of: :func:`recall_at_k` is the share
        of ranks up to k.
    """
    checks.check_retrieval(similarity, labels, gallery_labels, relevant, exclude_self)
    return _ranks(similarity, labels, gallery_labels, relevant, exclude_self)


def median_rank(
    similarity: Tensor,
    labels: Tensor | None = None,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """Median over the queries of the rank of the first right answer (MedR).

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`.

    Shape:
        As :func:`recall_at_k`; returns a scalar.

    Returns:
        The median of :func:`retrieval_ranks`, the mean of the two in the middle where their number
        is even, as a 0-dimensional float64 tensor (float32 on a device without float64); at least
        1, and infinite where at least half of the queries have no right answer.

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import median_rank
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> median_rank(similarity).item()
        1.0

    Source:
        "MedR" of the papers on retrieval between images, texts and sounds.
    """
    ranks = retrieval_ranks(
        similarity,
        labels,
        gallery_labels=gallery_labels,
        relevant=relevant,
        exclude_self=exclude_self,
    )
    middle = ranks.sort().values[[(len(ranks) - 1) // 2, len(ranks) // 2]]
    return middle.mean()


def mean_rank(
    similarity: Tensor,
    labels: Tensor | None = None,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """Mean over the queries of the rank of the first right answer (MeanR).

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`.

    Shape:
        As :func:`recall_at_k`; returns a scalar.

    Returns:
        The mean of :func:`retrieval_ranks`, as a 0-dimensional float64 tensor (float32 on a device
        without float64); at least 1, and infinite where a query has no right answer.

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import mean_rank
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> round(mean_rank(similarity).item(), 4)
        1.3333

    Source:
        "MeanR" or "MnR" of the papers on retrieval between images, texts and sounds.
    """
    ranks = retrieval_ranks(
        similarity,
        labels,
        gallery_labels=gallery_labels,
        relevant=relevant,
        exclude_self=exclude_self,
    )
    return ranks.mean()


def mean_reciprocal_rank(
    similarity: Tensor,
    labels: Tensor | None = None,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """Mean over the queries of one over the rank of the first right answer (MRR).

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`. A query without a right answer counts as 0.

    Shape:
        As :func:`recall_at_k`; returns a scalar.

    Returns:
        The mean, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import mean_reciprocal_rank
        >>> similarity = torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.1], [0.3, 0.4, 0.5]])
        >>> round(mean_reciprocal_rank(similarity).item(), 4)
        0.8333

    Source:
        Voorhees, "The TREC-8 question answering track report"; ``RetrievalMRR`` of torchmetrics,
        which finds no item of a similarity up to 0 and breaks ties in an order of its own.
    """
    ranks = retrieval_ranks(
        similarity,
        labels,
        gallery_labels=gallery_labels,
        relevant=relevant,
        exclude_self=exclude_self,
    )
    return ranks.reciprocal().mean()


def r_precision(
    similarity: Tensor,
    labels: Tensor | None = None,
    *,
    gallery_labels: Tensor | None = None,
    relevant: Tensor | None = None,
    exclude_self: bool = False,
) -> Tensor:
    """Share of right answers among the first r items of a query that has r of them, on average.

    It is 1 where every right answer ranks before every wrong one, however many there are.

    Args:
        similarity: as in :func:`recall_at_k`.
        labels: as in :func:`recall_at_k`.
        gallery_labels: as in :func:`recall_at_k`.
        relevant: as in :func:`recall_at_k`.
        exclude_self: as in :func:`recall_at_k`. A query without a right answer counts as 0.

    Shape:
        As :func:`recall_at_k`; returns a scalar.

    Returns:
        The mean over the queries, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device
        without float64).

    Raises:
        TypeError: as :func:`recall_at_k`.
        ValueError: as :func:`recall_at_k`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import r_precision
        >>> captions = torch.tensor([[0.1, 0.7, 0.9, 0.2], [0.3, 0.6, 0.4, 0.5]])
        >>> relevant = torch.tensor([[True, True, False, False], [False, False, True, True]])
        >>> r_precision(captions, relevant=relevant).item()
        0.5

    Source:
        R-precision of information retrieval; ``RetrievalRPrecision`` of torchmetrics, which breaks
        ties in an order of its own.
    """
    checks.check_retrieval(similarity, labels, gallery_labels, relevant, exclude_self)
    precision = []
    for scores, right in _blocks(similarity, labels, gallery_labels, relevant, exclude_self):
        hits, total = _found(scores, right)
        at_total = hits.gather(1, (total - 1).clamp(min=0)[:, None])[:, 0]
        # Without a right answer the first hit count is 0 too.
        precision.append(at_total / total.clamp(min=1))
    return torch.cat(precision).mean()


def _blocks(
    similarity: Tensor,
    labels: Tensor | None,
    gallery_labels: Tensor | None,
    relevant: Tensor | None,
    exclude_self: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the scores of some queries and which items are right: (r, m), (r, m)."""
    n, m = similarity.shape
    device = similarity.device
    items = torch.arange(m, device=device)
    for rows in torch.split(torch.arange(n, device=device), rows_at_once(m, device)):
        scores = similarity.detach()[rows]
        own = rows[:, None] == items
        if relevant is not None:
            right = relevant.to(device)[rows]
        elif labels is not None:
            classes = labels.to(device)
            gallery = classes if gallery_labels is None else gallery_labels.to(device)
            right = classes[rows, None] == gallery
        else:
            right = own
        if exclude_self:
            right = right & ~own
            scores = scores.masked_fill(own, -math.inf)
        yield scores, right


def _ranks(
    similarity: Tensor,
    labels: Tensor | None,
    gallery_labels: Tensor | None,
    relevant: Tensor | None,
    exclude_self: bool,
) -> Tensor:
    """Return the rank of the first right answer of each query, infinity without one: (n,)."""
    ranks = []
    for scores, right in _blocks(similarity, labels, gallery_labels, relevant, exclude_self):
        best, column = scores.masked_fill(~right, -math.inf).max(dim=1, keepdim=True)
        earlier = torch.arange(scores.shape[1], device=scores.device) < column
        before = ((scores > best) | ((scores == best) & earlier)).sum(dim=1)
        rank = (before + 1).to(wide(scores.device))
        ranks.append(rank.masked_fill(~right.any(dim=1), math.inf))
    return torch.cat(ranks)


def _found(scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many right answers are among the first so many, and in all: (r, m), (r,)."""
    # Stable, so that among equals the lower column comes first.
    order = scores.sort(dim=1, descending=True, stable=True).indices
    hits = right.gather(1, order).cumsum(dim=1)
    return hits.to(wide(scores.device)), hits[:, -1]
