"""Every check of a metric's argument, and the message that goes with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real

import torch
from torch import Tensor


def weights(name: str, gt_maps: Tensor) -> Tensor:
    """Return the ground truth in a floating dtype, or raise unless it lies in [0, 1]."""
    weights = gt_maps.to(torch.promote_types(gt_maps.dtype, torch.float32))
    if weights.numel():
        low, high = weights.aminmax()
        # Written so that NaN fails too.
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name} must hold weights in [0, 1], "
                f"got values from {low.item():g} to {high.item():g}"
            )
    return weights


def corners(boxes: object, *, clip: bool) -> Tensor:
    """Return boxes as (k, 4) within [0, 1], in float64 on the CPU, or raise.

    Args:
        boxes: (xmin, ymin, xmax, ymax) of each, of any kind.
        clip: Whether boxes may reach over the edges, where they are cut off, and have no area.
    """
    if not isinstance(clip, bool):
        raise TypeError(f"clip must be a bool, got {_kind(clip)}")
    try:
        if isinstance(boxes, Tensor):
            corners = boxes.detach().cpu().double()
        else:
            corners = torch.tensor(boxes, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"boxes must be numbers of shape (k, 4), got {boxes!r}") from error
    if corners.numel() == 0:
        return corners.new_empty(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        hint = "; ground_truth_maps takes those of several images" if corners.ndim == 3 else ""
        raise ValueError(f"boxes must have shape (k, 4), got {shape(corners)}{hint}")
    if corners.isnan().any():
        raise ValueError(f"boxes must not have NaN, got {corners.tolist()}")
    low, high = corners[:, :2], corners[:, 2:]
    pixels = corners[(high >= 2).all(1)]
    if len(pixels):
        raise ValueError(
            "boxes must be shares of the image in [0, 1], "
            f"got {pixels[0].tolist()} (pixels? divide by width and height)"
        )
    if clip:
        return corners.clamp(0, 1)
    given = boxes.dtype if isinstance(boxes, Tensor) and boxes.is_floating_point() else None
    slack = max(1e-6, torch.finfo(given or torch.float64).eps)
    outside = corners[((corners < -slack) | (corners > 1 + slack)).any(1)]
    if len(outside):
        raise ValueError(
            f"boxes must be shares of the image in [0, 1], got {outside[0].tolist()} (pixels? "
            "divide by width and height; clip=True cuts off what reaches over the edges)"
        )
    empty = corners[(high <= low).any(1)]
    if len(empty):
        raise ValueError(
            f"boxes must have xmin < xmax and ymin < ymax, got {empty[0].tolist()} (x, y, width, "
            "height? add x and y to these; clip=True takes boxes without an area)"
        )
    return corners.clamp(0, 1)


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width, or raise."""
    pair = (size, size) if isinstance(size, int) else tuple(size) if _is_sequence(size) else ()
    if len(pair) != 2 or not all(type(side) is int and side >= 1 for side in pair):
        raise ValueError(f"size must be a positive integer or a pair of them, got {size!r}")
    return pair


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def shape(tensor: Tensor) -> str:
    """Return a shape as it stands in a message."""
    return str(tuple(tensor.shape))


