"""Makes the one-second sounds of the synthetic scenes.

A class decides the pitch region, the timbre and the rhythm; a jitter that the object's hue shares
moves the pitch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAMPLE_RATE = 8_000
LENGTH = 8_000
_TIME = np.arange(LENGTH) / SAMPLE_RATE
_FREQUENCY = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)


def pitch(class_index: int, classes: int, jitter: float) -> float:
    """Return the fundamental in Hz; neighbouring classes are far apart in pitch.

    Multiplying by 5 permutes the classes (for the usual 12), so that pitch does not rise with hue.
    """
    place = (class_index * 5 % classes + 0.5 + 0.3 * jitter) / classes
    return float(150.0 * 2.0 ** (2.4 * place))


def _unit(wave: Array) -> Array:
    """Scale a waveform to unit root mean square."""
    scaled: Array = wave / np.sqrt(np.mean(wave**2))
    return scaled


def noise_band(rng: np.random.Generator, centre: float, octaves: float) -> Array:
    """Return Gaussian noise around `centre` Hz, `octaves` wide, with unit root mean square."""
    distance = np.log2(np.maximum(_FREQUENCY, 1.0) / centre)
    envelope = np.exp(-0.5 * (2 * distance / octaves) ** 2)
    phases = rng.normal(size=(2, _FREQUENCY.size))
    return _unit(np.fft.irfft(envelope * (phases[0] + 1j * phases[1]), LENGTH))


def _harmonics(phase: Array, f0: float, numbers: range) -> Array:
    """Return the sum of the given harmonics at 1/k, without those that would alias."""
    audible = [k for k in numbers if k * f0 < 0.48 * SAMPLE_RATE]
    total: Array = np.sum([np.sin(k * phase) / k for k in audible], axis=0)
    return total


def tone(rng: np.random.Generator, timbre: int, f0: float) -> Array:
    """Return a steady sound of pitch `f0` in one of eight timbres, with unit root mean square."""
    start = rng.uniform(0, 2 * np.pi)
    phase = 2 * np.pi * f0 * _TIME + start
    if timbre == 0:
        wave = np.sin(phase)
    elif timbre == 1:
        wave = _harmonics(phase, f0, range(1, 10, 2))
    elif timbre == 2:
        wave = _harmonics(phase, f0, range(1, 11))
    elif timbre == 3:
        wave = np.sin(phase + 2.5 * np.sin(1.41 * phase))
    elif timbre == 4:
        wave = noise_band(rng, f0, 0.35)
    elif timbre in (5, 6):
        sweep = np.mod(_TIME * 4 + rng.random(), 1.0)
        bend = 2.0 ** ((sweep if timbre == 5 else 1 - sweep) * 0.8 - 0.4)
        wave = _harmonics(
            start + 2 * np.pi * f0 * np.cumsum(bend) / SAMPLE_RATE, 2 * f0, range(1, 3)
        )
    else:
        wobble = np.sin(2 * np.pi * 6 * _TIME + start)
        bend = 2.0 ** (0.18 * wobble)
        wave = _harmonics(2 * np.pi * f0 * np.cumsum(bend) / SAMPLE_RATE, 1.2 * f0, range(1, 4))
    return _unit(wave)


def gate(rng: np.random.Generator, rhythm: int) -> Array:
    """Return the loudness over time: sustained or pulsed, after a random onset."""
    onset = rng.uniform(0, 0.25)
    since = _TIME - onset
    attack = np.clip(since / 0.02, 0.0, 1.0)
    if rhythm == 0:
        return attack
    rate = 3.0 if rhythm == 1 else 9.0
    pulse = np.mod(since * rate, 1.0) < 0.5
    return attack * pulse


def make_sound(
    rng: np.random.Generator,
    class_index: int,
    classes: int,
    *,
    jitter: float,
    loudness: float,
    scene_hue: float | None,
    scene_level: float = 0.08,
) -> Array:
    """Return the waveform [LENGTH] of one scene.

    Args:
        rng: Source of everything that the other arguments leave open.
        class_index: The sounding class.
        classes: Number of classes.
        jitter: Instance cue in about [-1, 1]; moves the pitch within the region of the class.
        loudness: Root mean square of the sounding object.
        scene_hue: Where given, a weak noise band whose centre follows this hue is added.
        scene_level: Root mean square of that band.
    """
    source = tone(rng, class_index % 8, pitch(class_index, classes, jitter))
    wave = loudness * gate(rng, class_index // 8) * source
    if scene_hue is not None:
        wave = wave + scene_level * noise_band(rng, 300.0 * 2.0 ** (3.3 * scene_hue), 0.5)
    return wave + 0.004 * rng.normal(size=LENGTH)
