"""What both backends need to know about a call besides its tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from inspect import Parameter
from typing import Any, NamedTuple, TypeVar, get_type_hints

import torch
from torch import Tensor

from avcontrast.distributed import Peers

NORM_EPS = 1e-12
"""Vectors shorter than this count as zero."""

RANGE_EPS = 1e-5
"""Added to the range of an own map before it is scaled to [0, 1]; in units of logits."""

SOFT_MASK = "pooling by a soft mask"  # what the kernels do not have

TERMS = ("visual_to_audio", "audio_to_visual", "fns_audio", "fns_visual", "tne")


class Settings(NamedTuple):
    """Which terms to compute, and how.

    Args:
        terms: names out of ``TERMS``, in that order.
        normalize: scale every vector to unit length first.
        pooling: "max", "mean" or "soft-mask" over the positions of a map.
        threshold: positions of the own map above it are foreground, for the hard mask.
        mask: "hard" or "soft" foreground.
        anchor: whose rows of the cross-modal matrix meet the adjacencies.
        detach_adjacency: treat the adjacencies as constants.
        elimination: whose limits a likely false negative exceeds: "visual", "audio" or "both"; or
            "none", which leaves nothing out.
        elimination_level: where these limits lie, from the mean of the scores, 0, to the own pair.
        mask_threshold: similarity that weighs half of the highest possible, for the soft mask.
        mask_temperature: how soft that mask is.
        positive_form: how several positives of a sample count, see :mod:`._positives`.
        has_positives: whether the kinds of all pairs are given, instead of pairs to ignore.
        suppression_ignores: whether the pairs to ignore are left out of the match and the
            adjacencies of false negative suppression, which has then no cross entropy beside it.
    """

    terms: tuple[str, ...]
    normalize: bool = True
    pooling: str = "max"
    threshold: float = 0.6
    mask: str = "hard"
    anchor: str = "visual"
    detach_adjacency: bool = False
    elimination: str = "none"
    elimination_level: float = 0.65
    mask_threshold: float = 0.65
    mask_temperature: float = 0.03
    positive_form: str = "outside"
    has_positives: bool = False
    suppression_ignores: bool = False

    @property
    def beyond_kernels(self) -> str:
        """What is asked for that the CUDA kernels do not have, or nothing."""
        if self.pools_softly:
            return SOFT_MASK
        if self.suppression_ignores:
            return "ignore in false negative suppression"
        return "several positives" if self.has_positives else ""

    @property
    def eliminates(self) -> bool:
        """Whether the cross entropies leave likely false negatives out."""
        return self.elimination != "none"

    @property
    def suppresses(self) -> bool:
        """Whether a false-negative-suppression term is asked for."""
        return "fns_audio" in self.terms or "fns_visual" in self.terms

    @property
    def needs_logits(self) -> bool:
        """Whether any term looks at the cross-modal matrix."""
        return self.terms != ("tne",)

    @property
    def contrasts_alone(self) -> bool:
        """Whether no term looks at anything but the cross-modal matrix."""
        return not (self.suppresses or "tne" in self.terms)

    @property
    def directions(self) -> tuple[str, ...]:
        """In which directions a softmax over the logits is needed."""
        match = "visual_to_audio" if self.anchor == "visual" else "audio_to_visual"
        return (*self.terms, match) if self.suppresses else self.terms

    @property
    def needs_index(self) -> bool:
        """Whether the logits are maxima, whose gradient goes to one position."""
        return self.needs_logits and self.pooling == "max"

    @property
    def pools_mean(self) -> bool:
        """Whether the logits are means over the positions."""
        return self.needs_logits and self.pooling == "mean"

    @property
    def pools_softly(self) -> bool:
        """Whether the logits are means over the positions, weighed by a soft mask."""
        return self.needs_logits and self.pooling == "soft-mask"

    @property
    def soft_mask(self) -> tuple[float, float]:
        """Threshold and temperature of the soft mask."""
        return self.mask_threshold, self.mask_temperature

    @property
    def needs_pooled(self) -> bool:
        """Whether any term looks at the mean visual feature of each image."""
        return "fns_visual" in self.terms or self.pools_mean


def named(fields: NamedTuple) -> dict[str, Any]:
    """Do as ``_asdict``, which torch.compile cannot trace in torch 2.6, nor ``_replace``."""
    return dict(zip(type(fields)._fields, fields, strict=True))


def compute_dtype(visual: Tensor, audio: Tensor) -> torch.dtype:
    """At least fp32: at temperature 0.03, 16-bit logits lose percents of the gradient."""
    return torch.promote_types(torch.promote_types(visual.dtype, audio.dtype), torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off where it is on; tensors without data do not have it."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


Function = TypeVar("Function", bound=Callable[..., Any])


def packed(settings: Settings, peers: Peers) -> tuple[Any, ...]:
    """Return both as options of an operator, which takes numbers and strings only."""
    terms, *others = settings
    return " ".join(terms), *others, *peers


def unpacked(options: tuple[Any, ...]) -> tuple[Settings, Peers, tuple[Any, ...]]:
    """Return the settings, the processes, and what comes after them among the options."""
    terms, *others = options
    first, last = len(Settings._fields) - 1, len(Settings._fields) + len(Peers._fields) - 1
    settings = Settings(tuple(terms.split()), *others[:first])
    return settings, Peers(*others[first:last]), tuple(others[last:])


def with_options(results: int, **more: type) -> Callable[[Function], Function]:
    """Spell out the signature of a function, of which torch makes the schema of an operator.

    Args:
        results: how many tensors it returns.
        more: names and types of its ``*options`` after those of :func:`packed`.
    """
    types = {**get_type_hints(Settings), "terms": str, **get_type_hints(Peers), **more}
    kind = Parameter.POSITIONAL_OR_KEYWORD
    options = [Parameter(name, kind, annotation=given) for name, given in types.items()]

    def spell_out(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        tensors = list(signature.parameters.values())[:-1]
        full = signature.replace(
            parameters=[*tensors, *options],
            return_annotation=tuple[(Tensor,) * results],  # type: ignore[misc]
        )
        function.__signature__ = full  # type: ignore[attr-defined]
        return function

    return spell_out