def _kind(value: object) -> str:
    return f"dtype {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def check_floating(name: str, value: object) -> None:
    """Raise unless ``value`` is a floating-point tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {_kind(value)}")


def check_map_shape(name: str, maps: Tensor) -> None:
    """Raise unless ``maps`` is (n, height, width), with at least one pixel."""
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        hints = {2: "unflatten(1, (height, width))", 4: "flatten(0, 1)"}  # tokens, and videos
        hint = f"; {name}.{hints[maps.ndim]} makes it so" if maps.ndim in hints else ""
        raise ValueError(f"{name} must have shape (n, height, width), got {shape(maps)}{hint}")


def check_maps(name: str, maps: Tensor) -> None:
    """Raise unless ``maps`` is a floating-point batch of maps."""
    check_floating(name, maps)
    check_map_shape(name, maps)


def check_gt_maps(gt_maps: Tensor, name: str = "gt_maps") -> None:
    """Raise unless ``gt_maps`` is a real or boolean batch of maps."""
    if not isinstance(gt_maps, Tensor) or gt_maps.is_complex():
        raise TypeError(f"{name} must be a real or boolean tensor, got {_kind(gt_maps)}")
    check_map_shape(name, gt_maps)


def check_match(maps: Tensor, gt_maps: Tensor, name: str = "gt_maps") -> None:
    """Raise unless both are of one shape and on one device."""
    if maps.shape != gt_maps.shape:
        raise ValueError(
            f"maps and {name} must have the same shape, got {shape(maps)} and {shape(gt_maps)}"
            "; resize maps with upsample first"
        )
    _check_device(maps, gt_maps, name)


def _check_device(maps: Tensor, gt_maps: Tensor, name: str) -> None:
    if maps.device != gt_maps.device:
        raise ValueError(
            f"maps and {name} must be on the same device, got {maps.device} and {gt_maps.device}"
        )


def check_paired(maps: Tensor, gt_maps: Tensor, *, cosines: bool = False) -> int:
    """Return how many maps are flat, or raise unless there is a finite one for each truth.

    Args:
        maps: Localisation maps, (n, h, w).
        gt_maps: Ground truth, (n, H, W).
        cosines: Whether the maps must lie in [-1, 1], up to rounding.
    """
    if len(maps) != len(gt_maps):
        raise ValueError(
            "maps and gt_maps must hold the same number of samples, "
            f"got shapes {shape(maps)} and {shape(gt_maps)}"
        )
    _check_device(maps, gt_maps, "gt_maps")
    low, high = maps.flatten(1).aminmax(dim=1)
    finite = low.isfinite() & high.isfinite()
    # Together, so that an accelerator is waited for once.
    outside = (low < -1 - _slack(low)) | (high > 1 + _slack(high))
    counts = torch.stack([(~finite).sum(), flat(low, high).sum(), outside.sum()])
    broken, level, beyond = counts.tolist()
    if broken:
        raise ValueError(
            f"maps must be finite, got NaN or infinite values in {broken} of {len(maps)} maps"
        )
    if cosines and beyond:
        raise ValueError(
            "maps must be cosines in [-1, 1] for a protocol that takes them, "
            f"got values from {low.min().item():g} to {high.max().item():g} "
            f"in {beyond} of {len(maps)} maps"
        )
    return int(level)


def flat(low: Tensor, high: Tensor) -> Tensor:
    """Return of each map whether its bounds are the same up to the rounding of fp32 or fp64."""
    # Values in half precision that are unequal differ by more than rounding.
    eps = min(torch.finfo(torch.float32).eps, torch.finfo(low.dtype).eps)
    return high - low <= 8 * eps * torch.maximum(low.abs(), high.abs())


def check_mode(mode: object, name: str = "mode") -> None:
    """Raise unless ``mode`` is an interpolation of :func:`avcontrast.metrics.upsample`."""
    if mode not in ("bilinear", "bicubic", "nearest"):
        raise ValueError(f"{name} must be 'bilinear', 'bicubic' or 'nearest', got {mode!r}")


def check_no_nan(maps: Tensor) -> None:
    """Raise if any of the maps has NaN."""
    broken = int(maps.amax(dim=(1, 2)).isnan().sum())  # a NaN is the largest, and nothing is copied
    if broken:
        raise ValueError(f"maps must not have NaN, got NaN in {broken} of {len(maps)} maps")


def check_threshold(threshold: object) -> None:
    """Raise unless ``threshold`` is a rule of :func:`avcontrast.metrics.consensus_iou`."""
    if isinstance(threshold, str) and threshold in ("half", "area", "fixed"):
        return
    if isinstance(threshold, Real) and 0 < float(threshold) < 1:
        return
    raise ValueError(
        "threshold must be 'half', 'area', 'fixed' or a number strictly between 0 and 1, "
        f"got {threshold!r}"
    )


def check_inclusive(inclusive: object) -> None:
    """Raise unless ``inclusive`` is one of :func:`avcontrast.metrics.consensus_iou`."""
    if inclusive not in (True, False, "maximum"):
        raise ValueError(f"inclusive must be True, False or 'maximum', got {inclusive!r}")


def check_values(values: object) -> None:
    """Raise unless ``values`` is one of :class:`avcontrast.metrics.Protocol`."""
    if values not in ("any", "cosine"):
        raise ValueError(f"values must be 'any' or 'cosine', got {values!r}")


def check_ciou(ciou: Tensor) -> None:
    """Raise unless ``ciou`` holds the scores of at least one sample."""
    check_floating("ciou", ciou)
    if ciou.ndim != 1 or len(ciou) == 0:
        raise ValueError(f"ciou must have shape (n,) with n of at least 1, got {shape(ciou)}")
    check_unit("ciou", ciou)


def check_unit(name: str, values: Tensor) -> None:
    """Raise unless all values lie in [0, 1]; NaN does not."""
    if not ((values >= 0) & (values <= 1)).all():
        low, high = values.aminmax()
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {low.item():g} to {high.item():g}"
        )


def check_at(at: float) -> None:
    """Raise unless the cIoU that counts as a success lies in [0, 1]."""
    if not 0 <= at <= 1:
        raise ValueError(f"at must lie in [0, 1], got {at!r}")


def check_number(name: str, value: object) -> None:
    """Raise unless ``value`` is a number and not NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got nan")


