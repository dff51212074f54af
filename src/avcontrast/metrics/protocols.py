"""The published ways from a small map to a score, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from avcontrast.metrics import _checks as checks
from avcontrast.metrics import _scoring as scoring
from avcontrast.metrics._numerics import chunks
from avcontrast.metrics.localization import Inclusive, Threshold
from avcontrast.metrics.maps import centre_disc, upsample


class Protocol(NamedTuple):
    """How an evaluator turns a small map into predicted pixels.

    ``PROTOCOLS["lvs"]._replace(threshold=0.75)`` makes another of a published one.

    Args:
        mode: of :func:`upsample`, for the maps of the model.
        align_corners: of :func:`upsample`, for the maps of the model.
        inclusive: whether a pixel equal to the threshold is predicted; see :func:`consensus_iou`.
        threshold: of :func:`consensus_iou`.
        object_mode: of :func:`upsample`, for the object maps that some evaluators mix with the maps
            of the model.
        object_align_corners: of :func:`upsample`, for object maps.
        values: what the maps hold. ``"any"`` takes any values, of which only the order counts
            unless ``threshold`` is ``"fixed"``. ``"cosine"`` takes cosines in [-1, 1], which become
            (cosine + 1) / 2 once they are resized; others are an error.

    Example:
        >>> from avcontrast.metrics import PROTOCOLS, upsample
        >>> rules = PROTOCOLS["fnac-test2"]
        >>> rules.mode, rules.align_corners
        ('bicubic', False)
        >>> rules.object_mode, rules.object_align_corners
        ('bilinear', True)
    """

    mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    align_corners: bool = True
    inclusive: Inclusive = True
    threshold: Threshold = "half"
    object_mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    object_align_corners: bool = True
    values: Literal["any", "cosine"] = "any"


# Validation during training has no object maps; there they are resized as in the test of that code.
# Nor have LVS and SSL-TIE: theirs is how SSL-Alignment resizes object maps when it evaluates them.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "ezvsl-test": Protocol(),
        "ezvsl-train": Protocol("bicubic", align_corners=False),
        "fnac-test": Protocol(),
        "fnac-test2": Protocol("bicubic", align_corners=False),
        "fnac-train": Protocol("bicubic", align_corners=False),
        "slavc-test": Protocol("bicubic", object_mode="bicubic"),
        "slavc-test-absolute": Protocol(
            "bicubic", threshold="fixed", object_mode="bicubic", values="cosine"
        ),
        "slavc-train": Protocol("bicubic", align_corners=False, object_mode="bicubic"),
        "lvs": Protocol(align_corners=False, inclusive="maximum", object_align_corners=False),
        "ssltie": Protocol(align_corners=False, inclusive="maximum", object_align_corners=False),
        "alignment": Protocol(inclusive=False),
        "alignment-adaptive": Protocol(inclusive=False, threshold="area"),
        "alignment-vggss": Protocol(
            align_corners=False, inclusive=False, object_align_corners=False
        ),
        "alignment-vggss-adaptive": Protocol(
            align_corners=False, inclusive=False, threshold="area", object_align_corners=False
        ),
    }
)


class LocalizationScores(NamedTuple):
    """What :func:`localization_scores` returns: a value a sample, (n,) each."""

    ciou: Tensor
    pointing: Tensor
    centre_disc_ciou: Tensor
    centre_disc_pointing: Tensor
    ceiling: Tensor


def localization_ciou(
    maps: Tensor, gt_maps: Tensor, protocol: str | Protocol = "ezvsl-test"
) -> Tensor:
    """Score small maps as a published evaluator does.

    The maps are resized to the ground truth and compared with it by :func:`consensus_iou`, both as
    the protocol says, a part of the batch at a time. A warning says how many maps are flat, since
    what these score is no finding (see :func:`flat_maps`).

    Args:
        maps: localisation maps as the model gives them, floating point, finite. Cosines suit every
            protocol (see :func:`avcontrast.functional.localization_map`); where ``values`` of the
            protocol is ``"any"``, so do maps of another scale.
        gt_maps: weights in [0, 1], of any real or boolean dtype (see :func:`ground_truth_map`).
        protocol: a name in :data:`PROTOCOLS`, or a :class:`Protocol` of your own.

    Shape:
        ``maps`` (n, h, w), ``gt_maps`` (n, H, W); returns (n,).

    Returns:
        The cIoU of each map, in [0, 1], as float64 (float32 on a device without float64).

    Raises:
        TypeError: ``maps`` or ``gt_maps`` is not a tensor of the kind above.
        ValueError: the numbers of maps or the devices differ, a map is not finite or leaves the
            range of the protocol, a weight lies outside [0, 1], or there is no such protocol.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import ground_truth_map, localization_ciou
        >>> y, x = torch.arange(7.0)[:, None], torch.arange(7.0)
        >>> maps = (-((y - 3) ** 2) - (x - 2) ** 2)[None]
        >>> gt_maps = ground_truth_map([(0.1, 0.2, 0.6, 0.9)], 224)[None]
        >>> for name in ("ezvsl-test", "lvs", "alignment-adaptive"):
        ...     print(f"{localization_ciou(maps, gt_maps, name).item():.4f}")
        0.6695
        0.6572
        0.7162

    Source:
        The released evaluation scripts of EZ-VSL, FNAC, SLAVC, LVS, SSL-TIE and SSL-Alignment. LVS
        and SSL-TIE resize with OpenCV's ``INTER_LINEAR``, which is bilinear with
        ``align_corners=False``. None of the papers names its interpolation.
    """
    rules, flat = check_inputs(maps, gt_maps, protocol)
    warn_of_flat(flat, len(maps))
    scores = []
    for small, gt_some in parts(maps, gt_maps):
        gt = scoring.truth(gt_some)
        heat = resize(small, gt_some, rules).flatten(1)
        predicted = scoring.predict(heat, gt, rules.threshold, rules.inclusive)
        scores.append(scoring.consensus_iou(predicted, gt))
    return torch.cat(scores)


def localization_scores(
    maps: Tensor, gt_maps: Tensor, protocol: str | Protocol = "ezvsl-test"
) -> LocalizationScores:
    """Score small maps beside the centre disc and the ceiling of the protocol.

    One pass over the data for :func:`localization_ciou`, the cIoU of :func:`centre_disc`, the
    pointing game of both (see :func:`pointing_accuracy`) and :func:`ciou_ceiling`. A warning says
    how many maps are flat, as there.

    Args:
        maps: as in :func:`localization_ciou`.
        gt_maps: as in :func:`localization_ciou`.
        protocol: as in :func:`localization_ciou`.

    Shape:
        ``maps`` (n, h, w), ``gt_maps`` (n, H, W); returns five tensors (n,).

    Returns:
        ``ciou``, ``pointing``, ``centre_disc_ciou``, ``centre_disc_pointing`` and ``ceiling`` of
        each sample: the pointing games as ``bool``, the others as float64 (float32 on a device
        without float64).

    Raises:
        TypeError: as :func:`localization_ciou`.
        ValueError: as :func:`localization_ciou`.

    Example:
        >>> import torch
        >>> from avcontrast.metrics import ground_truth_map, localization_scores
        >>> y, x = torch.arange(7.0)[:, None], torch.arange(7.0)
        >>> maps = (-((y - 3) ** 2) - (x - 2) ** 2)[None]
        >>> gt_maps = ground_truth_map([(0.1, 0.2, 0.6, 0.9)], 224)[None]
        >>> scores = localization_scores(maps, gt_maps)
        >>> for value in (scores.ciou, scores.centre_disc_ciou, scores.ceiling):
        ...     print(f"{value.item():.4f}")
        0.6695
        0.5498
        0.7009

    Source:
        Disc and ceiling are not part of any published evaluator. The ceiling is that of maps
        without ties, so that a map that has them can pass it; see :func:`ciou_ceiling`.
    """
    rules, flat = check_inputs(maps, gt_maps, protocol)
    warn_of_flat(flat, len(maps))
    return scores_of(maps, gt_maps, rules)


def scores_of(maps: Tensor, gt_maps: Tensor, rules: Protocol) -> LocalizationScores:
    """Return the scores of maps and ground truth that were checked."""
    disc = centre_disc(gt_maps.shape[1:]).to(maps.device).flatten()[None]
    scores = []
    for small, gt_some in parts(maps, gt_maps):
        gt = scoring.truth(gt_some)
        heat = resize(small, gt_some, rules).flatten(1)
        row = []
        for values in (heat, disc):
            predicted = scoring.predict(values, gt, rules.threshold, rules.inclusive)
            row += [scoring.consensus_iou(predicted, gt), scoring.points_at(values, gt)]
        scores.append([*row, scoring.ceiling(gt, rules.threshold, rules.inclusive)])
    return LocalizationScores(*(torch.cat(parts) for parts in zip(*scores, strict=True)))


def parts(maps: Tensor, gt_maps: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the chunks of a batch with their ground truth."""
    truth = chunks(gt_maps)
    small = torch.split(maps.detach(), [len(part) for part in truth])
    return list(zip(small, truth, strict=True))


