"""The operands of the matrix products, and the precision of these.

- ``raw``: 16-bit features as they came; they are divided by their lengths after the product, so
  that nothing is rounded twice;
- ``single``: one product of unit features in fp16, which has the mantissa of TF32;
- ``split``: what fp16 cuts off is a second fp16 operand, and three products are as good as fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.ops import _maps
from avcontrast.ops.triton.kernels.prepare import prepare_kernel
from avcontrast.ops.triton.tiles import CHANNEL_STEP, MAP_WARPS, map_block, padded_channels

SMALLEST_BOUND = 1e-30
"""Gradients are scaled by their bound before they are cast, which is zero if there is none."""


def precision_of(visual: Tensor, audio: Tensor) -> str:
    """Return the precision that dtypes and autocast ask for; else the global setting decides."""
    if visual.dtype == audio.dtype and visual.dtype in (torch.float16, torch.bfloat16):
        return "raw"
    return "single" if torch.is_autocast_enabled(visual.device.type) else "as set"


def decided(precision: str) -> str:
    """Return the precision of a call; operators ask, so that compiled steps heed the setting."""
    if precision != "as set":
        return precision
    # The name of torch 2.9; once something was set by it, reading the old setting is an error.
    setting = getattr(torch.backends.cuda.matmul, "fp32_precision", "none")
    if setting == "none":
        setting = torch.get_float32_matmul_precision()
    return "split" if setting in ("ieee", "highest") else "single"


@contextmanager
def launching_on(tensor: Tensor) -> Iterator[None]:
    """Launch kernels where a tensor is, and have no autocast change what they are given."""
    device = tensor.device
    with (
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


class Operand(NamedTuple):
    """Rows of channels in 16 bits, padded with zeros, and what was cut off from them.

    Args:
        high: [rows, padded channels].
        low: the same, or empty.
        largest: what the rows were divided by beside their lengths.
    """

    high: Tensor
    low: Tensor
    largest: Tensor


class Positions(NamedTuple):
    """What is read from maps, a row an image."""

    lengths: Tensor  # [n, p], infinity for a vector that counts as zero
    own_map: Tensor  # [n, p]
    pooled: Tensor  # [n, d]
    sources: Tensor  # [n, d]


def flat(maps: Tensor) -> Tensor:
    """Return maps (b, d, h, w) as (b, d, p), with one stride for all positions."""
    if maps.shape[3] > 1 and maps.stride(2) != maps.shape[3] * maps.stride(3):
        maps = maps.contiguous()
    return maps.flatten(2)


def largest_length(features: Tensor, normalize: bool) -> Tensor:
    """Return what keeps operands within the range of fp16: one if their rows have unit length."""
    if normalize:
        return features.new_ones((), dtype=torch.float32)
    # The largest entry times sqrt(d) bounds every length without another pass.
    largest: Tensor = features.abs().amax().float() * features.shape[1] ** 0.5
    return largest.clamp_min(torch.finfo(torch.float32).tiny)


def empty_operand(
    rows: int, channels: int, precision: str, like: Tensor, largest: Tensor
) -> Operand:
    """Return room for an operand."""
    shape = (rows, padded_channels(channels))
    dtype = like.dtype if precision == "raw" else torch.float16
    high = like.new_empty(shape, dtype=dtype)
    low = like.new_empty(shape if precision == "split" else 0, dtype=dtype)
    return Operand(high, low, largest)


def prepare(
    maps: Tensor,
    operand: Operand | None,
    into: Positions,
    largest: Tensor,
    *,
    normalize: bool,
    precision: str = "none",
    audio: Tensor | None = None,
    tau: Tensor | None = None,
    threshold: float = 0.0,
    soft: bool = False,
) -> None:
    """Fill in what the maps (n, d, p) are needed for; tensors that are empty are left out."""
    n, d, positions = maps.shape
    padded, block = map_block(positions)
    empty = into.lengths
    prepare_kernel[(n,)](
        maps,
        empty if audio is None else audio,
        empty if tau is None else tau,
        largest,
        empty if operand is None else operand.high,
        empty if operand is None else operand.low,
        into.lengths,
        into.own_map,
        into.pooled,
        into.sources,
        *maps.stride(),
        0 if audio is None else audio.stride(0),
        threshold,
        POSITIONS=positions,
        POSITIONS_PADDED=padded,
        CHANNELS=d,
        CHANNELS_PADDED=padded_channels(d),
        BLOCK=block,
        NORMALIZE=normalize,
        OPERAND=precision if operand is not None else "none",
        POOLED=into.pooled.numel() > 0,
        SOURCES=into.sources.numel() > 0,
        SOFT=soft,
        num_warps=MAP_WARPS,
    )


def vector_operand(
    vectors: Tensor, largest: Tensor, *, normalize: bool, precision: str
) -> tuple[Operand, Tensor]:
    """Return vectors (m, d) as an operand, and their lengths."""
    m, d = vectors.shape
    operand = empty_operand(m, d, precision, vectors, largest)
    empty = vectors.new_empty(0, dtype=torch.float32)
    lengths = vectors.new_empty(m, 1, dtype=torch.float32)
    into = Positions(lengths, empty, empty, empty)
    prepare(vectors[:, :, None], operand, into, largest, normalize=normalize, precision=precision)
    return operand, lengths


def rows_of(operand: Operand, rows: slice) -> Operand:
    """Return some rows of an operand."""
    low = operand.low[rows] if operand.low.numel() else operand.low
    return Operand(operand.high[rows], low, operand.largest)


def is_operand(maps: Tensor, precision: str) -> bool:
    """Whether maps (n, d, p) are laid out as a raw operand already."""
    return (
        precision == "raw"
        and maps.stride(1) == 1
        and maps.shape[1] % CHANNEL_STEP == 0
        and maps.stride(0) % 8 == 0
        and maps.stride(2) % 8 == 0
        and maps.data_ptr() % 16 == 0
    )


def empty_gradients(
    visual: Tensor, audio: Tensor, need_visual: bool, need_audio: bool
) -> tuple[Tensor, Tensor]:
    """Return room for the gradients that are needed; the others are empty."""
    layout = torch.contiguous_format
    return (
        _maps.empty_maps(visual) if need_visual else visual.new_empty(0),
        torch.empty_like(audio, memory_format=layout) if need_audio else audio.new_empty(0),
    )