def check_count(name: str, value: object) -> None:
    """Raise unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_visible(ciou: Tensor, visible: Tensor) -> None:
    """Raise unless ``visible`` says of each sample whether its source is in the image."""
    if not isinstance(visible, Tensor) or visible.dtype != torch.bool:
        raise TypeError(f"visible must be a boolean tensor, got {_kind(visible)}")
    _check_same_shape("visible", visible, "ciou", ciou)


def check_detections(ciou: Tensor, confidence: Tensor, visible: Tensor, at: float) -> None:
    """Raise unless the three describe the same samples."""
    check_ciou(ciou)
    check_floating("confidence", confidence)
    _check_same_shape("confidence", confidence, "ciou", ciou)
    if confidence.isnan().any():
        raise ValueError(
            f"confidence must not have NaN, got {int(confidence.isnan().sum())} of them"
        )
    check_visible(ciou, visible)
    check_at(at)


def group_numbers(groups: object) -> Tensor:
    """Return a number for each sample that names its group, or raise."""
    if isinstance(groups, Tensor):
        if groups.is_floating_point() or groups.is_complex() or groups.ndim != 1:
            raise TypeError(
                "groups must be an integer tensor of shape (n,) or a sequence of names, "
                f"got {_kind(groups)} and shape {shape(groups)}"
            )
        return groups
    if not _is_sequence(groups) or not all(isinstance(name, str) for name in groups):  # type: ignore[attr-defined]
        raise TypeError(
            f"groups must be an integer tensor of shape (n,) or a sequence of names, got {groups!r}"
        )
    numbers = {name: i for i, name in enumerate(sorted(set(groups)))}  # type: ignore[call-overload]
    return torch.tensor([numbers[name] for name in groups], dtype=torch.int64)  # type: ignore[attr-defined]


def check_cosines(name: str, values: Tensor) -> None:
    """Raise unless all values lie in [-1, 1], up to rounding."""
    low, high = values.aminmax()
    if low < -1 - _slack(values) or high > 1 + _slack(values):
        raise ValueError(
            f"{name} must lie in [-1, 1] for cosines, "
            f"got values from {low.item():g} to {high.item():g}"
        )


def _slack(cosines: Tensor) -> float:
    return 8 * torch.finfo(cosines.dtype).eps


def check_labels(labels: Tensor, matching: str, other: Tensor) -> None:
    """Raise unless ``labels`` are integers, one for each row of what they match."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be an integer tensor, got {_kind(labels)}")
    if labels.shape != other.shape[:1]:
        raise ValueError(
            f"labels must have one entry for each row of {matching}, "
            f"got shapes {shape(labels)} and {shape(other)}"
        )


