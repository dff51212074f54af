"""Reads VGG-Sound and VGG-SS in their published layout.

That is `frames/<id>.jpg` or `.png`, `audio/<id>.wav`, lists of ids and `vggss.json`.
A clip that cannot be read is reported with its name and left out; no other clip takes its place.
"""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import resample_poly
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from avscenes.augmentation import mask_spectrogram
from avscenes.datasets import Key
from avscenes.errors import UserError
from avscenes.sampling import generator_for
from avscenes.spectrogram import published_spectrogram

SAMPLE_RATE = 16_000
SECONDS = 3
IMAGE_SIZE = 224
_RESIZED = 246
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


class Annotation(NamedTuple):
    """What `vggss.json` says about one clip."""

    class_name: str
    boxes: list[list[float]]


class Skipped(NamedTuple):
    """A clip that was left out, and why."""

    split: str
    clip: str
    reason: str


def read_ids(option: str, path: Path) -> list[str]:
    """Read a list of clip ids, the first column of a text or CSV file; repeated ids count once.

    Raises:
        UserError: When the file cannot be read or holds no id.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            ids = [row[0].strip() for row in csv.reader(lines) if row and row[0].strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{option}: cannot read {path}: {_reason(error)}") from error
    if not ids:
        raise UserError(f"{option}: {path} holds no ids")
    return list(dict.fromkeys(ids))


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read `vggss.json`: a list of `{"file": id, "class": name, "bbox": [[x0, y0, x1, y1], ...]}`.

    Raises:
        UserError: When the file cannot be read or has another form.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--annotations: cannot read {path}: {_reason(error)}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"--annotations: {path} must hold a list of clips")
    annotations = {}
    for number, entry in enumerate(entries):
        try:
            boxes = [[float(value) for value in box] for box in entry["bbox"]]
            whole = all(len(box) == 4 and all(map(math.isfinite, box)) for box in boxes)
            annotation = Annotation(str(entry["class"]), boxes)
            clip = str(entry["file"])
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise UserError(
                f"--annotations: entry {number} of {path} is not of the form "
                '{"file": id, "class": name, "bbox": [[x0, y0, x1, y1], ...]}'
            )
        annotations[clip] = annotation
    return annotations


def check_layout(option: str, root: Path) -> None:
    """Raise `UserError` unless `root` has the folders `frames` and `audio`."""
    for folder in (root, root / "frames", root / "audio"):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}")


def frame_path(root: Path, clip: str) -> Path:
    """Return where the frame of a clip lies, `.jpg` before `.png`.

    Raises:
        FileNotFoundError: When there is none.
    """
    for suffix in _FRAME_SUFFIXES:
        path = root / "frames" / f"{clip}{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"no frame {root / 'frames' / clip}.jpg or .png")


def load_frame(path: Path) -> Image.Image:
    """Decode an image of any colour mode as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def load_wave(path: Path) -> Tensor:
    """Return the central 3 s of a file as mono at 16 kHz, [48000]; shorter clips are repeated.

    Raises:
        ValueError: When there are no samples, or samples that are not finite.
    """
    with soundfile.SoundFile(path) as file:
        rate, wanted = file.samplerate, SECONDS * file.samplerate
        file.seek(max(0, (file.frames - wanted) // 2))
        wave = file.read(wanted, dtype="float64", always_2d=True).mean(axis=1)
    if not wave.size:
        raise ValueError("no samples")
    if not np.isfinite(wave).all():
        raise ValueError("samples that are not finite")
    wave = np.resize(wave.clip(-1, 1), wanted)
    shared = math.gcd(rate, SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        wave = resample_poly(wave, SAMPLE_RATE // shared, rate // shared)
    return torch.from_numpy(np.ascontiguousarray(wave[: SECONDS * SAMPLE_RATE]))


def _pixels(image: Image.Image) -> Tensor:
    array: NDArray[np.uint8] = np.array(image)
    return (torch.from_numpy(array).movedim(-1, 0).float() / 255 - _MEAN) / _DEVIATION


def plain_frame(image: Image.Image) -> Tensor:
    """Return an image squeezed to 224 x 224 and normalised, [3, 224, 224]."""
    return _pixels(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def augmented_frame(image: Image.Image, generator: torch.Generator) -> Tensor:
    """Scale the short side to 246 pixels, crop at random and mirror half of the time."""
    scale = _RESIZED / min(image.size)
    width, height = (max(_RESIZED, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    x = int(torch.randint(width - IMAGE_SIZE + 1, (), generator=generator))
    y = int(torch.randint(height - IMAGE_SIZE + 1, (), generator=generator))
    pixels = _pixels(image.crop((x, y, x + IMAGE_SIZE, y + IMAGE_SIZE)))
    return pixels.flip(-1) if torch.rand((), generator=generator) < 0.5 else pixels


class ClipDataset(Dataset[tuple[Tensor, Tensor]]):
    """Frames [3, 224, 224] and spectrograms [1, 257, 200] of clips that have been checked."""

    def __init__(self, root: Path, clips: Sequence[str], seed: int) -> None:
        self.root = root
        self.clips = list(clips)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index = key if isinstance(key, int) else key[1]
        clip = self.clips[index]
        try:
            image = load_frame(frame_path(self.root, clip))
            wave = load_wave(self.root / "audio" / f"{clip}.wav")
        except _BROKEN as error:
            raise RuntimeError(
                f"clip {clip} in {self.root} was readable at the start of the run and is not any "
                f"more: {_reason(error)}"
            ) from error
        spectrogram = published_spectrogram(wave, SAMPLE_RATE).float().unsqueeze(0)
        if isinstance(key, int):
            return plain_frame(image), spectrogram
        generator = generator_for(self.seed, *key)
        return augmented_frame(image, generator), mask_spectrogram(spectrogram, generator, widest=9)


# What Pillow and soundfile raise for files that are missing, cut short or of another kind.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
    soundfile.LibsndfileError,
)


def _reason(error: Exception) -> str:
    """Return the first line of what an exception says, without the path where it can."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def _fault(root: Path, clip: str) -> str | None:
    """Return why a clip cannot be used, or None when both of its files can be decoded."""
    audio = root / "audio" / f"{clip}.wav"
    try:
        load_frame(frame_path(root, clip))
        if not audio.is_file():
            return f"no sound {audio}"
        load_wave(audio)
    except _BROKEN as error:
        return _reason(error)
    return None


def check_clips(split: str, root: Path, clips: Iterable[str], workers: int) -> list[Skipped]:
    """Decode every clip once and return those that cannot be used, in the order of the list."""
    clips = list(clips)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = list(
            tqdm(
                pool.map(lambda clip: _fault(root, clip), clips),
                total=len(clips),
                desc=f"checking {split} clips",
                leave=False,
                disable=None,  # where nobody watches
            )
        )
    return [
        Skipped(split, clip, fault)
        for clip, fault in zip(clips, faults, strict=True)
        if fault is not None
    ]
