"""Image and audio towers as functions of raw inputs: those of a run, or anybody's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.signal import resample_poly
from torch import Tensor

from avscenes.media.audio import SAMPLE_RATE, SECONDS
from avscenes.media.augmentation import scale_images
from avscenes.media.images import IMAGE_SIZE, normalised
from avscenes.media.spectrogram import log_frequency_spectrogram, published_spectrogram
from avscenes.scenes import sounds
from avscenes.scenes.scene import SIZE
from avscenes.training.trained import Trained


class Towers(NamedTuple):
    """Two functions, and the inputs that they take.

    They are called in batches and without gradients, and take care of devices themselves.
    """

    visual: Callable[[Tensor], Tensor]  # uint8 [b, 3, image_size, image_size] to [b, d, h, w]
    audio: Callable[[Tensor], Tensor]  # samples at 16 kHz in [-1, 1], [b, n], to [b, d]
    image_size: int = IMAGE_SIZE  # to which an image of any shape is squeezed
    seconds: int = SECONDS  # of sound


def check_encoded(seen: Tensor, heard: Tensor) -> None:
    """Raise `ValueError` unless images became maps and sounds became vectors."""
    if seen.ndim != 4:
        raise ValueError(
            f"images must be encoded as maps (b, d, h, w), got {tuple(seen.shape)}; patch tokens "
            "become maps by tokens.transpose(1, 2).unflatten(2, (h, w))"
        )
    if heard.ndim != 2:
        raise ValueError(
            f"sounds must be encoded as vectors (b, d), got {tuple(heard.shape)}; a sequence of "
            "frames becomes a vector by its mean over time"
        )


def as_fed(trained: Trained, images: Tensor) -> Tensor:
    """Return images, uint8 [b, 3, size, size], as the image encoder of a run takes them."""
    return scale_images(images) if trained.settings.dataset == "synthetic" else normalised(images)


def trained_towers(trained: Trained) -> Towers:
    """Return the encoders of a run with what turns files into their inputs."""
    like = next(trained.visual.parameters())
    scenes = trained.settings.dataset == "synthetic"

    def see(images: Tensor) -> Tensor:
        maps: Tensor = trained.visual(as_fed(trained, images).to(like))
        return maps

    def hear(waves: Tensor) -> Tensor:
        spectrograms = (
            scene_sound(waves) if scenes else published_spectrogram(waves.double(), SAMPLE_RATE)
        )
        vectors: Tensor = trained.audio(spectrograms.unsqueeze(-3).to(like))
        return vectors

    return Towers(see, hear, SIZE if scenes else IMAGE_SIZE)


def scene_sound(waves: Tensor) -> Tensor:
    """Return spectrograms of the middle second of sounds [..., n], at the rate of the scenes."""
    slow = resample_poly(waves.numpy(), sounds.SAMPLE_RATE, SAMPLE_RATE, axis=-1)
    start = (slow.shape[-1] - sounds.LENGTH) // 2
    middle = torch.from_numpy(slow[..., start : start + sounds.LENGTH].copy()).float()
    return log_frequency_spectrogram(middle, sounds.SAMPLE_RATE)
