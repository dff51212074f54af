"""Chunks of large batches, and the precision of sums."""

from __future__ import annotations

import torch
from torch import Tensor

# kthvalue copies its input and makes int64 indices of it: up to half a gigabyte for a chunk.
VALUES_PER_CHUNK = 2**24


def chunks(maps: Tensor) -> tuple[Tensor, ...]:
    """Split a batch of maps so that each part has about ``VALUES_PER_CHUNK`` values."""
    height, width = maps.shape[1:]
    return torch.split(maps.detach(), max(1, VALUES_PER_CHUNK // (height * width)))


def share(hits: Tensor) -> Tensor:
    """Return the share of ``True`` as a scalar."""
    return hits.to(wide(hits.device)).mean()


def wide(device: torch.device) -> torch.dtype:
    """Return the dtype of sums: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
