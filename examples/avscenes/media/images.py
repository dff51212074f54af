"""Decodes images of any kind as upright RGB and makes the published inputs of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

IMAGE_SIZE = 224
SHORT_SIDE = 246
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# How an image is turned upright, by the orientation in its EXIF data.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def load_frame(path: Path, least: int | None = None) -> Image.Image:
    """Decode an image of any colour mode as RGB, turned as its EXIF data say.

    What is transparent becomes white, and 16 bits of grey become 8. Grey of 32 bits has to lie
    between 0 and 255 or, with a decimal point, between 0 and 1, which becomes 0 and 255.

    Args:
        path: The file.
        least: Pixels that the sides need. A JPEG may then come out at half, a quarter or an
            eighth of its size, which takes less time; other images never do.

    Raises:
        ValueError: When the range of grey of 32 bits is not known.
    """
    with Image.open(path) as image:
        if least is not None:
            image.draft(None, (least, least))
        image.load()
        # Of the EXIF data the orientation alone is read: other tags may be broken.
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = _as_rgb(image)
        return upright if turn is None else upright.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return wider grey as 8 bits; Pillow would clip what is above 255 instead of scaling it."""
    values: NDArray[np.generic] = np.asarray(image)
    # Before version 11, Pillow gives the 16 bits of a PNG as 32.
    if image.mode.startswith("I;16") or image.format == "PNG":
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray((values.astype(np.float64) * 255).round().astype(np.uint8))
    # A comparison with NaN is false.
    if not (low >= 0 and high <= 255):
        known = "0 to 1 or 0 to 255" if image.mode == "F" else "0 to 255"
        raise ValueError(f"grey of 32 bits from {low:g} to {high:g}; expected {known}")
    return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("RGB")


def load_mask(path: Path, size: int = IMAGE_SIZE) -> Tensor:
    """Return a segmentation mask as 0 and 1, float32 [size, size]: any colour but the first is 1.

    The first colour is the one whose values are all 0: black, or the first colour of a palette,
    whose values are the numbers of its objects, whatever their colours. Where a mask is wholly
    transparent in some places only, these are 0 and all others 1, whatever their colours.

    Raises:
        ValueError: When a mask of floating-point numbers has some that are none.
    """
    with Image.open(path) as file:
        image = _without_lost_bits(path, file)
        alpha = _alpha(image)
        objects = _not_of_first_colour(image) if alpha is None else alpha > 0
        flat = Image.fromarray(objects.astype(np.uint8))
        flat = flat.resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(flat)).float()


def _without_lost_bits(path: Path, image: ImageFile.ImageFile) -> Image.Image:
    """Return an image whose values are 0 only where those of the file are.

    Of colours with 16 bits Pillow keeps the upper eight.
    """
    if len(image.getbands()) == 1 or not any(";16" in str(tile[3]) for tile in image.tile):
        return image
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    plane, bands = frame.planes[0], len(frame.format.components)
    if len(frame.planes) > 1 or any(part.bits != 16 for part in frame.format.components):
        raise ValueError(f"a mask with 16 bits a colour in an unknown order ({frame.format.name})")
    order = ">u2" if frame.format.is_big_endian else "<u2"
    rows = np.frombuffer(bytes(plane), order).reshape(plane.height, -1)[:, : plane.width * bands]
    values = rows.reshape(plane.height, plane.width, bands)
    return Image.fromarray(np.where(values < 256, values > 0, values >> 8).astype(np.uint8))


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return how opaque each pixel is, or None where that tells no pixels apart."""
    if image.mode.startswith("I;16") and "transparency" in image.info:
        # Pillow has no such pixels with transparency.
        alpha = np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    else:
        return None
    some = alpha.min() == 0 < alpha.max()
    colours = _values(image)
    # An image that is transparent all over has no objects, unless colours tell them apart.
    none = alpha.max() == 0 and (colours == colours[:1, :1]).all()
    return alpha if some or none else None


def _values(image: Image.Image) -> NDArray[np.generic]:
    """Return the stored values of grey and of palettes, or else red, green and blue."""
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    plain = image.mode in ("1", "L", "P", "I", "F") or image.mode.startswith("I;16")
    return np.asarray(image if plain else image.convert("RGB"))


def _not_of_first_colour(image: Image.Image) -> NDArray[np.bool_]:
    values = _values(image)
    if image.mode == "F" and np.isnan(values).any():
        raise ValueError("a mask with values that are not numbers")
    objects: NDArray[np.bool_] = np.any(np.atleast_3d(values) != 0, axis=-1)
    return objects


def _as_tensor(image: Image.Image) -> Tensor:
    array: NDArray[np.uint8] = np.array(image)
    return torch.from_numpy(array).movedim(-1, 0)


def squeezed(image: Image.Image, size: int = IMAGE_SIZE) -> Tensor:
    """Return an image squeezed to a square, uint8 [3, size, size]."""
    return _as_tensor(image.resize((size, size), Image.Resampling.BICUBIC))


def normalised(images: Tensor) -> Tensor:
    """Return images, uint8 [..., 3, height, width], as the published image networks are fed."""
    return (images.float() / 255 - _MEAN) / _DEVIATION


def plain_frame(image: Image.Image) -> Tensor:
    """Return an image squeezed to 224 x 224 and normalised, [3, 224, 224]."""
    return normalised(squeezed(image))


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
    crop = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box)
    pixels = normalised(_as_tensor(crop))
    return pixels.flip(-1) if torch.rand((), generator=generator) < 0.5 else pixels
