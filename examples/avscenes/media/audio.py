"""Decodes sound files of any rate as the mono window at 16 kHz that the encoders hear."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from torch import Tensor

SAMPLE_RATE = 16_000
SECONDS = 3
# Beyond these a header is broken, and would ask for gigabytes.
_RATES = range(1_000, 768_001)
_MOST_CHANNELS = 64


def load_wave(path: Path, seconds: int = SECONDS) -> Tensor:
    """Return the middle of a sound as mono at 16 kHz, [16000 * seconds].

    Channels are averaged, samples outside [-1, 1] clipped, and a shorter sound repeated.

    Raises:
        ValueError: When there are no samples, fewer than the file says, or some are not finite.
        soundfile.LibsndfileError: When it is no sound file.
    """
    with soundfile.SoundFile(path) as file:
        rate, wanted = file.samplerate, seconds * file.samplerate
        if rate not in _RATES or file.channels > _MOST_CHANNELS:
            raise ValueError(f"{file.channels} channels at {rate} Hz")
        start = max(0, (file.frames - wanted) // 2)
        file.seek(start)
        wave = file.read(wanted, dtype="float64", always_2d=True).mean(axis=1)
        expected = min(wanted, file.frames - start)
    if not expected:
        raise ValueError("no samples")
    if len(wave) < expected:
        raise ValueError(f"only {len(wave)} of {expected} samples can be decoded")
    if not np.isfinite(wave).all():
        raise ValueError("samples that are not finite")
    wave = np.resize(wave.clip(-1, 1), wanted)
    shared = math.gcd(rate, SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        wave = resample_poly(wave, SAMPLE_RATE // shared, rate // shared)
    return torch.from_numpy(np.ascontiguousarray(wave[: seconds * SAMPLE_RATE]))
