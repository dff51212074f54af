"""How often false negatives occur, and what a model makes of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics._numerics import wide


class ExpectedFalseNegatives(NamedTuple):
    """What :func:`expected_false_negatives` returns: two scalars.

    Args:
        rate: share of the samples that meet at least one other of their class in the batch.
        per_sample: how many others of its class a sample meets on average.
    """

    rate: Tensor
    per_sample: Tensor


class EliminationQuality(NamedTuple):
    """What :func:`elimination_quality` returns: four scalars, each a share.

    Args:
        precision: of the pairs left out, those that are false negatives; NaN if none is left out.
        recall: of the false negatives, those left out; NaN if there are none.
        left_out: of all pairs but the own ones, those left out.
        false_negatives: of all pairs but the own ones, those that are; what a guess has as
            precision.
    """

    precision: Tensor
    recall: Tensor
    left_out: Tensor
    false_negatives: Tensor


def elimination_quality(left_out: Tensor, false_negatives: Tensor) -> EliminationQuality:
    """How many of the pairs that a loss leaves out are false negatives, and how many it misses.

    Args:
        left_out: pairs taken out of the contrast, such as
            :func:`avcontrast.functional.likely_false_negatives` returns. The diagonal, which holds
            the own pairs, does not count.
        false_negatives: labels, for which pairs of the same label are false negatives, or the pairs
            themselves.

    Shape:
        ``left_out`` (b, b) bool; ``false_negatives`` (b,) integer or (b, b) bool; b of at least 2.

    Returns:
        Four scalars in [0, 1], as float64 (float32 on a device without float64).

    Raises:
        TypeError: a dtype is another one.
        ValueError: a shape is another one.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import elimination_quality
        >>> left_out = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 0, 0]]).bool()
        >>> quality = elimination_quality(left_out, torch.tensor([5, 5, 7]))
        >>> print(f"{quality.precision:.2f} {quality.recall:.2f} {quality.false_negatives:.2f}")
        0.67 1.00 0.33

    Source:
        Not published under this name; precision and recall of a detector, whose positives are the
        false negatives of the contrast.
    """
    checks.check_pairs("left_out", left_out)
    if isinstance(false_negatives, Tensor) and false_negatives.dtype == torch.bool:
        checks.check_pairs("false_negatives", false_negatives)
        wrong = false_negatives
    else:
        checks.check_only_labels(false_negatives)
        wrong = false_negatives[:, None] == false_negatives
    if wrong.shape != left_out.shape:
        raise ValueError(
            "false_negatives must be of the pairs of left_out, "
            f"got {checks.shape(false_negatives)} and {checks.shape(left_out)}"
        )
    others = ~torch.eye(len(left_out), dtype=torch.bool, device=left_out.device)
    kind = wide(left_out.device)
    out, wrong = left_out[others].to(kind), wrong[others].to(kind)
    right = (out * wrong).sum()
    return EliminationQuality(right / out.sum(), right / wrong.sum(), out.mean(), wrong.mean())


def expected_false_negatives(labels: Tensor, batch_size: int) -> ExpectedFalseNegatives:
    r"""How many false negatives a batch holds, drawn at random from a labelled set.

    With N samples, :math:`n_c` in the class of a sample and batches of b without repetition,

    .. math::
        \text{rate} = \operatorname{mean} \left(
            1 - \binom{N - n_c}{b - 1} \Big/ \binom{N - 1}{b - 1} \right), \qquad
        \text{per sample} = \operatorname{mean} \frac{(b - 1)(n_c - 1)}{N - 1}

    where the means are over the samples.

    Args:
        labels: class of each sample, of an integer dtype.
        batch_size: size of the batches, at least 1 and at most N.

    Shape:
        ``labels`` (n,); returns scalars.

    Returns:
        ``rate``, in [0, 1], and ``per_sample``, in [0, b - 1], as 0-dimensional float64 tensors
        (float32 on a device without float64).

    Raises:
        TypeError: ``labels`` is not an integer tensor or ``batch_size`` not an integer.
        ValueError: ``labels`` is not one-dimensional or empty, or ``batch_size`` is below 1 or
            above N.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import expected_false_negatives
        >>> labels = torch.arange(309).repeat_interleave(32)
        >>> for size in (32, 128, 256):
        ...     rate, per_sample = expected_false_negatives(labels, size)
        ...     print(f"{size:3} {rate:.3f} {per_sample:.2f}")
         32 0.093 0.10
        128 0.331 0.40
        256 0.556 0.80

    Source:
        The FNAC paper gives a measured rate for batches of 128 from VGG-Sound, 39.27 %, and no
        formula. Real classes differ in size, which is why it is above that of the example: with
        the class sizes of all of VGG-Sound it is 38.6 %, and 61.3 % at the 256 that FNAC trains
        with.
    """
    checks.check_only_labels(labels)
    checks.check_count("batch_size", batch_size)
    if batch_size > len(labels):
        raise ValueError(
            f"batch_size must be at most the number of labels, got {batch_size} and {len(labels)}"
        )
    total = len(labels)
    # Classes of one size behave alike, so the work grows with the number of different sizes.
    class_sizes = torch.unique(labels, return_counts=True)[1]
    sizes, classes = torch.unique(class_sizes, return_counts=True)
    share = (sizes * classes).to(wide(labels.device)) / total
    others = (sizes - 1).to(share.dtype)
    left = total - 1 - torch.arange(batch_size - 1, dtype=share.dtype, device=labels.device)
    # Of `left` samples that the next draw can take, `others` are of the class. In logarithms,
    # since the product of many factors just below one loses digits.
    no_other = torch.log1p(-(others[:, None] / left).clamp(max=1)).sum(dim=1)
    rate = (share * -torch.expm1(no_other)).sum()
    per_sample = (share * others).sum() * ((batch_size - 1) / max(1, total - 1))
    return ExpectedFalseNegatives(rate, per_sample)


def class_batches(
    labels: Tensor,
    batch_size: int,
    kind: Literal["different", "same"],
    count: int = 1,
    seed: int = 0,
) -> Tensor:
    """Draw batches without any false negative, or with nothing else.

    ``"different"`` draws as many classes as the batch is long and a sample of each, ``"same"`` a
    class that is large enough and its samples, all at random and none twice in a batch.

    Args:
        labels: class of each sample, of an integer dtype.
        batch_size: size of the batches, at least 1.
        kind: ``"different"`` or ``"same"``.
        count: number of batches, at least 1.
        seed: of the draw; equal seeds give equal batches.

    Shape:
        ``labels`` (n,); returns (count, batch_size).

    Returns:
        Indices of the samples of each batch, as int64 on the device of ``labels``.

    Raises:
        TypeError: ``labels`` is not an integer tensor, or ``batch_size``, ``count`` or ``seed`` not
            an integer.
        ValueError: ``labels`` is not one-dimensional or empty, ``batch_size`` or ``count`` is below
            1, ``kind`` is not as described, or there are too few classes or no class is large
            enough.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import class_batches
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 2])
        >>> labels[class_batches(labels, 3, "different")].sort().values.tolist()
        [[0, 1, 2]]
        >>> labels[class_batches(labels, 3, "same")].tolist()
        [[0, 0, 0]]

    Source:
        The TN and FN batches of Table 6 in the FNAC paper, which does not say how they were drawn.
    """
    checks.check_only_labels(labels)
    checks.check_count("batch_size", batch_size)
    checks.check_count("count", count)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if kind not in ("different", "same"):
        raise ValueError(f"kind must be 'different' or 'same', got {kind!r}")
    sizes = torch.unique(labels, return_counts=True)[1].tolist()
    order = labels.cpu().argsort(stable=True)
    members = torch.split(order, sizes)
    generator = torch.Generator().manual_seed(seed)

    def draw(items: int, number: int) -> list[int]:
        drawn: list[int] = torch.randperm(items, generator=generator)[:number].tolist()
        return drawn

    if kind == "different":
        if len(members) < batch_size:
            raise ValueError(
                f"batch_size must be at most the number of classes, got {batch_size} and "
                f"{len(members)}"
            )
        batches = [
            torch.stack([members[c][draw(len(members[c]), 1)[0]] for c in classes])
            for classes in (draw(len(members), batch_size) for _ in range(count))
        ]
    else:
        large = [own for own in members if len(own) >= batch_size]
        if not large:
            raise ValueError(
                f"batch_size must be at most the size of the largest class, got {batch_size} and "
                f"{max(sizes)}"
            )
        batches = []
        for _ in range(count):
            own = large[draw(len(large), 1)[0]]
            batches.append(own[draw(len(own), batch_size)])
    return torch.stack(batches).to(labels.device)


def batch_similarity(
    similarity: Tensor,
    normalization: Literal["minmax", "cosine", "none"] = "minmax",
    exclude_self: bool = False,
) -> Tensor:
    """Mean cross-modal similarity of each batch.

    Compare batches of different classes, where it should be low, with batches of one class, where
    it should be high: :func:`class_batches` draws both.

    Args:
        similarity: similarities of all images with all sounds of a batch, floating point, finite;
            in [-1, 1] for ``"cosine"``.
        normalization: ``"minmax"`` scales each matrix so that its lowest value is 0 and its highest
            1, and a constant matrix to 0; ``"cosine"`` is (s + 1) / 2; ``"none"`` changes nothing.
        exclude_self: leave the pairs (the diagonal) out of the mean. The lowest and the highest
            value are those of the whole matrix all the same, so that the pairs stay the yardstick.

    Shape:
        ``similarity`` (n, b, b); returns (n,).

    Returns:
        The mean of each matrix, in [0, 1] unless ``normalization="none"``, as float64 (float32 on a
        device without float64).

    Raises:
        TypeError: ``similarity`` is not a floating-point tensor.
        ValueError: ``similarity`` is not as described, ``normalization`` is none of the above, or
            ``exclude_self`` leaves nothing of a batch of one.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import batch_similarity
        >>> different = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]])
        >>> for normalization in ("minmax", "cosine", "none"):
        ...     print(f"{batch_similarity(different, normalization).item():.2f}")
        0.50
        0.75
        0.50
        >>> print(f"{batch_similarity(different, exclude_self=True).item():.3f}")
        0.125

    Source:
        Table 6 and figure 7 of the FNAC paper. The paper says that the values are normalised to
        lie between 0 and 1 and not how, nor whether the pairs count, so that its numbers can be
        compared with those of neither reading for certain.
    """
    checks.check_floating("similarity", similarity)
    if similarity.ndim != 3 or similarity.shape[1] != similarity.shape[2] or not similarity.numel():
        raise ValueError(f"similarity must have shape (n, b, b), got {checks.shape(similarity)}")
    checks.check_finite("similarity", similarity)
    values = similarity.detach().to(wide(similarity.device)).flatten(1)
    if normalization == "minmax":
        low, high = values.aminmax(dim=1, keepdim=True)
        values = (values - low) / (high - low).masked_fill(high == low, 1)
    elif normalization == "cosine":
        checks.check_cosines("similarity", similarity)
        values = (values + 1) / 2
    elif normalization != "none":
        raise ValueError(
            f"normalization must be 'minmax', 'cosine' or 'none', got {normalization!r}"
        )
    size = similarity.shape[1]
    if not exclude_self:
        return values.mean(dim=1)
    if size == 1:
        raise ValueError("exclude_self=True needs batches of at least two pairs, got (n, 1, 1)")
    others = ~torch.eye(size, dtype=torch.bool, device=values.device).flatten()
    return values[:, others].mean(dim=1)
