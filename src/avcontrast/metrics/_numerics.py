"""Chunks of large batches, and the precision of sums."""

from __future__ import annotations

import torch
from torch import Tensor

# kthvalue copies its input and makes int64 indices of it. On a CPU these should stay in its caches;
# an accelerator wants many rows at once, which may then take half a gigabyte.
VALUES_PER_CHUNK = 2**20
VALUES_PER_CHUNK_ON_ACCELERATORS = 2**24


def rows_at_once(values: int, device: torch.device) -> int:
    """Return how many rows of so many values make a chunk."""
    on_cpu = device.type == "cpu"
    return max(1, (VALUES_PER_CHUNK if on_cpu else VALUES_PER_CHUNK_ON_ACCELERATORS) // values)


def chunks(maps: Tensor) -> tuple[Tensor, ...]:
    """Split a batch of maps into parts of a size that suits their device."""
    height, width = maps.shape[1:]
    return torch.split(maps.detach(), rows_at_once(height * width, maps.device))


def share(hits: Tensor) -> Tensor:
    """Return the share of ``True`` as a scalar."""
    return hits.to(wide(hits.device)).mean()


def wide(device: torch.device) -> torch.dtype:
    """Return the dtype of sums: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
