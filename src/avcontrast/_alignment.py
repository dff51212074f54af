"""The loss of Cross-Modal Alignment: several views of each image and sound, two similarities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from avcontrast import _checks as checks
from avcontrast import ops
from avcontrast._reduction import agreed, reduced
from avcontrast.distributed import find_peers
from avcontrast.ops._settings import Settings, compute_dtype, without_autocast
from avcontrast.ops.dense import mean_vectors, unit, vectors, zero_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DIRECTIONS = ("visual_to_audio", "audio_to_visual")


class AlignmentComponents(NamedTuple):
    """The parts of the alignment loss, each differentiable and without its weight.

    Args:
        loss: the total, ``localization_weight * localization + alignment_weight * alignment``.
        localization: contrast of the localisation similarities, over all pairings of views.
        alignment: contrast of the projected vectors, over all pairings of views.
    """

    loss: Tensor
    localization: Tensor
    alignment: Tensor


def alignment(
    visual: Sequence[Tensor],
    audio: Sequence[Tensor],
    visual_vectors: Sequence[Tensor],
    audio_vectors: Sequence[Tensor],
    temperature: float | Tensor = 0.07,
    *,
    localization_weight: float = 1.0,
    alignment_weight: float = 1.0,
    pooling: str = "mean",
    mask_threshold: float = 0.65,
    mask_temperature: float = 0.03,
    symmetric: bool = True,
    pairing_reduction: str = "sum",
    normalize: bool = True,
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> AlignmentComponents:
    """Contrast every view of an image with every view of a sound.

    See :class:`avcontrast.AlignmentLoss`.
    """
    checks.check_views("visual", visual, "audio", audio)
    checks.check_views("visual_vectors", visual_vectors, "audio_vectors", audio_vectors)
    for name, views in (("visual_vectors", visual_vectors), ("audio_vectors", audio_vectors)):
        for view in views:
            checks.check_vectors(name, view)
    checks.check_counts(visual=visual, visual_vectors=visual_vectors)
    checks.check_counts(audio=audio, audio_vectors=audio_vectors)
    checks.check_temperature(temperature)
    settings = {
        "localization_weight": localization_weight,
        "alignment_weight": alignment_weight,
        "pooling": pooling,
        "mask_threshold": mask_threshold,
        "mask_temperature": mask_temperature,
        "symmetric": symmetric,
        "pairing_reduction": pairing_reduction,
        "normalize": normalize,
        "reduction": reduction,
        "gather_distributed": gather_distributed,
        "gradient_reduction": gradient_reduction,
        "backend": backend,
    }
    checks.check_settings({**settings, "group": group})
    peers = find_peers(gather_distributed, group)
    told = {**settings, "views": (len(visual), len(audio)), "size": visual[0].shape[1:]}
    told["vectors"] = visual_vectors[0].shape[1]
    first, temperature = agreed(visual[0], audio[0], temperature, peers, told)
    audio = [first, *audio[1:]]

    engine = Settings(
        DIRECTIONS if symmetric else DIRECTIONS[:1],
        normalize=False,
        pooling=pooling,
        mask_threshold=mask_threshold,
        mask_temperature=mask_temperature,
    )
    if pooling == "mean":
        images = [mean_vectors(view, normalize) for view in visual]
    else:
        images = [_unit_maps(view) if normalize else view for view in visual]
    sounds = [vectors(view, normalize) for view in audio]
    options: dict[str, Any] = {"backend": backend, "peers": peers}
    rows = {
        "localization": _contrast(images, sounds, temperature, engine, options),
        "alignment": _contrast(
            [vectors(view, normalize) for view in visual_vectors],
            [vectors(view, normalize) for view in audio_vectors],
            temperature,
            engine,
            options,
        ),
    }
    share = 1 / (len(visual) * len(audio)) if pairing_reduction == "mean" else 1.0
    rows = {name: share * values for name, values in rows.items()}
    parts = reduced(rows, peers, reduction, gradient_reduction)
    weights = {"localization": localization_weight, "alignment": alignment_weight}
    # What weighs nothing is left out, so that an infinity there cannot become NaN.
    weighted = [
        weight * parts[name] if weight else zero_of(parts[name]) for name, weight in weights.items()
    ]
    return AlignmentComponents(weighted[0] + weighted[1], parts["localization"], parts["alignment"])


def _unit_maps(visual: Tensor) -> Tensor:
    with without_autocast(visual.device):
        return unit(visual.to(compute_dtype(visual, visual)), 1)


def _contrast(
    images: Sequence[Tensor],
    sounds: Sequence[Tensor],
    temperature: float | Tensor,
    settings: Settings,
    options: dict[str, Any],
) -> Tensor:
    """Return the sum over all pairings of the mean over the directions.  [n]."""
    rows = [
        term / len(settings.terms)
        for image, sound in product(images, sounds)
        for term in ops.contrast(image, sound, temperature, settings, **options).values()
    ]
    return sum(rows[1:], rows[0])
