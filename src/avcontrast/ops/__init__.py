"""The front door to the maths: chooses a backend, or says why one cannot run.

A backend is a way to compute the same numbers. ``dense`` is the definition; ``blockwise`` streams
and never holds the similarity of all pairs at all positions; ``triton`` does so in CUDA kernels,
and ``triton-stream`` keeps nothing b x b for the backward pass.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from avcontrast import _checks
from avcontrast._checks import check_choice
from avcontrast.distributed import ALONE, Peers
from avcontrast.ops import blockwise, dense, sequences
from avcontrast.ops._autograd import transformed
from avcontrast.ops._ignored import keeps_positives
from avcontrast.ops._positives import disjoint, kinds
from avcontrast.ops._settings import SOFT_MASK, Settings, compute_dtype, named
from avcontrast.ops._temperature import checked
from avcontrast.ops._tested import PASSED_RUNS

__all__ = [
    "BACKENDS",
    "contrast",
    "max_similarity",
    "select_backend",
    "soft_similarity",
    "unsupported_reasons",
]

BACKENDS = _checks.BACKENDS
"""Every backend, in the order in which ``"auto"`` considers them for all but small inputs."""

HAS_TRITON = find_spec("triton") is not None
"""Whether the package is there that compiles the kernels; it is imported on first use."""

HAS_COMPILER = any(
    map(shutil.which, [os.environ["CC"]] if "CC" in os.environ else ("gcc", "clang"))
)
"""Whether Triton finds a C compiler, which it makes the launcher of each kernel with."""

OLDEST_CAPABILITY = (8, 0)
"""Of a CUDA device with the instructions that the kernels are made of."""

MOST_POSITIONS = 1024
"""Of a feature map, for the kernels; one program reads all positions of an image."""

MOST_NUMBERS = 2**31 - 1
"""Of the audio features of all processes, for the kernels; offsets among these have 32 bits."""

CHANNEL_STEP = 64
"""The kernels pad channels to a multiple of it."""

BYTES_A_PAIR = 7
"""What ``triton`` takes for every pair: a logit, a position, and two bytes on the way back."""

SMALL_PAIR_BYTES = 2**26
"""Up to this size of the matrix of all pairs ``dense`` was the faster one for vectors on a CPU."""

SMALL_MAP_ELEMENTS = 2**17
"""Up to this number of visual feature elements ``dense`` was the faster one on a CPU, ..."""

SMALL_SIMILARITY_ELEMENTS = 2**18
"""... unless the similarity of all pairs at all positions had more elements than this."""


def unsupported_reasons(
    backend: str,
    visual: Tensor,
    audio: Tensor,
    processes: int = 1,
    *,
    beyond_kernels: str = "",
) -> list[str]:
    """Return why ``backend`` cannot run these inputs; an empty list means that it can.

    Args:
        backend: one of ``BACKENDS``.
        visual: visual features, (b, d), (b, d, h, w) and the like, the channels second.
        audio: audio features, (b, d) or (b, d, t).
        processes: how many processes share the batch, each with as many samples.
        beyond_kernels: what is asked for that the kernels do not have; empty if nothing.

    Raises:
        ValueError: if there is no backend of that name.

    Example:
        >>> import torch
        >>> from avcontrast import ops
        >>> visual, audio = torch.randn(4, 8, 7, 7), torch.randn(4, 8)
        >>> ops.unsupported_reasons("blockwise", visual, audio)
        []
        >>> ops.unsupported_reasons("triton", visual, audio)
        ['visual is on cpu, it needs a CUDA device']
    """
    check_choice("backend", backend, BACKENDS)
    reasons = []
    if backend.startswith("triton"):
        reasons += _lacking(visual.device)
        if beyond_kernels:
            reasons.append(f"it has no kernel for {beyond_kernels}")
        if torch.float64 in (visual.dtype, audio.dtype):
            reasons.append("the features are torch.float64, it computes in fp32")
        positions = visual.shape[2:].numel()
        if positions > MOST_POSITIONS:
            reasons.append(f"the maps have {positions} positions, it takes up to {MOST_POSITIONS}")
        frames = audio.shape[2:].numel()
        if frames > 1:
            reasons.append(f"audio has {frames} frames, there is no kernel for sequences")
        rows, channels = audio.shape[0] * processes, audio.shape[1]
        numbers = rows * -(-channels // CHANNEL_STEP) * CHANNEL_STEP
        if numbers > MOST_NUMBERS:
            reasons.append(f"{rows} audio features have {numbers} numbers, it takes {MOST_NUMBERS}")
    if backend != "dense" and forward_ad._current_level >= 0:
        reasons.append("forward-mode differentiation is on, it has reverse mode only")
    elif backend != "dense" and transformed():
        reasons.append("it is inside a transform of torch.func (grad, vmap, jacrev, ...)")
    return reasons


def _lacking(device: torch.device) -> list[str]:
    """Return why the kernels cannot run on a device."""
    if device.type != "cuda" or torch.version.hip is not None:
        place = "an AMD GPU" if device.type == "cuda" else f"{device}"
        return [f"visual is on {place}, it needs a CUDA device"]
    reasons = []
    if not HAS_TRITON:
        reasons.append("the package triton is not installed")
    if not HAS_COMPILER:
        reasons.append("there is no C compiler, neither in CC nor as gcc or clang")
    capability = _capability(device)
    if capability < OLDEST_CAPABILITY:
        have, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
        reasons.append(f"{device} has compute capability {have}, it needs {needed}")
    return reasons


def _capability(device: torch.device) -> tuple[int, int]:
    card = torch.cuda.get_device_properties(device)
    return card.major, card.minor


def _tested(device: torch.device) -> bool:
    """Return whether the kernels have passed their tests on cards of this kind."""
    return any(_capability(device) == card.capability for card in PASSED_RUNS)


def _memory(device: torch.device) -> int:
    total: int = torch.cuda.get_device_properties(device).total_memory
    return total


def select_backend(
    backend: str, visual: Tensor, audio: Tensor, processes: int = 1, *, beyond_kernels: str = ""
) -> str:
    """Return the name of the backend that will run.

    Args:
        backend: one of ``BACKENDS``, or ``"auto"``: ``dense`` for small inputs, where it is the
            faster one, and otherwise the first of ``BACKENDS`` that can run; the kernels only on
            cards of a kind that they have passed their tests on, and ``triton`` only if what it
            keeps for every pair takes no more than half of the device's memory.
        visual: visual features, (n, d), (n, d, h, w) and the like, the channels second.
        audio: audio features, (m, d) or (m, d, t).
        processes: how many processes share the batch, each with as many samples.
        beyond_kernels: see :func:`unsupported_reasons`.

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
        if _exports_any_batch(visual):
            return "dense"
        # Of a sequence each frame is contrasted like a vector.
        pairs = visual.shape[0] * audio.shape[0] * audio.shape[2:].numel() * processes
        if visual.ndim == 2:
            bytes_ = pairs * compute_dtype(visual, audio).itemsize
            if bytes_ <= SMALL_PAIR_BYTES:
                return "dense"
        similarity = pairs * visual.shape[2:].numel()
        if visual.numel() <= SMALL_MAP_ELEMENTS and similarity <= SMALL_SIMILARITY_ELEMENTS:
            return "dense"
        return next(
            name
            for name in BACKENDS
            if not unsupported_reasons(
                name, visual, audio, processes, beyond_kernels=beyond_kernels
            )
            and (not name.startswith("triton") or _tested(visual.device))
            and (name != "triton" or 2 * BYTES_A_PAIR * pairs <= _memory(visual.device))
        )
    reasons = unsupported_reasons(backend, visual, audio, processes, beyond_kernels=beyond_kernels)
    if reasons:
        raise ValueError(
            f"backend={backend!r} cannot run visual {tuple(visual.shape)} and audio "
            f"{tuple(audio.shape)}: {'; '.join(reasons)}"
        )
    return backend


