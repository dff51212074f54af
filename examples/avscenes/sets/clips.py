"""Clips: an image file with a sound file, checked once and then read for training or for a test.

A clip that cannot be read is reported with its name and left out; no other clip takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from avscenes.files.errors import UserError, reason_of
from avscenes.media.audio import SAMPLE_RATE, load_wave
from avscenes.media.images import SHORT_SIDE, augmented_frame, load_frame, plain_frame, squeezed
from avscenes.media.specaugment import spec_augment
from avscenes.media.spectrogram import published_spectrogram
from avscenes.media.strong import SHORT_SIDE as STRONG_SIDE
from avscenes.media.strong import strongly_augmented
from avscenes.media.transforms import FNAC, Transform
from avscenes.sets.ids import finder, without_ending
from avscenes.sets.loaders import Key
from avscenes.sets.sampling import generator_for

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
SOUND_SUFFIXES = (".wav", ".flac")


class Clip(NamedTuple):
    """An image and a sound."""

    name: str
    frame: Path
    sound: Path


class Skipped(NamedTuple):
    """A clip that was left out, and why."""

    split: str
    clip: str
    reason: str


class Unusable(UserError):
    """Too many clips cannot be used; `skipped` has all that are known, and why."""

    def __init__(self, message: str, skipped: Sequence[Skipped]) -> None:
        super().__init__(message)
        self.skipped = list(skipped)


def too_many(
    option: str, clips: str, count: int, lost: Sequence[Skipped], max_missing: float
) -> str:
    """Return what to say when more of so many clips cannot be used than may be missing."""
    return (
        f"{option}: {len(lost)} of {count} {clips} cannot be used, more than --max-missing "
        f"{max_missing:g}; first {lost[0].clip}: {lost[0].reason}"
    )


def files_by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by their names without endings, earlier endings before later."""
    found: dict[str, tuple[int, Path]] = {}
    if not folder.is_dir():
        return {}
    for entry in os.scandir(folder):
        name, suffix = os.path.splitext(entry.name)
        if suffix.lower() in suffixes:
            candidate = suffixes.index(suffix.lower()), folder / entry.name
            found[name] = min(candidate, found.get(name, candidate))
    return {name: path for name, (_, path) in found.items()}


def _file_finder(folder: Path, suffixes: Sequence[str]) -> Callable[[str], Path]:
    """Return what finds the file of a clip in a folder, however its id is written."""
    files = files_by_name(folder, suffixes)
    written = finder(files)

    def find(clip: str) -> Path:
        name = written(clip)
        # A file that is missing is reported when it is looked for.
        return folder / f"{without_ending(clip)}{suffixes[0]}" if name is None else files[name]

    return find


def clips_in(root: Path, names: Sequence[str], sounds: Sequence[str] | None = None) -> list[Clip]:
    """Return clips of a folder with `frames` and `audio`, or with both kinds of files side by side.

    Args:
        root: The folder.
        names: Of the images, and of the clips.
        sounds: Names of their sounds, where these are others.
    """
    split = (root / "frames").is_dir()
    frame_folder, sound_folder = (root / "frames", root / "audio") if split else (root, root)
    frame = _file_finder(frame_folder, FRAME_SUFFIXES)
    sound_file = _file_finder(sound_folder, SOUND_SUFFIXES)
    return [
        Clip(name, frame(name), sound_file(sound))
        for name, sound in zip(names, names if sounds is None else sounds, strict=True)
    ]


def _decode(
    clip: Clip, seconds: int, least: int | None = None, place: float = 0.5
) -> tuple[Image.Image, Tensor]:
    if not clip.frame.is_file():
        raise FileNotFoundError(f"no frame {clip.frame.with_suffix('')}.jpg or .png")
    if not clip.sound.is_file():
        raise FileNotFoundError(f"no sound {clip.sound}")
    return load_frame(clip.frame, least), load_wave(clip.sound, seconds, place)


def fault_of(clip: Clip, seconds: int) -> str | None:
    """Return why a clip cannot be used, or None when both of its files can be decoded."""
    try:
        _decode(clip, seconds)
    # Decoders raise whatever a broken file makes them trip over.
    except Exception as error:
        return reason_of(error)
    return None


def check_files(
    split: str, clips: Sequence[Clip], workers: int, transform: Transform = FNAC
) -> list[Skipped]:
    """Decode every clip once and return those that cannot be used, in the order of the list."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = list(
            tqdm(
                pool.map(lambda clip: fault_of(clip, transform.seconds), clips),
                total=len(clips),
                desc=f"checking {split} clips",
                leave=False,
                disable=None,  # where nobody watches
            )
        )
    return [
        Skipped(split, clip.name, fault)
        for clip, fault in zip(clips, faults, strict=True)
        if fault is not None
    ]


def _read(
    clip: Clip, seconds: int, least: int | None = None, place: float = 0.5
) -> tuple[Image.Image, Tensor]:
    """Decode a clip that has been checked."""
    try:
        return _decode(clip, seconds, least, place)
    except Exception as error:
        raise RuntimeError(
            f"clip {clip.name} in {clip.frame.parent} was readable at the start of the run and "
            f"is not any more: {reason_of(error)}"
        ) from error


class RawPairs(Dataset[tuple[Tensor, Tensor]]):
    """Images, uint8 [3, size, size], and samples at 16 kHz, [n], for towers of one's own."""

    def __init__(self, clips: Sequence[Clip], size: int, seconds: int) -> None:
        self.files = list(clips)
        self.size = size
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image, wave = _read(self.files[row], self.seconds)
        return squeezed(image, self.size), wave.float()


def _spectrogram(wave: Tensor) -> Tensor:
    return published_spectrogram(wave, SAMPLE_RATE).float().unsqueeze(0)


class ClipPairs(Dataset[tuple[Tensor, Tensor]]):
    """Images [3, 224, 224] and spectrograms [1, 257, frames] of clips that have been checked."""

    def __init__(self, clips: Sequence[Clip], seed: int, transform: Transform = FNAC) -> None:
        self.files = list(clips)
        self.clips = [clip.name for clip in clips]
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        if isinstance(key, int):
            # In a test every pixel is decoded; training, which crops at random, can do with fewer.
            image, wave = _read(self.files[key], self.transform.seconds)
            return plain_frame(image), _spectrogram(wave)
        clip, generator = self.files[key[1]], generator_for(self.seed, *key)
        if self.transform.strong:
            place = float(torch.rand((), generator=generator))
            image, wave = _read(clip, self.transform.seconds, STRONG_SIDE, place)
            return strongly_augmented(image, generator), _spectrogram(wave)
        image, wave = _read(clip, self.transform.seconds, SHORT_SIDE)
        spectrogram = _spectrogram(wave)
        pixels = augmented_frame(image, generator)
        if self.transform.widest_mask:
            spectrogram = spec_augment(
                spectrogram,
                generator,
                widest=self.transform.widest_mask,
                legacy=self.transform.legacy_masks,
            )
        return pixels, spectrogram
