"""Decodes sound files of any rate as the mono window at 16 kHz that the encoders hear."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from avscenes.media.lengths import missing_bytes

SAMPLE_RATE = 16_000
SECONDS = 3
# Beyond these a header is broken, and would ask for gigabytes.
_RATES = range(1_000, 768_001)
_MOST_CHANNELS = 64
# Of MP3 and Vorbis, also in WAV, the number of samples is estimated from the bit rate: it is too
# high by what the encoder adds at both ends, at most two frames, and by a share for rounding.
_ESTIMATED = {"MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS", "OPUS"}
_MOST_ADDED = 2 * 1_152
_MOST_ROUNDED = 0.01


def _window(
    file: soundfile.SoundFile, frames: int, wanted: int, place: float
) -> tuple[NDArray[np.float64], int]:
    """Return a part of a sound that has `frames` samples, and how many it should have given."""
    start = int(max(0, frames - wanted) * place)
    file.seek(start)
    wave = file.read(wanted, dtype="float64", always_2d=True).mean(axis=1)
    return wave, min(wanted, frames - start)


def load_wave(path: Path, seconds: int = SECONDS, place: float = 0.5) -> Tensor:
    """Return a part of a sound as mono at 16 kHz, [16000 * seconds].

    Channels are averaged, samples outside [-1, 1] clipped, and a shorter sound repeated.

    Args:
        path: The file.
        seconds: Length of the part.
        place: Where it lies: 0 is the first part that there is, 1 the last.

    Raises:
        ValueError: When there are no samples, fewer than the file says, or some are not finite.
        soundfile.LibsndfileError: When it is no sound file.
    """
    with soundfile.SoundFile(path) as file:
        rate, wanted = file.samplerate, seconds * file.samplerate
        if rate not in _RATES or file.channels > _MOST_CHANNELS:
            raise ValueError(f"{file.channels} channels at {rate} Hz")
        wave, expected = _window(file, file.frames, wanted, place)
        short = expected - len(wave)
        if short and file.subtype in _ESTIMATED:
            # The sound ends where decoding did.
            frames = file.tell()
            if file.frames - frames <= _MOST_ADDED + _MOST_ROUNDED * file.frames:
                wave, expected = _window(file, frames, wanted, place)
    if not expected:
        raise ValueError("no samples")
    if len(wave) < expected:
        raise ValueError(f"only {len(wave)} of {expected} samples can be decoded")
    if missing := missing_bytes(path):
        raise ValueError(f"the file is cut short: {missing} bytes of its samples are missing")
    if not np.isfinite(wave).all():
        raise ValueError("samples that are not finite")
    wave = np.resize(wave.clip(-1, 1), wanted)
    shared = math.gcd(rate, SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        wave = resample_poly(wave, SAMPLE_RATE // shared, rate // shared)
    return torch.from_numpy(np.ascontiguousarray(wave[: seconds * SAMPLE_RATE]))
