"""Losses of other published methods that localise sounds, as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from avcontrast import _checks as checks
from avcontrast import functional
from avcontrast._alignment import AlignmentComponents
from avcontrast._tri_map import TEMPERATURES
from avcontrast.functional import POSITIVE_FORM_TEMPERATURES
from avcontrast.losses import _Loss, _write_out

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["AlignmentLoss", "HardPositiveLoss", "TriMapLoss"]


class TriMapLoss(_Loss):
    r"""Contrast what sounds with other sounds and with the background of its image (LVS).

    With the similarities :math:`s_{nmp}` of image n at position p with audio m, the response of a
    pair is a mean over the positions that match it clearly, and the background of an image a mean
    over those that clearly do not match its own audio,

    .. math::
        R_{nm} = \frac{\sum_p m_{nmp} s_{nmp}}{\sum_p m_{nmp}}, \quad
        m = \mathrm{sigmoid} \Big( \frac{s - \varepsilon_p}{\tau_m} \Big), \quad
        H_n = \frac{\sum_p u_{np} s_{nnp}}{\sum_p u_{np}}, \quad
        u = \mathrm{sigmoid} \Big( \frac{\varepsilon_n - s}{\tau_m} \Big)

    What lies between both thresholds counts for neither. The loss of the released code, and that
    of the paper with :math:`\bar s` for the mean over all positions, are

    .. math::
        \ell_n = -\log \frac{e^{R_{nn} / \tau}}
                            {\sum_m e^{R_{nm} / \tau} + e^{H_n / \tau}}, \qquad
        \ell_n = \log \Big( 1 + e^{\, (H_n + \sum_{m \neq n} \bar s_{nm} - R_{nn}) / \tau} \Big)

    In plain PyTorch, for the similarity (n, m, p) of normalised features and its diagonal own::

        mask = ((similarity - 0.65) / 0.03).sigmoid()
        response = (mask * similarity).sum(2) / mask.sum(2)
        outside = ((0.4 - own) / 0.03).sigmoid()
        background = (outside * own).sum(1, keepdim=True) / outside.sum(1, keepdim=True)
        logits = torch.cat([response, background], 1) / 0.07
        loss = F.cross_entropy(logits, torch.arange(len(logits)))

    Args:
        temperature: see :class:`InfoNCE`. If None, 0.07 for ``form="code"`` and 1 for
            ``form="paper"``, which has no temperature.
        form: ``"code"`` or ``"paper"``, see above.
        mask_threshold: :math:`\varepsilon_p`, above which a position is what sounds.
        background_threshold: :math:`\varepsilon_n`, below which a position is background.
        mask_temperature: :math:`\tau_m`, how soft both masks are.
        tri_map: False sets :math:`\varepsilon_n = \varepsilon_p`, so that every position counts.
        background: False leaves the background out.
        anchor: ``"visual"``: an image against the other audios. ``"audio"``, for ``form="paper"``
            only: an audio against the other images.
        normalize, reduction, gather_distributed, group, gradient_reduction, backend: see
            :class:`InfoNCE`.

    Shape:
        - visual: (b, d, h, w)
        - audio: (b, d)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import TriMapLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> print(f"{TriMapLoss()(visual, audio):.4f}")
        2.9267

    Note:
        Both masks have their gradients. A single pair is not free: its background stays a negative.
        The released code takes the own pair out of the negatives by multiplying it with -99, which
        explodes where an own response is negative; here it is there once, as it is meant. The
        paper prints the audio as anchor; the authors' code and their answers have the image. No
        process of a released training sees the samples of another: see ``gather_distributed``.

    References:
        Chen et al., `Localizing Visual Sounds the Hard Way <https://arxiv.org/abs/2104.02691>`_,
        CVPR 2021.
    """

    form: str
    mask_threshold: float
    background_threshold: float
    mask_temperature: float
    tri_map: bool
    background: bool
    anchor: str

    def __init__(
        self,
        temperature: float | Tensor | None = None,
        *,
        form: str = "code",
        mask_threshold: float = 0.65,
        background_threshold: float = 0.4,
        mask_temperature: float = 0.03,
        tri_map: bool = True,
        background: bool = True,
        anchor: str = "visual",
        normalize: bool = True,
        reduction: str = "mean",
        gather_distributed: bool = False,
        group: ProcessGroup | None = None,
        gradient_reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        checks.check_form(form, anchor)
        if temperature is None:
            temperature = TEMPERATURES[form]
        super().__init__(locals())

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return functional.tri_map(visual, audio, self.temperature, **self._settings())


class HardPositiveLoss(_Loss):
    r"""Contrast with the pairs of similar samples as further positives (HardPos).

    With the responses :math:`R_{nm}` of :class:`TriMapLoss` and, of image n, the audios
    :math:`P_n` of which its own is one and those of its neighbours are others,

    .. math::
        \ell_n = \log \Big( 1 + \exp \frac{1}{\tau} \Big( \sum_{m \notin P_n} R_{nm}
                 - \sum_{m \in P_n} R_{nm} \Big) \Big)

    In plain PyTorch, for responses (b, b) and a mask of the positives, its diagonal True::

        positive = response.masked_fill(~positives, 0).sum(1)
        negative = response.masked_fill(positives, 0).sum(1)
        loss = F.softplus((negative - positive) / temperature).mean()

    It is :class:`InfoNCE` with ``pooling="soft-mask"``, one direction and several positives.

    Args:
        temperature: see :class:`InfoNCE`. If None, 1 for the forms ``"sum"`` and ``"mean"``, which
            have none, and 0.07 for the others.
        positive_form: ``"sum"``, the equation above; ``"mean"``, with the mean of the responses of
            the positives; ``"inside"``, minus the logarithm of their summed probability in a
            softmax over all; or ``"outside"``, the mean of minus their log-probabilities.
        anchor: ``"visual"``: an image among the audios; ``"audio"``: an audio among the images.
        mask_threshold, mask_temperature: see :class:`TriMapLoss`.
        normalize, reduction, gather_distributed, group, gradient_reduction, backend: see
            :class:`InfoNCE`.

    Shape:
        - visual: (b, d, h, w) or (b, d)
        - audio: (b, d)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import HardPositiveLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> positives = torch.eye(8, dtype=torch.bool)
        >>> positives[0, 1] = positives[1, 0] = True
        >>> print(f"{HardPositiveLoss()(visual, audio, positives=positives):.4f}")
        2.8868

    Note:
        No code was released. What is known is that hard positives enter the contrastive objective
        directly. The equation, the anchor and the constants are as recalled from the paper: that
        neighbours are taken in both modalities (1,000 of them in the training set), but neither how
        they are combined, see :func:`avcontrast.functional.neighbour_positives`, nor whether they
        are summed or averaged. The sum in the exponent grows with the batch, where the gradient of
        every negative comes near to 1.

    References:
        Senocak et al., `Learning Sound Localization Better From Semantically Similar Samples
        <https://arxiv.org/abs/2202.03007>`_, ICASSP 2022.
    """

    positive_form: str
    anchor: str
    mask_threshold: float
    mask_temperature: float

    def __init__(
        self,
        temperature: float | Tensor | None = None,
        *,
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
    ) -> None:
        checks.check_settings({"positive_form": positive_form})
        if temperature is None:
            temperature = POSITIVE_FORM_TEMPERATURES[positive_form]
        super().__init__(locals())

    def forward(self, visual: Tensor, audio: Tensor, *, positives: Tensor | None = None) -> Tensor:
        """Return the loss of a batch.

        Args:
            visual: visual features, (b, d, h, w) or (b, d).
            audio: audio features, (b, d).
            positives: pairs that match beside the own ones, (b, b) bool with images as rows and
                audios as columns, or (b_local, b_global) with ``gather_distributed``; not symmetric
                if need be. The diagonal always counts. Without it the own pairs are alone.
        """
        return functional.hard_positive(
            visual, audio, self.temperature, positives=positives, **self._settings()
        )


class AlignmentLoss(_Loss):
    r"""Contrast all views of an image with all views of its sound, twice (Cross-Modal Alignment).

    Each image and each sound comes in several views: as it is, augmented, and a sample drawn from
    its nearest neighbours. A view of an image and a view of a sound have two similarities, one of
    the map, which localises, and one of projected vectors,

    .. math::
        s_L(v, a) = \tfrac{1}{hw} \textstyle\sum_p \langle v_p, a \rangle, \qquad
        s_A(v, a) = \langle \phi(v), \psi(a) \rangle

    and both are contrasted within the batch, for all pairings of a view v with a view a:

    .. math::
        \ell = \sum_{v, a} \ell_\mathrm{NCE}(s_L(v, a)) + \ell_\mathrm{NCE}(s_A(v, a))

    The views of other samples are negatives, those of the same sample never. In plain PyTorch, for
    one pairing of normalised features::

        logits = visual.flatten(2).mean(2) @ audio.T / temperature
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    The projections are yours: they map the mean of an image's features, and the feature of a sound,
    to vectors of which the loss takes the cosine.

    Args:
        temperature: see :class:`InfoNCE`. All similarities share it.
        localization_weight: weight of the contrast of :math:`s_L`.
        alignment_weight: weight of the contrast of :math:`s_A`.
        pooling: ``"mean"``, ``"max"`` or ``"soft-mask"`` over the positions, for :math:`s_L`; see
            :func:`avcontrast.functional.pooled_similarity`. The mean is a product of vectors.
        mask_threshold, mask_temperature: see :class:`InfoNCE`.
        symmetric: the mean of both directions; otherwise each image among the audios only.
        pairing_reduction: ``"sum"`` or ``"mean"`` over the pairings of views.
        normalize, reduction, gather_distributed, group, gradient_reduction, backend: see
            :class:`InfoNCE`.

    Shape:
        - visual: a list of (b, d, h, w), one for each view
        - audio: a list of (b, d)
        - visual_vectors, audio_vectors: lists of (b, k), one for each view
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these, or views are missing.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import AlignmentLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> images = list(torch.randn(3, 8, 16, 7, 7, generator=generator))  # three views each
        >>> sounds = list(torch.randn(3, 8, 16, generator=generator))
        >>> project = torch.eye(16)  # yours is learned, one for each modality
        >>> image_vectors = [image.mean((2, 3)) @ project for image in images]
        >>> sound_vectors = [sound @ project for sound in sounds]
        >>> print(f"{AlignmentLoss()(images, sounds, image_vectors, sound_vectors):.3f}")
        68.877

    Note:
        No training code was released. Certain is that the map is compared without a projection, and
        that there are two similarities and views of both kinds. The mean over positions, what the
        projected vectors are a mean of, the temperature and the sum over pairings are as recalled
        from the paper, which leaves the directions open as far as is known: hence the arguments.

    References:
        Senocak et al., `Sound Source Localization is All about Cross-Modal Alignment
        <https://arxiv.org/abs/2309.10724>`_, ICCV 2023.
    """

    localization_weight: float
    alignment_weight: float
    pooling: str
    mask_threshold: float
    mask_temperature: float
    symmetric: bool
    pairing_reduction: str

    def __init__(
        self,
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
    ) -> None:
        super().__init__(locals())

    def forward(
        self,
        visual: Sequence[Tensor],
        audio: Sequence[Tensor],
        visual_vectors: Sequence[Tensor],
        audio_vectors: Sequence[Tensor],
    ) -> Tensor:
        """Return the loss of a batch, whose views come in lists."""
        return self.components(visual, audio, visual_vectors, audio_vectors).loss

    def components(
        self,
        visual: Sequence[Tensor],
        audio: Sequence[Tensor],
        visual_vectors: Sequence[Tensor],
        audio_vectors: Sequence[Tensor],
    ) -> AlignmentComponents:
        """Return the same loss and its unweighted, differentiable terms."""
        return functional.alignment(
            visual, audio, visual_vectors, audio_vectors, self.temperature, **self._settings()
        )


_write_out(_Loss.__subclasses__())
