"""The losses as functions, and the quantities they are made of.

Shapes: ``b`` pairs, ``d`` channels, a feature map of ``h`` x ``w`` positions, sounds of ``t``
frames. Everywhere the order is ``(visual, audio)`` and in a cross-modal matrix the rows are images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor

from avcontrast import _checks as checks
from avcontrast import ops
from avcontrast._alignment import alignment
from avcontrast._neighbours import neighbour_positives
from avcontrast._reduction import reduced
from avcontrast._tri_map import tri_map
from avcontrast.distributed import ALONE, Peers, check_agreement, find_peers, replicated
from avcontrast.ops._elimination import above_limits
from avcontrast.ops._ignored import of_a_kind
from avcontrast.ops._settings import Settings, compute_dtype, named, without_autocast
from avcontrast.ops._temperature import checked
from avcontrast.ops.dense import mean_vectors, unit, vectors, zero_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "FNACComponents",
    "adjacency",
    "alignment",
    "false_negative_suppression",
    "fnac",
    "hard_positive",
    "info_nce",
    "likely_false_negatives",
    "localization_map",
    "max_similarity",
    "neighbour_positives",
    "pooled_similarity",
    "tri_map",
    "true_negative_enhancement",
]

BOTH_DIRECTIONS = ("visual_to_audio", "audio_to_visual")
POSITIVE_FORM_TEMPERATURES = {"outside": 0.07, "inside": 0.07, "sum": 1.0, "mean": 1.0}
"""What each form of the loss of HardPos divides by, unless a temperature is given."""

ADJACENCY_TERMS = ("fns_audio", "fns_visual", "tne")


class FNACComponents(NamedTuple):
    """The parts of the FNAC loss, each differentiable and without its weight.

    Args:
        loss: the total, ``info_nce + regularization * (weighted sum of the three others)``.
        info_nce: the contrastive term, both directions summed.
        fns_audio: distance of the cross-modal match from the audio adjacency.
        fns_visual: distance of the cross-modal match from the visual adjacency.
        tne: distance of the audio adjacency from that of the localised sources.
    """

    loss: Tensor
    info_nce: Tensor
    fns_audio: Tensor
    fns_visual: Tensor
    tne: Tensor


def max_similarity(
    visual: Tensor,
    audio: Tensor,
    *,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Highest similarity of every image with every audio over the positions of the image.

    It is the match score of EZ-VSL and FNAC before the temperature. In plain PyTorch, for
    normalised features: ``torch.einsum("ndp,md->nmp", visual.flatten(2), audio).amax(-1)``.
    Of equal maxima the first position counts, and gets the gradient. For audio sequences it is
    pooled over time, ``torch.einsum("ndp,mdt->nmtp", visual.flatten(2), audio).amax(-1).mean(-1)``.

    Args:
        visual: visual features.
        audio: audio features.
        normalize: scale features to unit length first, which makes the result a cosine.
        visual_layout: see :class:`avcontrast.InfoNCE`.
        audio_layout: see :class:`avcontrast.InfoNCE`.
        audio_pooling: see :class:`avcontrast.InfoNCE`.
        backend: see :func:`avcontrast.ops.select_backend`.

    Shape:
        - visual: (n, d), (n, d, h, w) or any other number of positions
        - audio: (m, d) or (m, d, t); m may differ from n
        - output: (n, m), in fp32 or wider

    Raises:
        ValueError: if the shapes do not fit, or the backend cannot run them.

    Example:
        >>> import torch
        >>> from avcontrast.functional import max_similarity
        >>> visual = torch.eye(3).reshape(1, 3, 1, 3)  # one image, three positions
        >>> max_similarity(visual, torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]]))
        tensor([[1.0000, 0.8000]])
    """
    visual, audio = _channels_first(visual, audio, visual_layout, audio_layout, paired=False)
    checks.check_flag("normalize", normalize)
    checks.check_settings({"audio_pooling": audio_pooling})
    return ops.max_similarity(
        visual, audio, normalize=normalize, backend=backend, audio_pooling=audio_pooling
    )


