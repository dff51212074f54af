"""The ways to compute a loss that the benchmark compares, and what they need."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import released_form
import torch
from measuring import Size
from torch import Tensor

from avcontrast import FNACLoss, InfoNCE, ops

Criterion = Callable[[Tensor, Tensor], Tensor]

VECTORS = "vectors"
"""The contrastive term of vectors (b, d) instead of maps."""

LOSSES: dict[str, Callable[..., FNACLoss | InfoNCE]] = {
    "fnac": partial(
        FNACLoss,
        adjacency_reduction="mean",
        fns_audio_weight=released_form.WEIGHT,
        fns_visual_weight=released_form.WEIGHT,
        tne_weight=released_form.WEIGHT,
    ),
    "nce": InfoNCE,
    VECTORS: InfoNCE,
}

RELEASED = "released"
RELEASED_LOSSES: dict[str, Criterion] = {
    "fnac": released_form.fnac,
    "nce": released_form.nce,
    VECTORS: released_form.vectors,
}

LARGE_COPIES = 3
"""Similarity tensors that a plain form may hold at its peak, rounded up."""


class Implementation(NamedTuple):
    """A way to compute a loss.

    Args:
        backend: of the library, ``"auto"``, or ``"released"`` for the form of the released code.
        compile_mode: of ``torch.compile``; empty if PyTorch does not compile it.
    """

    backend: str
    compile_mode: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is the library's, which answers for its numbers."""
        return self.backend != RELEASED

    def replays_graphs(self, device: str) -> bool:
        """Whether the compiler makes CUDA graphs of it, whose memory is theirs alone."""
        return device == "cuda" and self.compile_mode == "max-autotune"


IMPLEMENTATIONS = {
    "dense": Implementation("dense"),
    "dense-compiled": Implementation("dense", "default"),
    "released": Implementation(RELEASED),
    "released-compiled": Implementation(RELEASED, "max-autotune"),
    "blockwise": Implementation("blockwise"),
    "triton": Implementation("triton"),
    "triton-stream": Implementation("triton-stream"),
    "auto": Implementation("auto"),
}
BASELINES = {"released": "released-compiled", "dense": "dense-compiled"}
"""What the others are compared with, the first that ran, and the compiled form of each."""

DEFAULTS = {
    "cpu": ("dense", "dense-compiled", "blockwise", "auto"),
    "cuda": ("released", "released-compiled", "blockwise", "triton", "triton-stream", "auto"),
}
VECTOR_DEFAULTS = ("released", "dense", "blockwise", "auto")


def build(implementation: Implementation, loss: str) -> Criterion:
    """Return the loss of an implementation."""
    criterion: Criterion
    if implementation.ours:
        criterion = LOSSES[loss](backend=implementation.backend)
    else:
        criterion = RELEASED_LOSSES[loss]
    if implementation.compile_mode:
        mode = implementation.compile_mode
        return torch.compile(criterion, mode=mode, fullgraph=True, dynamic=False)
    return criterion


def chosen_backend(implementation: Implementation, visual: Tensor, audio: Tensor) -> str:
    """Return the backend that runs, by its name in the results."""
    if not implementation.ours:
        return RELEASED
    return ops.select_backend(implementation.backend, visual, audio)


def unsupported_reasons(
    implementation: Implementation,
    size: Size,
    visual: Tensor,
    audio: Tensor,
    options: argparse.Namespace,
) -> list[str]:
    """Return why an implementation cannot run here; an empty list means that it can."""
    backend = implementation.backend
    if backend == "auto":
        return []
    reasons = ops.unsupported_reasons(backend, visual, audio) if implementation.ours else []
    return reasons + needs_too_much(backend, size, visual.dtype, options)


def needs_too_much(
    backend: str, size: Size, dtype: torch.dtype, options: argparse.Namespace
) -> list[str]:
    """Return the reason why a plain form cannot run, if it needs too much memory."""
    if backend not in BASELINES:
        return []
    # Under autocast the released form leaves the similarity in 16 bits.
    held = dtype if backend == RELEASED else torch.promote_types(dtype, torch.float32)
    needed = LARGE_COPIES * size.similarity_bytes(held.itemsize) / 1e9
    if needed <= options.memory_limit:
        return []
    return [f"needs about {needed:.0f} GB, the limit is {options.memory_limit:.0f} GB"]