def _exports_any_batch(visual: Tensor) -> bool:
    """Return whether the program is going to be run with other sizes, and elsewhere."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)()
    return exporting and not isinstance(visual.numel(), int)


def max_similarity(
    visual: Tensor,
    audio: Tensor,
    *,
    normalize: bool,
    backend: str,
    audio_pooling: str = "mean",
) -> Tensor:
    """Return the highest similarity over the positions, pooled over time, of all pairs.  [n, m]."""
    chosen = select_backend(backend, visual, audio)
    visual, audio = _as_map(visual), _as_vectors(audio)
    if audio.ndim == 3:
        return sequences.max_similarity(
            visual,
            audio,
            normalize=normalize,
            audio_pooling=audio_pooling,
            streamed=chosen != "dense",
        )
    best: Tensor = _module(chosen).max_similarity(visual, audio, normalize=normalize)
    return best


def soft_similarity(
    visual: Tensor,
    audio: Tensor,
    soft_mask: tuple[float, float],
    *,
    normalize: bool,
    backend: str,
) -> Tensor:
    """Return the mean similarity under a soft mask for every pair.  [n, m].

    ``soft_mask`` is the threshold and the temperature of the mask.
    """
    chosen = select_backend(backend, visual, audio, beyond_kernels=SOFT_MASK)
    visual = _as_map(visual)
    pooled: Tensor = _module(chosen).soft_similarity(visual, audio, soft_mask, normalize=normalize)
    return pooled


def contrast(
    visual: Tensor,
    audio: Tensor,
    temperature: float | Tensor,
    settings: Settings,
    *,
    backend: str,
    peers: Peers = ALONE,
    ignore: Tensor | None = None,
    audio_pooling: str = "mean",
    positives: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms that ``settings`` names, one value a sample of this process.  [b].

    The contrastive terms are cross entropies, without the pairs marked in ``ignore``, and with
    those in ``positives`` as positives beside the own pair; the adjacency terms are sums over a
    row.
    """
    if visual.shape[2:].numel() == 1:
        settings = Settings(**{**named(settings), "pooling": "mean"})
    beyond = settings.beyond_kernels
    chosen = select_backend(backend, visual, audio, peers.size, beyond_kernels=beyond)
    visual, audio = _as_map(visual), _as_vectors(audio)
    if audio.ndim == 3 and settings.pooling == "soft-mask":
        raise ValueError("pooling must be 'max' or 'mean' for sequences of audio, got 'soft-mask'")
    if not isinstance(temperature, Tensor):
        dtype = compute_dtype(visual, audio)
        temperature = torch.full((), temperature, dtype=dtype, device=visual.device)
    elif temperature.device != visual.device:
        raise ValueError(
            f"temperature must be on the features' device {visual.device}, got {temperature.device}"
        )
    else:
        temperature = checked(temperature)
    options: dict[str, Any] = {}
    if chosen.startswith("triton"):
        options["store"] = chosen == "triton"
    if ignore is not None:
        first = peers.own(ignore.shape[0]).start
        temperature = temperature + keeps_positives(ignore.diagonal(first))
        options["ignore"] = ignore
    if positives is not None:
        if ignore is not None:
            temperature = temperature + disjoint(positives, ignore)
        first = peers.own(positives.shape[0]).start
        options["ignore"] = kinds(positives, ignore, first)
    contrasting = _module(chosen).contrast
    if audio.ndim == 3:
        contrasting = sequences.contrast
        options |= {"audio_pooling": audio_pooling, "streamed": chosen != "dense"}
    terms = contrasting(visual, audio, temperature, settings, peers, **options)
    return dict(zip(settings.terms, terms, strict=True))


def _module(backend: str) -> ModuleType:
    """Return what computes; importing the kernels takes the package triton."""
    if backend.startswith("triton"):
        from avcontrast.ops import triton

        return triton
    return {"blockwise": blockwise, "dense": dense}[backend]


def _as_map(visual: Tensor) -> Tensor:
    """Return a view with two axes of positions, of which the second has those that lie together."""
    if visual.ndim == 2:
        return visual[:, :, None, None]
    return visual[:, :, None] if visual.ndim == 3 else visual.flatten(3)


def _as_vectors(audio: Tensor) -> Tensor:
    """Return a sequence of one frame as the vector that it is."""
    return audio[:, :, 0] if audio.shape[2:].numel() == 1 and audio.ndim == 3 else audio
