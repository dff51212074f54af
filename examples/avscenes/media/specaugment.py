"""Blanks a band of frequencies and a stretch of time of a training spectrogram."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# What `published_spectrogram` gives for digital silence.
SILENCE = math.log(1e-7) / 12


def spec_augment(
    spectrogram: Tensor,
    generator: torch.Generator,
    *,
    widest: int = 9,
    fill: str = "mean",
    legacy: bool = False,
) -> Tensor:
    """Return a spectrogram [1, frequencies, frames] with one band and one stretch of time blanked.

    Each is 0 to `widest` wide and lies anywhere on its own axis. The released FNAC code
    draws the start of the band from the frames and that of the stretch from the frequencies, so
    that with 257 frequencies and 200 frames the highest bins are never masked and three in ten
    stretches mask nothing; and it fills with 0, which is louder than any sound.

    Args:
        spectrogram: As `published_spectrogram` returns it; is not changed.
        generator: What the widths and places are drawn from.
        widest: Largest number of rows and of columns that are blanked.
        fill: "mean" of the spectrogram, or "silence"; does not matter for `legacy`.
        legacy: Do as the released code does.

    Raises:
        ValueError: `fill` is neither.
    """
    if fill not in ("mean", "silence"):
        raise ValueError(f"fill must be 'mean' or 'silence', got {fill!r}")
    masked = spectrogram.clone()
    level = 0.0 if legacy else SILENCE if fill == "silence" else spectrogram.mean().item()
    for axis, other in ((-2, -1), (-1, -2)):
        length = masked.shape[axis]
        width = int(torch.randint(widest + 1, (), generator=generator))
        if legacy:
            start = int(torch.randint(masked.shape[other], (), generator=generator))
            start, width = min(start, length), max(0, min(width, length - start))
        else:
            width = min(width, length)
            start = int(torch.randint(length - width + 1, (), generator=generator))
        masked.narrow(axis, start, width).fill_(level)
    return masked
