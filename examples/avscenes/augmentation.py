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
    y, x = torch.randint(2 * margin + 1, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    padded = F.pad(image, (margin,) * 4, mode="reflect")
    return padded[..., y : y + height, x : x + width]


def mask_spectrogram(spectrogram: Tensor, generator: torch.Generator, widest: int) -> Tensor:
    """Return a spectrogram [1, frequencies, frames] with one band and one stretch of time blanked.

    Each is 0 to `widest` wide, starts anywhere on its own axis and is filled with the mean. (The
    released FNAC code mixes up the axes and fills with a value louder than any sound.)
    """
    masked = spectrogram.clone()
    mean = spectrogram.mean()
    for axis in (-2, -1):
        width = int(torch.randint(widest + 1, (), generator=generator))
        width = min(width, masked.shape[axis])
        start = int(torch.randint(masked.shape[axis] - width + 1, (), generator=generator))
        masked.narrow(axis, start, width).fill_(mean)
    return masked