def pooled_similarity(
    visual: Tensor,
    audio: Tensor,
    *,
    pooling: str = "max",
    mask_threshold: float = 0.65,
    mask_temperature: float = 0.03,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor:
    r"""Similarity of every image with every audio, pooled over the positions of the image.

    It is what the losses divide by the temperature. ``"max"`` is :func:`max_similarity`, ``"mean"``
    the mean over positions, ``"soft-mask"`` the response of LVS, a mean that weighs each similarity
    :math:`s_p` by how clearly it matches, with the gradient of the weights too:

    .. math::
        \frac{\sum_p m_p s_p}{\sum_p m_p}, \quad
        m_p = \mathrm{sigmoid} \big( (s_p - \varepsilon) / \tau_m \big)

    In plain PyTorch, for the similarity (n, m, p) of normalised features::

        mask = ((similarity - mask_threshold) / mask_temperature).sigmoid()
        response = (mask * similarity).sum(-1) / mask.sum(-1)

    The sums cannot vanish here, whatever the threshold and the precision.

    Args:
        visual: visual features.
        audio: audio features.
        pooling: ``"max"``, ``"mean"`` or ``"soft-mask"``.
        mask_threshold: :math:`\varepsilon`, for ``"soft-mask"``.
        mask_temperature: :math:`\tau_m`, for ``"soft-mask"``.
        normalize: scale features to unit length first, which makes the similarities cosines.
        backend: see :func:`avcontrast.ops.select_backend`. There are no kernels for
            ``"soft-mask"``, and the mean is a product of vectors on every one.

    Shape:
        - visual: (n, d, h, w) or (n, d)
        - audio: (m, d); m may differ from n
        - output: (n, m), in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these, or the backend cannot run them.
        TypeError: if a setting is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast.functional import pooled_similarity
        >>> visual = torch.eye(2).reshape(1, 2, 1, 2)  # one image, two positions
        >>> audio = torch.tensor([[3.0, 4.0]])  # similarities of 0.6 and 0.8
        >>> for pooling in ("max", "mean", "soft-mask"):
        ...     print(f"{pooled_similarity(visual, audio, pooling=pooling).item():.4f}")
        0.8000
        0.7000
        0.7724
    """
    checks.check_features(visual, audio, paired=False, frames=False)
    mask = {"mask_threshold": mask_threshold, "mask_temperature": mask_temperature}
    checks.check_settings({"pooling": pooling, "normalize": normalize, "backend": backend, **mask})
    if pooling == "soft-mask":
        return ops.soft_similarity(
            visual, audio, (mask_threshold, mask_temperature), normalize=normalize, backend=backend
        )
    if pooling == "mean":
        ops.select_backend(backend, visual, audio)
        with without_autocast(visual.device):
            return mean_vectors(visual, normalize) @ vectors(audio, normalize).T
    return ops.max_similarity(visual, audio, normalize=normalize, backend=backend)


def likely_false_negatives(
    visual: Tensor,
    audio: Tensor,
    level: float = 0.65,
    sides: str = "both",
    *,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    backend: str = "auto",
) -> Tensor:
    r"""Pairs that match so well that they are likely of the same kind.

    It is what :class:`avcontrast.InfoNCE` leaves out with ``elimination=sides``, for pooling by the
    maximum. With the matches :math:`s_{nm}` of :func:`max_similarity`, image n and audio m exceed

    .. math::
        s_{nm} > l \, s_{nn} + (1 - l) \, \tfrac{1}{b} \textstyle\sum_k s_{nk}
        \quad\text{and}\quad
        s_{nm} > l \, s_{mm} + (1 - l) \, \tfrac{1}{b} \textstyle\sum_k s_{km}

    An own pair that does not match better than the mean of its row, or column, sets no limit that
    anything exceeds: with a single pair, or before the model has learned anything, none is likely.

    Args:
        visual: visual features.
        audio: audio features of the same pairs.
        level: :math:`l`, from 0, the mean of the matches, to 1, the match of the own pair.
        sides: ``"visual"`` for the first condition, ``"audio"`` for the second, or ``"both"``.
        normalize: scale features to unit length first.
        visual_layout: see :class:`avcontrast.InfoNCE`.
        audio_layout: see :class:`avcontrast.InfoNCE`.
        audio_pooling: see :class:`avcontrast.InfoNCE`.
        backend: see :func:`avcontrast.ops.select_backend`.

    Shape:
        - visual: (b, d), (b, d, h, w) or any other number of positions
        - audio: (b, d) or (b, d, t)
        - output: (b, b) bool, images as rows; False on the diagonal

    Raises:
        ValueError: if the shapes do not fit, ``level`` or ``sides`` is not one of these, or the
            backend cannot run them.
        TypeError: if ``level`` is no number.

    Example:
        >>> import torch
        >>> from avcontrast.functional import likely_false_negatives
        >>> visual = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [0.0, 0.0, 1.0]])
        >>> likely_false_negatives(visual, audio=visual)  # the first two are of a kind
        tensor([[False,  True, False],
                [ True, False, False],
                [False, False, False]])
    """
    visual, audio = _channels_first(visual, audio, visual_layout, audio_layout)
    checks.check_level("level", level)
    checks.check_choice("sides", sides, checks.SIDES)
    checks.check_flag("normalize", normalize)
    checks.check_settings({"audio_pooling": audio_pooling})
    with torch.no_grad():
        match = ops.max_similarity(
            visual, audio, normalize=normalize, backend=backend, audio_pooling=audio_pooling
        )
        return above_limits(match, Settings((), elimination=sides, elimination_level=level), ALONE)


def localization_map(
    visual: Tensor,
    audio: Tensor,
    *,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Similarity of each image with its own audio at every position.

    The released code divides by the temperature as well; rules that rank positions do not notice.

    Args:
        visual: visual features.
        audio: audio features of the same pairs.
        normalize: scale features to unit length first, which makes the result a cosine.
        visual_layout: see :class:`avcontrast.InfoNCE`.
        audio_layout: see :class:`avcontrast.InfoNCE`.
        audio_pooling: of a sequence the ``"mean"`` over time at every position, the ``"max"``, or
            with ``"none"`` a map for each frame.
        grid: the shape of the map, such as (h, w), where ``visual`` has its positions in one axis.

    Shape:
        - visual: (b, d, h, w), or (b, d, n) with ``grid=(h, w)``, or any other number of positions
        - audio: (b, d) or (b, d, t)
        - output: (b, h, w), in general the positions of ``visual`` or those of ``grid``; with
          ``audio_pooling="none"`` (b, t, h, w) for sequences; in fp32 or wider

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if ``grid`` is not made of integers.

    Example:
        >>> import torch
        >>> from avcontrast.functional import localization_map
        >>> visual = torch.eye(2).reshape(1, 2, 1, 2)
        >>> localization_map(visual, torch.tensor([[3.0, 4.0]]))
        tensor([[[0.6000, 0.8000]]])
        >>> tokens = torch.eye(4).reshape(1, 4, 4)  # (b, n, d): patches of a 2 x 2 grid
        >>> localization_map(
        ...     tokens, torch.tensor([[3.0, 4, 0, 0]]), visual_layout="channels-last", grid=(2, 2)
        ... )
        tensor([[[0.6000, 0.8000],
                 [0.0000, 0.0000]]])
    """
    visual, audio = _channels_first(
        visual, audio, visual_layout, audio_layout, map_for="localization_map"
    )
    checks.check_flag("normalize", normalize)
    checks.check_choice("audio_pooling", audio_pooling, ("mean", "max", "none"))
    checks.check_grid(grid, visual.shape[2:].numel())
    shape = visual.shape[2:] if grid is None else tuple(grid)
    with without_autocast(visual.device):
        dtype = compute_dtype(visual, audio)
        visual, audio = visual.flatten(2).to(dtype), audio.to(dtype)
        if normalize:
            visual, audio = unit(visual, 1), unit(audio, 1)
        if audio.ndim == 3 and audio_pooling == "mean":
            audio = audio.mean(2)
        if audio.ndim == 2:
            maps = einsum(visual, audio, "b d p, b d -> b p")
        else:
            maps = einsum(visual, audio, "b d p, b d t -> b t p")
            maps = maps.max(1).values if audio_pooling == "max" else maps
        return maps.reshape(*maps.shape[:-1], *shape)


def adjacency(
    features: Tensor, temperature: float | Tensor = 0.03, *, normalize: bool = True
) -> Tensor:
    """Row-wise softmax of the similarities within one modality.

    For audio vectors it is the audio adjacency of FNAC (the text above eq. 2 of the paper, which
    mentions neither temperature nor normalisation; the released code has both). For the visual
    adjacency pass the mean over positions of the *normalised* map and ``normalize=False``: the
    released code does not normalise the mean again.

    Args:
        features: one vector a sample.
        temperature: positive number or 0-dim tensor that the similarities are divided by.
        normalize: scale the vectors to unit length first.

    Shape:
        - features: (b, d)
        - output: (b, b), rows sum to 1, in fp32 or wider

    Raises:
        ValueError: if the shape does not fit or the temperature is not positive; on CUDA the device
            asserts what a tensor holds, later.

    Example:
        >>> import torch
        >>> from avcontrast.functional import adjacency
        >>> adjacency(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), temperature=1.0)
        tensor([[0.7311, 0.2689],
                [0.2689, 0.7311]])
    """
    checks.check_vectors("features", features)
    checks.check_temperature(temperature)
    checks.check_flag("normalize", normalize)
    if isinstance(temperature, Tensor):
        temperature = checked(temperature)
    with without_autocast(features.device):
        features = features.to(compute_dtype(features, features))
        if normalize:
            features = unit(features, 1)
        return (features @ features.T / temperature).softmax(1)


def info_nce(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor = 0.03,
    *,
    ignore: Tensor | None = None,
    labels: Tensor | None = None,
    positives: Tensor | None = None,
    symmetric: bool = True,
    pooling: str = "max",
    mask_threshold: float = 0.65,
    mask_temperature: float = 0.03,
    positive_form: str = "outside",
    elimination: str = "none",
    elimination_level: float = 0.65,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Contrast matching with non-matching pairs. See :class:`avcontrast.InfoNCE`.

    ``ignore`` or ``labels`` name pairs to leave out, and ``positives`` pairs that match beside the
    own ones, see :meth:`avcontrast.InfoNCE.forward`.
    """
    visual, audio = _channels_first(visual, audio, visual_layout, audio_layout)
    own = {"symmetric": symmetric}
    checks.check_settings(own)
    terms = BOTH_DIRECTIONS if symmetric else BOTH_DIRECTIONS[:1]
    settings = Settings(
        terms,
        normalize=normalize,
        pooling=pooling,
        mask_threshold=mask_threshold,
        mask_temperature=mask_temperature,
        positive_form=positive_form,
        has_positives=positives is not None,
        elimination=elimination,
        elimination_level=elimination_level,
    )
    common = Common(
        reduction,
        gather_distributed,
        group,
        gradient_reduction,
        backend,
        audio_pooling=audio_pooling,
    )
    pairs = Pairs(ignore, labels, positives)
    return _parts(visual, audio, temperature, settings, common, own, pairs)["info_nce"]


def false_negative_suppression(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor = 0.03,
    *,
    ignore: Tensor | None = None,
    labels: Tensor | None = None,
    audio_weight: float = 1.0,
    visual_weight: float = 1.0,
    anchor: str = "visual",
    adjacency_reduction: str = "batchmean",
    detach_adjacency: bool = False,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Draw the match to the adjacencies. See :class:`avcontrast.FalseNegativeSuppression`.

    ``ignore`` or ``labels`` name pairs to leave out of both, see
    :meth:`avcontrast.FalseNegativeSuppression.forward`.
    """
    visual, audio = _channels_first(visual, audio, visual_layout, audio_layout)
    own = {"audio_weight": audio_weight, "visual_weight": visual_weight}
    checks.check_settings(own)
    weights = {"fns_audio": audio_weight, "fns_visual": visual_weight}
    settings = Settings(
        tuple(term for term, weight in weights.items() if weight),
        normalize=normalize,
        anchor=anchor,
        detach_adjacency=detach_adjacency,
        suppression_ignores=ignore is not None or labels is not None,
    )
    common = Common(
        reduction,
        gather_distributed,
        group,
        gradient_reduction,
        backend,
        adjacency_reduction,
        audio_pooling,
    )
    pairs = Pairs(ignore, labels)
    return _weighted_sum(_parts(visual, audio, temperature, settings, common, own, pairs), weights)


def true_negative_enhancement(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor = 0.03,
    *,
    threshold: float = 0.6,
    mask: str = "hard",
    adjacency_reduction: str = "batchmean",
    detach_adjacency: bool = False,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Tell apart the sources of sounds. See :class:`avcontrast.TrueNegativeEnhancement`."""
    visual, audio = _channels_first(
        visual, audio, visual_layout, audio_layout, map_for="true negative enhancement"
    )
    settings = Settings(
        ("tne",),
        normalize=normalize,
        threshold=threshold,
        mask=mask,
        detach_adjacency=detach_adjacency,
    )
    common = Common(
        reduction,
        gather_distributed,
        group,
        gradient_reduction,
        backend,
        adjacency_reduction,
        audio_pooling,
    )
    return _parts(visual, audio, temperature, settings, common)["tne"]


def fnac(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor = 0.03,
    *,
    ignore: Tensor | None = None,
    labels: Tensor | None = None,
    regularization: float = 1.0,
    fns_audio_weight: float = 0.390625,
    fns_visual_weight: float = 0.390625,
    tne_weight: float = 0.390625,
    threshold: float = 0.6,
    mask: str = "hard",
    anchor: str = "visual",
    adjacency_reduction: str = "batchmean",
    detach_adjacency: bool = False,
    elimination: str = "none",
    elimination_level: float = 0.65,
    normalize: bool = True,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    audio_pooling: str = "mean",
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
    skip_unweighted: bool = False,
) -> FNACComponents:
    """Compute the FNAC loss and its parts. See :class:`avcontrast.FNACLoss`.

    With ``skip_unweighted``, adjacency terms that do not enter the loss, because their weight or
    ``regularization`` is 0, are not computed, and their fields are zero. ``ignore`` or ``labels``
    name pairs to leave out of the contrastive term only, see :meth:`avcontrast.FNACLoss.forward`.

    Example:
        >>> import torch
        >>> from avcontrast.functional import fnac
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> parts = fnac(visual, audio, fns_audio_weight=0.5, fns_visual_weight=0.5, tne_weight=2.0)
        >>> expected = parts.info_nce + (parts.fns_audio + parts.fns_visual) / 2 + 2 * parts.tne
        >>> torch.testing.assert_close(parts.loss, expected)
    """
    visual, audio = _channels_first(
        visual, audio, visual_layout, audio_layout, map_for="the FNAC loss"
    )
    own = {
        "regularization": regularization,
        "fns_audio_weight": fns_audio_weight,
        "fns_visual_weight": fns_visual_weight,
        "tne_weight": tne_weight,
    }
    checks.check_settings(own)
    weights = {
        "fns_audio": regularization * fns_audio_weight,
        "fns_visual": regularization * fns_visual_weight,
        "tne": regularization * tne_weight,
    }
    used = tuple(term for term, weight in weights.items() if weight or not skip_unweighted)
    settings = Settings(
        BOTH_DIRECTIONS + used,
        normalize=normalize,
        threshold=threshold,
        mask=mask,
        anchor=anchor,
        detach_adjacency=detach_adjacency,
        elimination=elimination,
        elimination_level=elimination_level,
    )
    common = Common(
        reduction,
        gather_distributed,
        group,
        gradient_reduction,
        backend,
        adjacency_reduction,
        audio_pooling,
    )
    if torch.compiler.is_compiling():
        del own["regularization"]  # told to the others, it would be compiled in as a constant
    parts = _parts(visual, audio, temperature, settings, common, own, Pairs(ignore, labels))
    contrastive = loss = parts["info_nce"]
    if any(weights.values()):
        loss = contrastive + _weighted_sum(parts, weights)
    for term in weights:
        if term not in parts:
            parts[term] = torch.zeros_like(contrastive) + zero_of(contrastive)
    return FNACComponents(loss, contrastive, *(parts[term] for term in weights))


def hard_positive(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor | None = None,
    *,
    positives: Tensor | None = None,
    positive_form: str = "sum",
    anchor: str = "visual",
    mask_threshold: float = 0.65,
    mask_temperature: float = 0.03,
    normalize: bool = True,
    reduction: str = "mean",
    gather_distributed: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: str = "mean",
    backend: str = "auto",
) -> Tensor:
    """Contrast with the pairs of neighbours as positives. See :class:`avcontrast.HardPositiveLoss`.

    ``positives`` names these pairs, see :meth:`avcontrast.HardPositiveLoss.forward`.
    """
    checks.check_features(visual, audio, frames=False)
    own = {"anchor": anchor, "positive_form": positive_form}
    checks.check_settings({**own, "gather_distributed": gather_distributed, "group": group})
    if temperature is None:
        temperature = POSITIVE_FORM_TEMPERATURES[positive_form]
    settings = Settings(
        BOTH_DIRECTIONS[:1] if anchor == "visual" else BOTH_DIRECTIONS[1:],
        normalize=normalize,
        pooling="soft-mask",
        mask_threshold=mask_threshold,
        mask_temperature=mask_temperature,
        positive_form=positive_form,
        has_positives=True,
    )
    if positives is None:
        everyone = visual.shape[0] * find_peers(gather_distributed, group).size
        positives = visual.new_zeros(visual.shape[0], everyone, dtype=torch.bool)
    common = Common(reduction, gather_distributed, group, gradient_reduction, backend)
    pairs = Pairs(positives=positives)
    return _parts(visual, audio, temperature, settings, common, pairs=pairs)["info_nce"]


class Common(NamedTuple):
    """The settings that every loss has, besides those of the features; and how some are reduced."""

    reduction: str
    gather_distributed: bool
    group: ProcessGroup | None
    gradient_reduction: str
    backend: str
    adjacency_reduction: str = "batchmean"
    audio_pooling: str = "mean"


class Pairs(NamedTuple):
    """What is known of the pairs of a batch, see :meth:`avcontrast.InfoNCE.forward`."""

    ignore: Tensor | None = None
    labels: Tensor | None = None
    positives: Tensor | None = None


def _channels_first(
    visual: Tensor,
    audio: Tensor,
    visual_layout: str,
    audio_layout: str,
    *,
    map_for: str = "",
    paired: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return views of both features whose channels come second, once they are known to fit."""
    checks.check_features(
        visual,
        audio,
        visual_layout=visual_layout,
        audio_layout=audio_layout,
        map_for=map_for,
        paired=paired,
    )
    if visual_layout == "channels-last":
        visual = visual.movedim(-1, 1)
    if audio_layout == "channels-last":
        audio = audio.movedim(-1, 1)
    return visual, audio


def _parts(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor,
    settings: Settings,
    common: Common,
    own: dict[str, Any] | None = None,
    pairs: Pairs | None = None,
) -> dict[str, Tensor]:
    """Return the parts of a loss, reduced over the samples.

    All settings are checked here, but for those of the loss itself, ``own``, which a caller checks
    before it looks at them; with several processes, all have to have the same ones.
    """
    reduction, gather_distributed, group, gradient_reduction, backend, *reductions = common
    adjacency_reduction, audio_pooling = reductions
    ignore, labels, positives = pairs or Pairs()
    checks.check_temperature(temperature)
    checks.check_settings({**named(settings), **named(common)})
    peers = find_peers(gather_distributed, group)
    checks.check_pairs("ignore", ignore, visual, peers.size)
    checks.check_pairs("positives", positives, visual, peers.size)
    checks.check_labels(labels, visual)
    if peers.size > 1:
        beyond = settings.beyond_kernels
        backend = ops.select_backend(backend, visual, audio, peers.size, beyond_kernels=beyond)
        told = {
            "backend": backend,
            "temperature": "a tensor" if isinstance(temperature, Tensor) else temperature,
            **named(settings),
            "reduction": reduction,
            "gradient_reduction": gradient_reduction,
            **(own or {}),
            "adjacency_reduction": adjacency_reduction,
            "audio_pooling": audio_pooling,
            "ignore": None if ignore is None else "a tensor",
            "labels": None if labels is None else "a tensor",
            "positives": None if positives is None else "a tensor",
        }
        learnable = temperature if isinstance(temperature, Tensor) else None
        audio = check_agreement(visual, audio, peers, told, learnable)
        if learnable is not None:
            temperature = replicated(learnable, peers)
    if labels is not None:
        same = of_a_kind(labels, peers)
        ignore = same if ignore is None else same | ignore
    values = ops.contrast(
        visual,
        audio,
        temperature,
        settings,
        backend=backend,
        peers=peers,
        ignore=ignore,
        audio_pooling=audio_pooling,
        positives=positives,
    )
    rows = _adjacency_rows(values, adjacency_reduction, peers)
    if settings.terms[0] in BOTH_DIRECTIONS:
        rows["info_nce"] = _contrastive(values)
    return reduced(rows, peers, reduction, gradient_reduction)


def _contrastive(values: dict[str, Tensor]) -> Tensor:
    """Add up the directions that were asked for.  [b]."""
    first, *rest = (values[term] for term in BOTH_DIRECTIONS if term in values)
    return first + rest[0] if rest else first


def _adjacency_rows(
    values: dict[str, Tensor], adjacency_reduction: str, peers: Peers
) -> dict[str, Tensor]:
    """Reduce the rows of the adjacency terms, which came summed.  [b] each."""
    rows = {term: values[term] for term in ADJACENCY_TERMS if term in values}
    if adjacency_reduction == "batchmean":
        return rows
    return {term: row / (row.shape[0] * peers.size) for term, row in rows.items()}


def _weighted_sum(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Leave out what weighs nothing, so that an infinity there cannot become NaN."""
    first, *rest = (weight * parts[term] for term, weight in weights.items() if weight)
    for part in rest:
        first = first + part
    return first
