"""Decodes images of any kind as upright RGB and makes the published inputs of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

IMAGE_SIZE = 224
SHORT_SIDE = 246
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def load_frame(path: Path, least: int | None = None) -> Image.Image:
    """Decode an image of any colour mode as RGB, turned as its EXIF data say.

    What is transparent becomes white, and 16 bits of grey become 8.

    Args:
        path: The file.
        least: Pixels that the sides need. A JPEG may then come out at half, a quarter or an
            eighth of its size, which takes less time; other images never do.
    """
    with Image.open(path) as image:
        if least is not None:
            image.draft(None, (least, least))
        return _as_rgb(ImageOps.exif_transpose(image))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip what is above 255 instead of scaling it.
        wide: NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("RGB")


def load_mask(path: Path, size: int = IMAGE_SIZE) -> Tensor:
    """Return a segmentation mask as 0 and 1, float32 [size, size]: any colour but the first is 1.

    The values of a palette image are the numbers of its objects, whatever their colours.
    """
    with Image.open(path) as image:
        flat = image if image.mode in ("1", "L", "P") else image.convert("RGB").convert("L")
        flat = flat.resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(flat) > 0).float()


def _pixels(image: Image.Image) -> Tensor:
    array: NDArray[np.uint8] = np.array(image)
    return (torch.from_numpy(array).movedim(-1, 0).float() / 255 - _MEAN) / _DEVIATION


def plain_frame(image: Image.Image) -> Tensor:
    """Return an image squeezed to 224 x 224 and normalised, [3, 224, 224]."""
    return _pixels(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def augmented_frame(image: Image.Image, generator: torch.Generator) -> Tensor:
    """Scale the short side to 246 pixels, crop at random and mirror half of the time."""
    scale = SHORT_SIDE / min(image.size)
    width, height = (max(SHORT_SIDE, int(side * scale)) for side in image.size)
    x = int(torch.randint(width - IMAGE_SIZE + 1, (), generator=generator))
    y = int(torch.randint(height - IMAGE_SIZE + 1, (), generator=generator))
    # What the crop leaves out is not resized; rounding apart, the pixels are the same.
    across, down = image.width / width, image.height / height
    box = (
        x * across,
        y * down,
        min((x + IMAGE_SIZE) * across, image.width),
        min((y + IMAGE_SIZE) * down, image.height),
    )
    pixels = _pixels(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box))
    return pixels.flip(-1) if torch.rand((), generator=generator) < 0.5 else pixels