def resize(maps: Tensor, gt_maps: Tensor, rules: Protocol) -> Tensor:
    """Return maps as the protocol scores them: (n, h, w), (n, H, W) -> (n, H, W)."""
    heat = upsample(maps, gt_maps.shape[1:], rules.mode, rules.align_corners)
    return (heat + 1) / 2 if rules.values == "cosine" else heat


def check_inputs(maps: Tensor, gt_maps: Tensor, protocol: str | Protocol) -> tuple[Protocol, int]:
    """Return the protocol and how many maps are flat, or raise when an argument is wrong."""
    rules = find_protocol(protocol)
    checks.check_maps("maps", maps)
    checks.check_gt_maps(gt_maps)
    return rules, checks.check_paired(maps, gt_maps, cosines=rules.values == "cosine")


def warn_of_flat(flat: int, samples: int) -> None:
    """Warn the caller of the function that calls this when maps are flat."""
    if flat:
        warnings.warn(
            f"{flat} of {samples} maps are flat: the model gives one value everywhere, and what "
            "they score is made of ties and rounding",
            stacklevel=3,
        )


def find_protocol(protocol: object) -> Protocol:
    """Return the protocol of this name, or the protocol itself, or raise."""
    if isinstance(protocol, str) and protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    if not isinstance(protocol, Protocol):
        names = ", ".join(map(repr, PROTOCOLS))
        raise ValueError(f"protocol must be a Protocol or one of {names}, got {protocol!r}")
    checks.check_mode(protocol.mode)
    checks.check_mode(protocol.object_mode, "object_mode")
    checks.check_threshold(protocol.threshold)
    checks.check_inclusive(protocol.inclusive)
    checks.check_values(protocol.values)
    return protocol
