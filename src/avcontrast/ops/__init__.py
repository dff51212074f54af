"""The front door to the maths: chooses a backend, or says why one cannot run.

A backend is a way to compute the same numbers. ``dense`` is the definition; ``blockwise`` streams
and never holds the similarity of all pairs at all positions; ``triton`` is for CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from avcontrast._checks import check_choice
from avcontrast.distributed import ALONE, Peers
from avcontrast.ops import blockwise, dense
from avcontrast.ops._settings import Settings, compute_dtype

__all__ = ["BACKENDS", "contrast", "max_similarity", "select_backend", "unsupported_reasons"]

BACKENDS = ("triton", "blockwise", "dense")
"""Every backend, in the order in which ``"auto"`` considers them for all but small inputs."""

_MODULES = {"blockwise": blockwise, "dense": dense}

SMALL_MAP_ELEMENTS = 2**17
"""Up to this number of visual feature elements ``dense`` was the faster one on a CPU, ..."""

SMALL_SIMILARITY_ELEMENTS = 2**18
"""... unless the similarity of all pairs at all positions had more elements than this."""


def unsupported_reasons(backend: str, visual: Tensor, audio: Tensor) -> list[str]:
    """Return why ``backend`` cannot run these inputs; an empty list means that it can.

    Args:
        backend: one of ``BACKENDS``.
        visual: visual features, (b, d, h, w) or (b, d).
        audio: audio features, (b, d).

    Raises:
        ValueError: if there is no backend of that name.

    Example:
        >>> import torch
        >>> from avcontrast import ops
        >>> visual, audio = torch.randn(4, 8, 7, 7), torch.randn(4, 8)
        >>> ops.unsupported_reasons("blockwise", visual, audio)
        []
        >>> ops.unsupported_reasons("triton", visual, audio)
        ['this version has no CUDA kernels', 'visual is on cpu, it needs a CUDA device']
    """
    check_choice("backend", backend, BACKENDS)
    reasons = []
    if backend == "triton":
        reasons.append("this version has no CUDA kernels")
        if visual.device.type != "cuda":
            reasons.append(f"visual is on {visual.device}, it needs a CUDA device")
    if backend == "blockwise" and forward_ad._current_level >= 0:
        reasons.append("forward-mode differentiation is on, it has reverse mode only")
    return reasons


def select_backend(backend: str, visual: Tensor, audio: Tensor) -> str:
    """Return the name of the backend that will run.

    Args:
        backend: one of ``BACKENDS``, or ``"auto"``: ``dense`` for small inputs, where it is the
            faster one, and otherwise the first of ``BACKENDS`` that can run.
        visual: visual features, (n, d, h, w) or (n, d).
        audio: audio features, (m, d).

    Raises:
        ValueError: if there is no such backend, or it cannot run these inputs. The message holds
            every reason and the shapes.

    Example:
        >>> import torch
        >>> from avcontrast import ops
        >>> ops.select_backend("auto", torch.randn(256, 8, 7, 7), torch.randn(256, 8))
        'blockwise'
        >>> ops.select_backend("auto", torch.randn(8, 8, 7, 7), torch.randn(8, 8))
        'dense'
    """
    check_choice("backend", backend, ("auto", *BACKENDS))
    if backend == "auto":
        similarity = visual[:, 0].numel() * audio.shape[0]
        if visual.numel() <= SMALL_MAP_ELEMENTS and similarity <= SMALL_SIMILARITY_ELEMENTS:
            return "dense"
        return next(name for name in BACKENDS if not unsupported_reasons(name, visual, audio))
    reasons = unsupported_reasons(backend, visual, audio)
    if reasons:
        raise ValueError(
            f"backend={backend!r} cannot run visual {tuple(visual.shape)} and audio "
            f"{tuple(audio.shape)}: {'; '.join(reasons)}"
        )
    return backend


def max_similarity(visual: Tensor, audio: Tensor, *, normalize: bool, backend: str) -> Tensor:
    """Return the highest similarity over the positions for every pair.  [n, m]."""
    chosen = select_backend(backend, visual, audio)
    visual = _as_map(visual)
    best: Tensor = _MODULES[chosen].max_similarity(visual, audio, normalize=normalize)
    return best


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor,
    settings: Settings,
    *,
    backend: str,
    peers: Peers = ALONE,
) -> dict[str, Tensor]:
    """Return the terms that ``settings`` names, one value a sample of this process.  [b].

    The contrastive terms are cross entropies; the adjacency terms are sums over a row.
    """
    chosen = select_backend(backend, visual, audio)
    visual = _as_map(visual)
    if visual.shape[2:].numel() == 1:
        # Field by field: torch.compile cannot trace _replace in torch 2.6.
        settings = Settings(
            settings.terms,
            settings.normalize,
            "mean",
            settings.threshold,
            settings.mask,
            settings.anchor,
            settings.detach_adjacency,
        )
    if not isinstance(temperature, Tensor):
        dtype = compute_dtype(visual, audio)
        temperature = torch.full((), temperature, dtype=dtype, device=visual.device)
    elif temperature.device != visual.device:
        raise ValueError(
            f"temperature must be on the features' device {visual.device}, got {temperature.device}"
        )
    values = _MODULES[chosen].contrast(visual, audio, temperature, settings, peers)
    return dict(zip(settings.terms, values, strict=True))


def _as_map(visual: Tensor) -> Tensor:
    return visual if visual.ndim == 4 else visual[:, :, None, None]
