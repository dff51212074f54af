"""The image augmentation of SimCLR, with the strengths of MoCo v2."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from avscenes.media.images import IMAGE_SIZE, normalised

_SHARES = (0.2, 1.0)  # of the area of the image that a crop has
_RATIOS = (3 / 4, 4 / 3)
SHORT_SIDE = math.ceil(IMAGE_SIZE / math.sqrt(_SHARES[0]))  # of which the smallest crop is 224
_JITTERED, _GREY, _BLURRED, _MIRRORED = 0.8, 0.2, 0.5, 0.5  # how often
_STRENGTH, _HUE = 0.4, 0.1  # of brightness, contrast and saturation; of hue, in turns
_SIGMAS = (0.1, 2.0)  # of the blur, in pixels
_LUMA = torch.tensor([0.299, 0.587, 0.114])
# From red, green and blue to luma and two axes of colour (YIQ), in which hue is an angle.
_TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)


def strongly_augmented(image: Image.Image, generator: torch.Generator) -> Tensor:
    """Return a random crop [3, 224, 224] with other colours, perhaps grey, blurred or mirrored."""
    box = _crop(image.width, image.height, generator)
    small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box)
    pixels = torch.from_numpy(np.array(small)).movedim(-1, 0).float() / 255
    if _happens(_JITTERED, generator):
        pixels = _other_colours(pixels, generator)
    if _happens(_GREY, generator):
        pixels = _grey(pixels).expand(3, -1, -1)
    if _happens(_BLURRED, generator):
        pixels = _blurred(pixels, _between(*_SIGMAS, generator))
    if _happens(_MIRRORED, generator):
        pixels = pixels.flip(-1)
    return normalised(pixels * 255)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _happens(often: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < often


def _crop(width: int, height: int, generator: torch.Generator) -> tuple[float, float, float, float]:
    """Return a random box, as large and as wide as the image has room for."""
    area = width * height * _between(*_SHARES, generator)
    ratio = math.exp(_between(math.log(_RATIOS[0]), math.log(_RATIOS[1]), generator))
    across = min(width, math.sqrt(area * ratio))
    down = min(height, math.sqrt(area / ratio))
    x, y = _between(0, width - across, generator), _between(0, height - down, generator)
    return x, y, min(x + across, width), min(y + down, height)


def _grey(pixels: Tensor) -> Tensor:
    return torch.einsum("c,chw->hw", _LUMA, pixels).unsqueeze(0)


def _other_colours(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue of an image [3, h, w] in [0, 1]."""
    light, spread, colour = (_between(1 - _STRENGTH, 1 + _STRENGTH, generator) for _ in range(3))
    pixels = (pixels * light).clamp(0, 1)
    pixels = torch.lerp(_grey(pixels).mean(), pixels, spread).clamp(0, 1)
    pixels = torch.lerp(_grey(pixels).expand_as(pixels), pixels, colour).clamp(0, 1)
    angle = 2 * math.pi * _between(-_HUE, _HUE, generator)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    whole = torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    return torch.einsum("dc,chw->dhw", whole, pixels).clamp(0, 1)


def _blurred(pixels: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(pixels.unsqueeze(1), (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]
