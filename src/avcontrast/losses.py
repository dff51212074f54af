"""The losses as modules: settings, checks and documentation; the maths is in ``functional``."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avcontrast import _checks as checks
from avcontrast import functional
from avcontrast.functional import FNACComponents
from avcontrast.ops._temperature import learned

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["FNACLoss", "FalseNegativeSuppression", "InfoNCE", "TrueNegativeEnhancement"]

LEARNING = ("learn_temperature", "min_temperature")


class _Loss(nn.Module):
    """Keeps the settings of a loss as attributes, which every call reads anew."""

    temperature: float | Tensor
    learn_temperature: bool = False
    min_temperature: float | None = None
    normalize: bool
    visual_layout: str
    audio_layout: str
    audio_pooling: str
    reduction: str
    gather_distributed: bool
    group: ProcessGroup | None
    gradient_reduction: str
    backend: str

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Check and keep the arguments of a constructor, which are its ``locals()``."""
        super().__init__()
        settings = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
        temperature = settings.pop("temperature")
        self._learning = tuple(one for one in LEARNING if one in settings)
        for name in self._learning:
            setattr(self, name, settings.pop(name))
        checks.check_temperature(temperature, read_tensor=True)
        checks.check_learning(temperature, self.learn_temperature, self.min_temperature)
        checks.check_settings(settings)
        if self.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        else:
            self.temperature = temperature
        self._names = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        # Of a temperature that is learned there is the parameter only.
        if name == "temperature" and "log_temperature" in self._parameters:
            return learned(self.log_temperature, self.min_temperature)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        if name == "temperature" and "log_temperature" in self.__dict__.get("_parameters", ()):
            raise AttributeError("temperature is learned: change the parameter log_temperature")
        super().__setattr__(name, value)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def _eliminating(self, eliminate: bool) -> dict[str, Any]:
        """Return the settings of a call that may switch elimination off."""
        checks.check_flag("eliminate", eliminate)
        return self._settings() if eliminate else {**self._settings(), "elimination": "none"}

    def extra_repr(self) -> str:
        """Show every setting."""
        temperature = self.temperature
        shown = {
            "temperature": temperature,
            **{name: getattr(self, name) for name in self._learning},
            **self._settings(),
        }
        if isinstance(temperature, Tensor):
            value = "meta" if temperature.is_meta else f"{temperature.item():g}"
            given = "" if self.learn_temperature else f", learnable={temperature.requires_grad}"
            shown["temperature"] = value + given
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class InfoNCE(_Loss):
    r"""Contrast matching with non-matching audio-visual pairs (FNAC eq. 1; the loss of EZ-VSL).

    With the logits :math:`L_{nm} = \max_p \langle v_{np}, a_m \rangle / \tau`, rows being images,

    .. math::
        \ell_n = -\log \frac{e^{L_{nn}}}{\sum_m e^{L_{nm}}}
                 -\log \frac{e^{L_{nn}}}{\sum_m e^{L_{mn}}}

    In plain PyTorch, for normalised features::

        logits = torch.einsum("ndp,md->nmp", visual.flatten(2), audio).amax(-1) / temperature
        target = torch.arange(len(logits))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)

    The two directions are summed without a factor of 1/2, as published. With (b, d) inputs this is
    the ordinary cross-modal InfoNCE, twice the loss of CLIP.

    Args:
        temperature: :math:`\tau`, a positive number, or a 0-dim leaf tensor, which gets its exact
            gradient. An ``nn.Parameter`` becomes a parameter of the module; another tensor stays
            where it is. Nothing keeps either above zero while it is trained, so that each call
            makes sure of it: what is not positive and finite is an error, on CUDA one that the
            device finds, without a wait.
        learn_temperature: learn the temperature, which starts at the given number. What is learned
            is its logarithm, the parameter ``log_temperature``, so that it stays positive;
            ``criterion.temperature`` is then its present value. Weight decay would draw it to 1:
            see :ref:`learn-the-temperature`.
        min_temperature: what a learned temperature never goes below, such as the 0.01 of CLIP.
            There, only what would lower it further gets no gradient.
        symmetric: contrast in both directions; otherwise each image among the audios only.
        pooling: ``"max"`` or ``"mean"`` over the positions of a map, or ``"soft-mask"``, the mean
            of those that match clearly; see :func:`avcontrast.functional.pooled_similarity`.
        mask_threshold: from which similarity on a position counts, for ``pooling="soft-mask"``.
        mask_temperature: how soft that mask is.
        positive_form: how a sample counts that has several positives, see :meth:`forward`:
            ``"outside"``, the mean of minus the log-probabilities of its positives (SupCon);
            ``"inside"``, minus the logarithm of their summed probability (MIL-NCE, positives
            counted once); ``"sum"`` and ``"mean"``, :math:`\log(1 + e^{N - P})` with the sum
            :math:`N` of the logits of its negatives and the sum or mean :math:`P` of those of its
            positives (HardPos).
        elimination: leave likely false negatives out of the denominators: pairs that match nearly
            as well as the own pair of their image, ``"visual"``, of their audio, ``"audio"``, or
            of ``"both"``; ``"none"`` leaves nothing out. See
            :func:`avcontrast.functional.likely_false_negatives`, which says which pairs these are.
            They get no gradient, and which ones they are is a constant for it.
        elimination_level: how nearly, from 0, better than the mean, to 1, better than the own pair.
        normalize: scale features to unit length over the channels first; a vector shorter than
            1e-12 becomes zero and gets no gradient, and so does one whose length overflows.
        visual_layout: where the channels of visual features are: ``"channels-first"``, after the
            samples, as in (b, d, h, w), or ``"channels-last"``, as in the patch tokens (b, n, d) of
            a transformer. It is never guessed from the sizes, and nothing is copied for it.
        audio_layout: the same of audio features: (b, d, t), or (b, t, d).
        audio_pooling: what the match with a sequence of t audio frames is: the ``"mean"`` over time
            of what ``pooling`` over the positions gives each frame, or the ``"max"``. Adjacencies,
            and the own map behind a mask, are those of the mean unit frame, which is not normalised
            again.
        reduction: ``"mean"`` or ``"sum"`` over the b samples, or ``"none"``.
        gather_distributed: contrast over the batches of all processes of ``group``, and return the
            loss of that global batch on each; see :doc:`/distributed`. In a single process it
            changes nothing.
        group: the process group that shares a batch; the default one if None.
        gradient_reduction: what the training does with the gradients that the processes have of a
            parameter: ``"mean"``, as DistributedDataParallel and FSDP do, or ``"sum"``.
        backend: ``"auto"``, or one of :data:`avcontrast.ops.BACKENDS`.

    Shape:
        - visual: (b, d), (b, d, h, w) or any other number of positions: tokens (b, d, n), video
          (b, d, frames, h, w)
        - audio: (b, d) or (b, d, t)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import InfoNCE
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> print(f"{InfoNCE()(visual, audio):.4f}")
        10.2957

    References:
        Sun et al., `Learning Audio-Visual Source Localization via False Negative Aware Contrastive
        Learning <https://arxiv.org/abs/2303.11302>`_, CVPR 2023.
        Mo and Morgado, `Localizing Visual Sounds the Easy Way <https://arxiv.org/abs/2203.09324>`_,
        ECCV 2022.
    """

    symmetric: bool
    pooling: str
    mask_threshold: float
    mask_temperature: float
    positive_form: str
    elimination: str
    elimination_level: float

    def __init__(
        self,
        temperature: float | Tensor = 0.03,
        *,
        learn_temperature: bool = False,
        min_temperature: float | None = None,
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
    ) -> None:
        super().__init__(locals())

    def forward(
        self,
        visual: Tensor,
        audio: Tensor,
        *,
        ignore: Tensor | None = None,
        labels: Tensor | None = None,
        positives: Tensor | None = None,
        eliminate: bool = True,
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            visual: visual features, (b, d) or with any number of positions, such as (b, d, h, w).
            audio: audio features, (b, d), or (b, d, t) for a sequence.
            ignore: known false negatives, (b, b) bool with images as rows and audios as columns:
                pairs marked True are left out of the denominators of both directions, and get no
                gradient. The diagonal, which holds the positives, must be False; on CUDA that is
                asserted by the device, without waiting for it. With ``gather_distributed`` it is
                (b_local, b_global): the images of this process, the audios of all.
            labels: classes as integers, (b,): leaves out the pairs of one class, so that with all
                labels known there is no false negative. A negative label, such as -1, is unknown
                and equals no other. It stands for::

                    same = labels[:, None] == labels[None, :]
                    ignore = (same & (labels >= 0)[:, None]).fill_diagonal_(False)

                With ``ignore`` as well, the pairs of both are left out. With
                ``gather_distributed`` the labels are those of this process, (b_local,), and
                travel. See :ref:`known false negatives <known-false-negatives>`.
            positives: pairs that match beside the own ones, of the same shape as ``ignore``, in
                both directions; how they count says ``positive_form``. The diagonal always counts.
                A pair that is marked in ``ignore`` too is an error, as its diagonal is, and none
                of them is left out by ``elimination``. No backend of kernels has them.
            eliminate: False leaves no likely false negative out, whatever ``elimination`` says:
                for the first part of a training, whose matches mean nothing yet.

        Example:
            >>> import torch
            >>> from avcontrast import InfoNCE
            >>> visual, audio = torch.eye(3), torch.eye(3)[[0, 0, 2]]  # samples 0 and 1 sound alike
            >>> labels = torch.tensor([5, 5, 7])
            >>> criterion = InfoNCE(temperature=1.0, reduction="none", symmetric=False)
            >>> criterion(visual, audio)
            tensor([0.8620, 1.0986, 0.5514])
            >>> criterion(visual, audio, labels=labels)
            tensor([0.3133, 0.6931, 0.5514])
        """
        return functional.info_nce(
            visual,
            audio,
            self.temperature,
            ignore=ignore,
            labels=labels,
            positives=positives,
            **self._eliminating(eliminate),
        )


class FalseNegativeSuppression(_Loss):
    r"""Draw the cross-modal match to the adjacencies within each modality (FNAC eq. 2 and 3).

    Pairs of the same kind look alike within each modality. The rows of the match :math:`P`, a
    softmax over the logits of :class:`InfoNCE`, are drawn to those of the audio adjacency
    :math:`S^a` and the visual adjacency :math:`S^v`:

    .. math::
        \ell_i = w_a \sum_j |S^a_{ij} - P_{ij}| + w_v \sum_j |S^v_{ij} - P_{ij}|

    :math:`S^a = \mathrm{softmax}_j(\langle a_i, a_j \rangle / \tau)`, and :math:`S^v` likewise of
    the visual features averaged over positions. In plain PyTorch, for normalised features::

        match = logits.softmax(1)
        pooled = visual.flatten(2).mean(2)
        audio_adjacency = (audio @ audio.T / temperature).softmax(1)
        visual_adjacency = (pooled @ pooled.T / temperature).softmax(1)
        of_audio = (audio_adjacency - match).abs().sum(1)
        of_visual = (visual_adjacency - match).abs().sum(1)
        loss = of_audio.mean() + of_visual.mean()

    Args:
        temperature: see :class:`InfoNCE`. Match and adjacencies share it.
        learn_temperature, min_temperature: see :class:`InfoNCE`.
        audio_weight: :math:`w_a`; 0 switches the audio adjacency off.
        visual_weight: :math:`w_v`; 0 switches the visual adjacency off.
        anchor: ``"visual"``: row i of the match is image i over all audios, as released.
            ``"audio"``: audio i over all images, as eq. 2 and 3 are printed.
        adjacency_reduction: ``"batchmean"`` sums each row, so that a weight means the same at every
            batch size; ``"mean"`` divides it by b, as published.
        detach_adjacency: treat the adjacencies as constants; the released code does not.
        normalize: see :class:`InfoNCE`. The averaged visual features are not normalised again.
        visual_layout, audio_layout, audio_pooling: see :class:`InfoNCE`.
        reduction, gather_distributed, group, gradient_reduction, backend: see :class:`InfoNCE`.

    Shape:
        - visual: (b, d), (b, d, h, w) or any other number of positions: tokens (b, d, n), video
          (b, d, frames, h, w)
        - audio: (b, d) or (b, d, t)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import FalseNegativeSuppression
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> print(f"{FalseNegativeSuppression()(visual, audio):.4f}")
        3.2700

    Note:
        The paper prints both equations with the audio as anchor and remarks that the visual one is
        symmetric to the first; it mentions no temperature in the adjacencies. Defaults follow the
        released code, which numbers the terms 1 (audio), 3 (visual), but for the rows, which both
        divide by b: ``adjacency_reduction="mean"``.

    References:
        Sun et al., `Learning Audio-Visual Source Localization via False Negative Aware Contrastive
        Learning <https://arxiv.org/abs/2303.11302>`_, CVPR 2023.
    """

    audio_weight: float
    visual_weight: float
    anchor: str
    adjacency_reduction: str
    detach_adjacency: bool

    def __init__(
        self,
        temperature: float | Tensor = 0.03,
        *,
        learn_temperature: bool = False,
        min_temperature: float | None = None,
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
    ) -> None:
        super().__init__(locals())

    def forward(
        self,
        visual: Tensor,
        audio: Tensor,
        *,
        ignore: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        r"""Return the loss of a batch.

        Args:
            visual: visual features, (b, d) or with any number of positions, such as (b, d, h, w).
            audio: audio features, (b, d), or (b, d, t) for a sequence.
            ignore: known false negatives, (b, b) bool, see :meth:`InfoNCE.forward`. Of a pair that
                is left out nothing is compared: the match and both adjacencies are softmaxes over
                the others of its row. With the pairs :math:`K_i` that are kept of row i, the own
                one among them,

                .. math::
                    \ell_i = \sum_{j \in K_i} w_a |S^a_{ij} - P_{ij}| + w_v |S^v_{ij} - P_{ij}|,
                    \quad P_{ij} = \frac{e^{L_{ij}}}{\sum_{k \in K_i} e^{L_{ik}}},
                    \quad S^a_{ij} = \frac{e^{\langle a_i, a_j \rangle / \tau}}
                    {\sum_{k \in K_i} e^{\langle a_i, a_k \rangle / \tau}},

                and :math:`S^v` likewise; with ``anchor="audio"`` row i are the pairs of audio i,
                a column of ``ignore``. A sample with nothing left but its own pair costs nothing.
                ``adjacency_reduction="mean"`` still divides by b. No backend of kernels has it.
                :class:`FNACLoss` leaves pairs out of its contrastive term only.
            labels: the same from classes, (b,), see :meth:`InfoNCE.forward`.
        """
        return functional.false_negative_suppression(
            visual, audio, self.temperature, ignore=ignore, labels=labels, **self._settings()
        )


class TrueNegativeEnhancement(_Loss):
    r"""Tell apart the sources of different sounds (FNAC eq. 4).

    The map of an image with its own audio shows where the sound comes from. The features there,
    :math:`z_i`, shall be as similar to each other as the audios are:

    .. math::
        \ell_i = \sum_j |S^a_{ij} - S^s_{ij}|, \quad
        S^s = \mathrm{softmax}_j(\langle z_i, z_j \rangle / \tau), \quad
        z_i = \frac{1}{hw} \sum_p M_{ip} v_{ip}

    :math:`M_i` marks the positions of the own map, scaled to [0, 1], above a threshold. In plain
    PyTorch, for normalised features::

        own = torch.einsum("bdp,bd->bp", visual.flatten(2), audio) / temperature
        low, high = own.amin(1, True), own.amax(1, True)
        mask = (own - low) / (high - low + 1e-5) > threshold
        sources = (visual.flatten(2) * mask[:, None]).mean(2)
        source_adjacency = (sources @ sources.T / temperature).softmax(1)
        loss = (audio_adjacency - source_adjacency).abs().sum(1).mean()

    Args:
        temperature: see :class:`InfoNCE`. The map and both adjacencies share it.
        learn_temperature, min_temperature: see :class:`InfoNCE`.
        threshold: in [0, 1); positions strictly above it are the source.
        mask: ``"hard"``: 0 or 1, without a gradient through it. ``"soft"``: the scaled map itself
            weighs the positions, with its gradient, and the threshold has no effect.
        adjacency_reduction: see :class:`FalseNegativeSuppression`.
        detach_adjacency: treat the audio adjacency as a constant; the released code does not.
        normalize: see :class:`InfoNCE`. The source features are not normalised again.
        visual_layout, audio_layout, audio_pooling: see :class:`InfoNCE`.
        reduction, gather_distributed, group, gradient_reduction, backend: see :class:`InfoNCE`.

    Shape:
        - visual: (b, d, h, w) or any other number of positions: tokens (b, d, n), video
          (b, d, frames, h, w)
        - audio: (b, d) or (b, d, t)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import TrueNegativeEnhancement
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator)
        >>> audio = torch.randn(8, 16, generator=generator)
        >>> print(f"{TrueNegativeEnhancement()(visual, audio):.4f}")
        1.6444

    Note:
        The paper says "use the localisation map as a mask" and gives neither threshold nor
        pooling. The released code has a hard mask at 0.6, divides by all h w positions instead of
        those in the mask, and adds 1e-5 to the range of the map in units of logits; so does this.
        It divides each row by b, for which there is ``adjacency_reduction="mean"``.

    References:
        Sun et al., `Learning Audio-Visual Source Localization via False Negative Aware Contrastive
        Learning <https://arxiv.org/abs/2303.11302>`_, CVPR 2023.
    """

    threshold: float
    mask: str
    adjacency_reduction: str
    detach_adjacency: bool

    def __init__(
        self,
        temperature: float | Tensor = 0.03,
        *,
        learn_temperature: bool = False,
        min_temperature: float | None = None,
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
    ) -> None:
        super().__init__(locals())

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return functional.true_negative_enhancement(
            visual, audio, self.temperature, **self._settings()
        )


class FNACLoss(_Loss):
    r"""False-negative-aware contrastive loss (FNAC eq. 5): InfoNCE, suppression and enhancement.

    .. math::
        \ell = \ell_\mathrm{InfoNCE}
             + r \, (\alpha \, \ell_\mathrm{FNS,a} + \beta \, \ell_\mathrm{FNS,v}
             + \gamma \, \ell_\mathrm{TNE})

    with the terms of :class:`InfoNCE`, :class:`FalseNegativeSuppression` and
    :class:`TrueNegativeEnhancement`, computed together. The strength :math:`r` is the argument
    ``regularization`` of the call; at 0 the loss is InfoNCE bit for bit and the adjacency terms
    are not computed.

    Args:
        temperature: see :class:`InfoNCE`. All similarities share it.
        learn_temperature, min_temperature: see :class:`InfoNCE`.
        fns_audio_weight: :math:`\alpha`.
        fns_visual_weight: :math:`\beta`.
        tne_weight: :math:`\gamma`.
        threshold, mask: see :class:`TrueNegativeEnhancement`.
        anchor: see :class:`FalseNegativeSuppression`.
        adjacency_reduction: ``"batchmean"`` sums each row; the default weights, 100 / 256, are then
            the published strength at any batch size. ``"mean"`` divides it by b, as published:
            each term is at most 2 / b, and weights of 100, to be given with it, belong to the
            published batch of 256.
        detach_adjacency: see :class:`FalseNegativeSuppression`.
        elimination, elimination_level: see :class:`InfoNCE`. For the contrastive term alone.
        normalize, visual_layout, audio_layout, audio_pooling: see :class:`InfoNCE`.
        reduction, gather_distributed, group, gradient_reduction, backend: see :class:`InfoNCE`.

    Shape:
        - visual: (b, d, h, w) or any other number of positions: tokens (b, d, n), video
          (b, d, frames, h, w)
        - audio: (b, d) or (b, d, t)
        - output: scalar, or (b,) if ``reduction="none"``; in fp32 or wider

    Raises:
        ValueError: if a setting or a shape is not one of these.
        TypeError: if a setting or a dtype is of the wrong kind.

    Example:
        >>> import torch
        >>> from avcontrast import FNACLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> visual = torch.randn(8, 16, 7, 7, generator=generator, requires_grad=True)
        >>> audio = torch.randn(8, 16, generator=generator, requires_grad=True)
        >>> criterion = FNACLoss()
        >>> loss = criterion(visual, audio)
        >>> loss.backward()
        >>> print(f"{loss:.3f}")
        12.215
        >>> parts = criterion.components(visual, audio, regularization=0.0)
        >>> print(f"{parts.loss:.4f} {parts.fns_audio:.4f} {parts.fns_visual:.4f} {parts.tne:.4f}")
        10.2957 1.8647 1.4053 1.6444

    Note:
        The released code divides each row by b and has weights of 100 for its batch of 256, where
        ``fnac_loss1_weight`` is :math:`\alpha`, ``fnac_loss2_weight`` is :math:`\gamma` and
        ``fnac_loss3_weight`` is :math:`\beta`; the paper does not state them. At that batch the
        defaults are the same loss, and at any other ``adjacency_reduction="mean"`` with weights of
        100 is what the released code computes.

    References:
        Sun et al., `Learning Audio-Visual Source Localization via False Negative Aware Contrastive
        Learning <https://arxiv.org/abs/2303.11302>`_, CVPR 2023.
    """

    fns_audio_weight: float
    fns_visual_weight: float
    tne_weight: float
    threshold: float
    mask: str
    anchor: str
    adjacency_reduction: str
    detach_adjacency: bool
    elimination: str
    elimination_level: float

    def __init__(
        self,
        temperature: float | Tensor = 0.03,
        *,
        learn_temperature: bool = False,
        min_temperature: float | None = None,
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
    ) -> None:
        super().__init__(locals())

    def forward(
        self,
        visual: Tensor,
        audio: Tensor,
        *,
        regularization: float = 1.0,
        ignore: Tensor | None = None,
        labels: Tensor | None = None,
        eliminate: bool = True,
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            visual: visual features with any number of positions, such as (b, d, h, w).
            audio: audio features, (b, d), or (b, d, t) for a sequence.
            regularization: strength of the adjacency terms, not negative; see
                :func:`avcontrast.schedules.warmup`.
            ignore: known false negatives, (b, b) bool, see :meth:`InfoNCE.forward`. They are left
                out of the contrastive term only: the match that false negative suppression
                compares, and the adjacencies, are those of all pairs.
            labels: the same from classes, (b,), see :meth:`InfoNCE.forward`.
            eliminate: whether likely false negatives are left out as ``elimination`` says.
        """
        return functional.fnac(
            visual,
            audio,
            self.temperature,
            regularization=regularization,
            ignore=ignore,
            labels=labels,
            skip_unweighted=True,
            **self._eliminating(eliminate),
        ).loss

    def components(
        self,
        visual: Tensor,
        audio: Tensor,
        *,
        regularization: float = 1.0,
        ignore: Tensor | None = None,
        labels: Tensor | None = None,
        eliminate: bool = True,
    ) -> FNACComponents:
        """Return the same loss and its unweighted, differentiable terms, all of them computed.

        Args:
            visual: visual features with any number of positions, such as (b, d, h, w).
            audio: audio features, (b, d), or (b, d, t) for a sequence.
            regularization: as in :meth:`forward`; it enters ``loss`` only.
            ignore: as in :meth:`forward`; it enters ``loss`` and ``info_nce`` only.
            labels: as in :meth:`forward`; likewise.
            eliminate: as in :meth:`forward`; it enters ``loss`` and ``info_nce`` only.
        """
        return functional.fnac(
            visual,
            audio,
            self.temperature,
            regularization=regularization,
            ignore=ignore,
            labels=labels,
            **self._eliminating(eliminate),
        )


ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", re.MULTILINE)
REFERENCE = re.compile(r"see\s+:class:`(\w+)`\.\s*((?:.|\n)*)")


def _write_out(losses: list[type[_Loss]]) -> None:
    """Put what one docstring says of an argument wherever another one says to see it there."""
    known: dict[str, dict[str, str]] = {}

    def in_full(entry: re.Match[str]) -> str:
        names, text = entry.groups()
        reference = REFERENCE.fullmatch(text)
        if reference is None:
            return entry[0]
        loss, more = reference.groups()
        texts = [f"    {name}: {known[loss][name]}" for name in names.split(", ")]
        return "\n".join(f"{said}\n        {more}" if more else said for said in texts)

    for loss in losses:
        text = ARGUMENT.sub(in_full, inspect.cleandoc(loss.__doc__ or ""))
        known[loss.__name__] = {entry[1]: entry[2] for entry in ARGUMENT.finditer(text)}
        loss.__doc__ = text


_write_out(_Loss.__subclasses__())
