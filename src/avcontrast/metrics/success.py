"""The figures of a data set that are made of the cIoU of each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics._numerics import share, wide

SUCCESS_LEVELS = tuple(0.05 * i for i in range(21))


def success_rate(ciou: Tensor, at: float = 0.5) -> Tensor:
    """Share of samples whose cIoU is at least ``at``.

    Args:
        ciou: one value for each sample, in [0, 1], at least one sample.
        at: the cIoU that counts as a success, in [0, 1].

    Shape:
        ``ciou`` (n,); returns a scalar.

    Returns:
        The share, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor.
        ValueError: ``ciou`` is empty, not one-dimensional, or has values outside [0, 1] or NaN;
            ``at`` is outside [0, 1].

    Example:
        >>> import torch
        >>> from avcontrast.metrics import success_rate
        >>> success_rate(torch.tensor([0.0, 0.3, 0.5, 0.62, 1.0])).item()
        0.6

    Source:
        ``finalize_AP50`` of the EZ-VSL and FNAC ``Evaluator``. Papers tabulate it as "CIoU",
        although the mean of the cIoU is another number (``ciou.mean()``). SLAVC's "LocAcc" is the
        same with a strict ``>``.
    """
    checks.check_ciou(ciou)
    checks.check_at(at)
    return share(ciou.detach() >= at)


def success_auc(ciou: Tensor) -> Tensor:
    """Area under the success rate as a function of the cIoU that counts as a success.

    The success rate is taken at 0, 0.05, ..., 1 and integrated with the trapezoidal rule. The first
    point is always 1, so that even a method that never overlaps scores 0.025.

    Args:
        ciou: one value for each sample, in [0, 1], at least one sample.

    Shape:
        ``ciou`` (n,); returns a scalar.

    Returns:
        The area, in [0, 1], as a 0-dimensional float64 tensor (float32 on a device without
        float64).

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor.
        ValueError: ``ciou`` is empty, not one-dimensional, or has values outside [0, 1] or NaN.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import success_auc
        >>> ciou = torch.tensor([0.0, 0.3, 0.5, 0.62, 1.0], dtype=torch.float64)
        >>> round(success_auc(ciou).item(), 6)
        0.49

    Source:
        ``finalize_AUC`` of the EZ-VSL and FNAC ``Evaluator``. The thresholds are the products
        ``0.05 * i``, as there. In float64 seven of them (0.15, 0.3, 0.35, 0.6, 0.7, 0.85, 0.95)
        come out just above the decimal number, so a cIoU of exactly 0.3 in float64 does not reach
        0.3, while the same in float32 does.
    """
    checks.check_ciou(ciou)
    levels = ciou.new_tensor(SUCCESS_LEVELS)
    shares = (ciou.detach() >= levels[:, None]).to(wide(ciou.device)).mean(dim=1)
    return torch.trapezoid(shares, dx=0.05)


def group_ciou(ciou: Tensor, groups: Tensor | Sequence[str]) -> Tensor:
    """Lowest cIoU of each group, for images with several sounds.

    :func:`success_rate` of it is the IIoU, the share of images in which every sound was found, and
    :func:`success_auc` of it the IAUC.

    Args:
        ciou: one value for each sample, in [0, 1], at least one sample.
        groups: group of each sample, as an integer tensor or a sequence of names.

    Shape:
        ``ciou`` (n,), ``groups`` of length n; returns (m,) for m groups.

    Returns:
        The lowest value of each group in the dtype of ``ciou``, in ascending order of the groups'
        numbers or names.

    Raises:
        TypeError: ``ciou`` is not a floating-point tensor, or ``groups`` is neither an integer
            tensor nor a sequence of names.
        ValueError: ``ciou`` is empty, not one-dimensional, or has values outside [0, 1] or NaN, or
            there is not one group for each value.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import group_ciou, success_auc, success_rate
        >>> ciou = torch.tensor([0.6, 0.4, 0.7, 0.8], dtype=torch.float64)
        >>> names = ["a_dog", "a_car", "b_dog", "b_flute"]
        >>> worst = group_ciou(ciou, [name.rsplit("_", 1)[0] for name in names])
        >>> print(f"{success_rate(worst):.2f} {success_auc(worst):.2f}")
        0.50 0.55

    Source:
        ``Evaluator_iiou`` of the SSL-Alignment code, which groups by the name without its last
        part. Its groups are pairs of sounds on the IS3 test set and single clips elsewhere, where
        the figure adds nothing.
    """
    checks.check_ciou(ciou)
    numbers = checks.group_numbers(groups)
    if len(numbers) != len(ciou):
        raise ValueError(
            f"groups must have one entry for each cIoU, got {len(numbers)} and {len(ciou)}"
        )
    found, group = torch.unique(numbers.to(ciou.device), return_inverse=True)
    worst = ciou.new_ones(len(found))
    return worst.scatter_reduce_(0, group, ciou.detach(), "amin")