def check_only_labels(labels: Tensor) -> None:
    """Raise unless ``labels`` are integers, of at least one sample."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be an integer tensor, got {_kind(labels)}")
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must have shape (n,) with n of at least 1, got {shape(labels)}")


def check_pairs(name: str, pairs: Tensor) -> None:
    """Raise unless ``pairs`` is a bool for each image and each sound of a batch of two or more."""
    if not isinstance(pairs, Tensor) or pairs.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {_kind(pairs)}")
    if pairs.ndim != 2 or pairs.shape[0] != pairs.shape[1] or len(pairs) < 2:
        raise ValueError(f"{name} must have shape (b, b), b of at least 2, got {shape(pairs)}")


def check_square(name: str, matrix: Tensor) -> None:
    """Raise unless ``matrix`` is (n, n), floating point and finite."""
    check_floating(name, matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        raise ValueError(f"{name} must have shape (n, n), got {shape(matrix)}")
    check_finite(name, matrix)


def check_finite(name: str, values: Tensor) -> None:
    """Raise unless all values are finite."""
    if not values.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def check_lengths(k: Iterable[int]) -> list[int]:
    """Return the lengths of lists as a list, or raise unless each is an integer of at least 1."""
    if not isinstance(k, Iterable):
        raise TypeError(f"k must be a sequence of integers, got {k!r}")
    lengths = list(k)
    if not all(type(length) is int for length in lengths):
        raise TypeError(f"k must be a sequence of integers, got {lengths!r}")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"k must hold integers of at least 1, got {lengths!r}")
    return lengths


def check_retrieval(
    similarity: Tensor,
    labels: Tensor | None,
    gallery_labels: Tensor | None,
    relevant: Tensor | None,
    exclude_self: bool,
) -> None:
    """Raise unless it is said once, and only once, which items answer which query."""
    check_floating("similarity", similarity)
    if labels is None and gallery_labels is not None:
        raise ValueError("gallery_labels needs labels, the classes of the queries")
    if relevant is not None and labels is not None:
        raise ValueError("relevant and labels both say what is right: give one of them")
    other_gallery = gallery_labels is not None or relevant is not None
    if similarity.ndim != 2 or not similarity.numel():
        sizes = "(n, m) with both at least 1" if other_gallery else "(n, n)"
        raise ValueError(f"similarity must have shape {sizes}, got {shape(similarity)}")
    queries, items = similarity.shape
    if queries != items and not other_gallery:
        raise ValueError(
            f"similarity must have shape (n, n), got {shape(similarity)}; with another gallery, "
            "say what is right by relevant, or by labels and gallery_labels"
        )
    if queries != items and exclude_self:
        raise ValueError(
            "exclude_self=True needs a similarity of shape (n, n), in which item i is query i's "
            f"own pair, got {shape(similarity)}"
        )
    check_finite("similarity", similarity)
    if relevant is not None:
        if not isinstance(relevant, Tensor) or relevant.dtype != torch.bool:
            raise TypeError(f"relevant must be a boolean tensor, got {_kind(relevant)}")
        _check_same_shape("relevant", relevant, "similarity", similarity)
    elif labels is not None:
        check_labels(labels, "similarity", similarity)
        if gallery_labels is not None:
            _check_gallery_labels(gallery_labels, similarity)
    elif exclude_self:
        raise ValueError(
            "exclude_self=True needs labels: without them the own pair is all there is to find"
        )


def _check_gallery_labels(labels: Tensor, similarity: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"gallery_labels must be an integer tensor, got {_kind(labels)}")
    if labels.shape != similarity.shape[1:]:
        raise ValueError(
            "gallery_labels must have one entry for each column of similarity, "
            f"got shapes {shape(labels)} and {shape(similarity)}"
        )


def _check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, got {shape(value)} and {shape(other)}"
        )
