"""Random changes of training samples, drawn from a generator that the caller seeds per sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scale_images(images: Tensor) -> Tensor:
    """Turn uint8 images into floats of about zero mean and unit spread."""
    return images.float().div(255).sub(0.45).div(0.25)


def flip_and_shift(image: Tensor, generator: torch.Generator, margin: int = 6) -> Tensor:
    """Mirror an image [c, h, w] half of the time and shift it by up to `margin` pixels each way."""
    if torch.rand((), generator=generator) < 0.5:
        image = image.flip(-1)
    return shift(image, generator, margin)


def shift(image: Tensor, generator: torch.Generator, margin: int) -> Tensor:
    """Shift an image [c, h, w] by up to `margin` pixels each way; what comes in is mirrored."""
    y, x = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    padded = F.pad(image, (margin,) * 4, mode="reflect")
    return padded[..., y : y + height, x : x + width]
