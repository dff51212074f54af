"""How each kernel cuts its matrices, by architecture: a table, no search at run time.

A search would stall the first steps and let the timing of one day decide the last bits of the next.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether the kernels run in Triton's interpreter, which needs no GPU."""

CHANNEL_STEP = 16 if INTERPRETED else 64
"""Operands are padded with zeros to a multiple of this number of channels."""


class Tile(NamedTuple):
    """A tile of the result, the depth of one step of the product, and how a GPU runs it."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3

    def sizes(self) -> dict[str, int]:
        """Return what a kernel is told about its tile."""
        return {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}

    def options(self) -> dict[str, int]:
        """Return these sizes and how to launch."""
        return {**self.sizes(), "num_warps": self.warps, "num_stages": self.stages}


# From the largest tile, which moves the fewest bytes, to one that fills the card at small batches.
HOPPER = {
    "maximum raw": (Tile(64, 128, 64, 4, 4), Tile(64, 64, 64, 4, 4), Tile(64, 32, 64, 4, 4)),
    "maximum single": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 4), Tile(64, 32, 64, 4, 4)),
    "maximum split": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(64, 32, 32, 4, 3)),
    "statistics single": (Tile(64, 64, 64, 4, 3),),
    "statistics split": (Tile(64, 64, 32, 4, 3),),
    "matrices single": (Tile(64, 32, 64, 8, 3),),
    "matrices split": (Tile(64, 16, 32, 4, 3),),
    "to vectors single": (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3)),
    "to vectors split": (Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 3)),
    "to maps single": (Tile(64, 128, 64, 8, 3),),
    "to maps split": (Tile(64, 128, 64, 8, 2),),
    "product single": (Tile(64, 64, 64, 4, 3),),
    "product split": (Tile(64, 64, 32, 4, 3),),
}
AMPERE = {
    "maximum raw": (Tile(64, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(32, 64, 32, 4, 3)),
    "maximum single": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(32, 64, 32, 4, 3)),
    "maximum split": (Tile(64, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(32, 64, 32, 4, 2)),
    "statistics single": (Tile(64, 64, 32, 4, 3),),
    "statistics split": (Tile(64, 64, 32, 4, 2),),
    "matrices single": (Tile(32, 32, 64, 8, 2),),
    "matrices split": (Tile(32, 16, 32, 4, 2),),
    "to vectors single": (Tile(64, 128, 32, 8, 3),),
    "to vectors split": (Tile(64, 128, 32, 8, 2),),
    "to maps single": (Tile(64, 128, 32, 8, 3),),
    "to maps split": (Tile(64, 128, 32, 8, 2),),
    "product single": (Tile(64, 64, 32, 4, 3),),
    "product split": (Tile(64, 64, 32, 4, 2),),
}
# Sums lie in tensor memory, of which a block may use 512 columns.
BLACKWELL = {
    **HOPPER,
    "maximum raw": (Tile(64, 128, 64, 8, 4), *HOPPER["maximum raw"][1:]),
    "maximum split": HOPPER["maximum split"][1:],
    "matrices split": (Tile(64, 16, 32, 8, 3),),
}
# Without tensor memory or wgmma: sums lie in registers.
BLACKWELL_RTX = {
    **HOPPER,
    "maximum raw": (Tile(64, 128, 64, 8, 3), *HOPPER["maximum raw"][1:]),
    "maximum split": AMPERE["maximum split"],
    "to vectors split": AMPERE["to vectors split"],
}
TILES = {80: AMPERE, 90: HOPPER, 100: BLACKWELL, 120: BLACKWELL_RTX}
"""By the lowest compute capability, times ten, that they are for."""

SMALL = Tile(16, 16, 16)
"""For the interpreter: small enough that small tensors have several tiles."""


def multiprocessors(device: torch.device) -> int:
    """Return how many programs a card runs side by side."""
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def tile_for(kernel: str, rows: int, columns: int, device: torch.device) -> Tile:
    """Return the largest tile with which a kernel fills the card, or else the smallest.

    Args:
        kernel: name and precision, a key of the tables.
        rows: of the result.
        columns: of the result.
        device: where it runs.
    """
    if device.type != "cuda":
        return SMALL
    major, minor = torch.cuda.get_device_capability(device)
    table = TILES[max(key for key in TILES if key <= 10 * major + minor)][kernel]
    wanted = multiprocessors(device)
    for tile in table:
        if -(-rows // tile.rows) * -(-columns // tile.columns) >= wanted:
            return tile
    return table[-1]


def padded_channels(channels: int) -> int:
    """Return the number of channels of an operand."""
    return -(-channels // CHANNEL_STEP) * CHANNEL_STEP


MAP_WARPS = 8
"""Of the programs that read the whole map of an image."""


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def along_columns(positions: int) -> int:
    """Return how many pairs the sums over the positions of an image take at once."""
    return max(16, min(128, 8192 // power_of_two(positions)))


def map_block(positions: int, least: int = 16) -> tuple[int, int]:
    """Return how many positions, padded, and channels a program that reads a map takes at once.

    Fewer than the ``least`` channels would leave a row of a map in channels-last layout in parts.
    """
    padded = power_of_two(positions)
    return padded, max(least, min(128, 4096 // padded))


FINISH_LEAST = 4
"""Channels at once where gradients fill the registers as well."""
