"""What a call is about, and the blocks of images that it is worked through in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast.distributed import Peers, all_reduce
from avcontrast.ops._settings import Settings
from avcontrast.ops.triton.operands import decided, flat, largest_length
from avcontrast.ops.triton.tiles import INTERPRETED, padded_channels

WORKSPACE_BYTES = 2**28
"""Room for the operands of a block of images; a share of the maps if these are smaller."""

LEAST_BYTES = 2**24
"""Temporaries that even a small batch may have."""

BLOCK_ROWS = 32 if INTERPRETED else 128
"""Blocks of images are multiples of this, as tiles are its divisors."""


class Batch(NamedTuple):
    """What a call is about.

    Args:
        maps: own images.  [n, d, p].
        audio: of all processes.  [b, d].
        tau: the temperature, in fp32.
        largest_map: what operands of visual features are divided by.
        largest_audio: the same of audio features.
        settings: see :class:`Settings`.
        peers: the processes that share the batch.
        precision: of the product with the maps.
        ignore: pairs that the caller wants in no cross entropy.  [n, b] bool.
    """

    maps: Tensor
    audio: Tensor
    tau: Tensor
    largest_map: Tensor
    largest_audio: Tensor
    settings: Settings
    peers: Peers
    precision: str
    ignore: Tensor | None = None

    @property
    def own(self) -> slice:
        """Where the samples of this process lie."""
        return self.peers.own(len(self.maps))

    def rows(self, block: slice) -> slice:
        """Return where a block of own images lies among the samples of all processes."""
        return slice(self.own.start + block.start, self.own.start + block.stop)

    @property
    def leaves_out(self) -> bool:
        """Whether some pairs may be left out of the cross entropies."""
        return self.ignore is not None or self.settings.eliminates

    @property
    def match(self) -> str:
        """Along what the match is a softmax of its own, because cross entropies leave pairs out."""
        if not (self.leaves_out and self.settings.suppresses):
            return "none"
        return "columns" if self.settings.anchor == "audio" else "rows"

    @property
    def gram_precision(self) -> str:
        """Precision of all other products."""
        return "split" if self.precision == "split" else "single"


def batch_of(
    visual: Tensor,
    audio: Tensor,
    temperature: Tensor,
    settings: Settings,
    peers: Peers,
    precision: str,
    ignore: Tensor | None = None,
) -> Batch:
    """Return what a call is about; ``audio`` is that of all processes."""
    largest_map = largest_length(visual, settings.normalize)
    return Batch(
        flat(visual),
        audio,
        temperature.to(torch.float32),
        all_reduce(largest_map, peers, highest=True),
        largest_length(audio, settings.normalize),
        settings,
        peers,
        decided(precision),
        ignore,
    )


def image_blocks(batch: Batch, bytes_each: int, budget: int) -> Iterator[slice]:
    """Cut the own images into blocks whose temporaries fit into a budget."""
    n = len(batch.maps)
    size = max(budget // bytes_each // BLOCK_ROWS, 1) * BLOCK_ROWS
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def operand_blocks(batch: Batch) -> Iterator[slice]:
    """Cut the own images so that their operands take no more bytes than the maps have numbers."""
    _, d, positions = batch.maps.shape
    each = positions * padded_channels(d) * (4 if batch.precision == "split" else 2)
    return image_blocks(batch, each, min(WORKSPACE_BYTES, max(LEAST_BYTES, batch.maps.numel())))


def row_blocks(batch: Batch) -> Iterator[slice]:
    """Cut the own images so that four rows of fp32 for each take no more than 2 b x b bytes."""
    b = len(batch.audio)
    operands = next(iter(operand_blocks(batch))).stop
    rows = next(iter(image_blocks(batch, 16 * b, max(LEAST_BYTES, 2 * b * b)))).stop
    size = min(operands, rows)
    return image_blocks(batch, 1, size)


def ignored_bytes(batch: Batch, block: slice, otherwise: Tensor) -> Tensor:
    """Return which pairs of a block the caller wants left out, as bytes, if there are any."""
    return otherwise if batch.ignore is None else batch.ignore[block].contiguous().view(torch.uint8)
