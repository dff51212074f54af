"""Reads a whole video: its frames as a player shows them, at an even rate, and its sound."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avscenes.media.decoding import SAMPLE_RATE, Lost, Sound, decoded, sound_between
from avscenes.media.display import as_shown
from avscenes.media.streams import first_readable, in_words, open_file, span_of, stream_at

# Frames a second: more are passed over, and of fewer some are shown again, so that maps can move.
MOST, LEAST = 30, 10
# Seconds that are lost in the rounding of time stamps.
_ROUNDING = 0.001
# What every player and encoder of AAC takes.
_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class Unreadable(ValueError):
    """A video of which no frame or no sound can be decoded; the message names it and says why."""


class Footage(NamedTuple):
    """A video whose frames are decoded whenever they are asked for."""

    path: Path
    stream: int  # of the frames
    start: float  # when the first one is shown, in seconds of the clock of the file
    rate: Fraction  # frames a second
    sound: NDArray[np.int16]  # from the start on, [n, channels]
    sound_rate: int
    heard: NDArray[np.float32]  # the same, mono at 16 kHz in [-1, 1]
    notes: list[str]  # what is not as it was recorded

    def frames(self) -> Iterator[Image.Image]:
        """Yield what is shown at even times, upright; a frame that is lost leaves the last one.

        So a video of a variable rate gets a constant one and keeps its times.
        """
        number = 0
        with open_file(self.path) as container:
            stream = stream_at(container, self.stream)
            pixel = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
            shown, image, end = None, None, self.start
            for frame in chain(decoded(container, stream), [None]):
                if isinstance(frame, Lost) or (frame is not None and frame.time is None):
                    continue
                until = end if frame is None else frame.time
                while shown is not None and self._at(number) < until - _ROUNDING:
                    image = as_shown(shown, pixel) if image is None else image
                    yield image
                    number += 1
                if frame is not None:
                    length = float((frame.duration or 0) * frame.time_base) or float(1 / self.rate)
                    shown, image, end = frame, None, frame.time + length

    def _at(self, number: int) -> float:
        return self.start + float(number / self.rate)

    def windows(self, times: NDArray[np.floating[Any]], seconds: int) -> NDArray[np.float32]:
        """Return the sound around times that count from the start, [times, n].

        Near both ends these are the first and the last seconds; a shorter sound is repeated.
        """
        length = seconds * SAMPLE_RATE
        if len(self.heard) <= length:
            return np.tile(np.resize(self.heard, length), (len(times), 1))
        begins = (np.round(times * SAMPLE_RATE) - length // 2).astype(int)
        begins = begins.clip(0, len(self.heard) - length)
        return np.stack([self.heard[begin : begin + length] for begin in begins])


def _first_frame(path: Path, index: int) -> tuple[int, float, Fraction]:
    """Return the index of a stream, when its first frame is shown, and its frames a second."""
    with open_file(path) as container:
        stream = stream_at(container, index)
        rate = stream.average_rate or stream.guessed_rate or Fraction(MOST)
        for frame in decoded(container, stream):
            if not isinstance(frame, Lost) and frame.time is not None:
                return index, frame.time, rate
    raise ValueError("no frame can be decoded")


def _even_rate(rate: Fraction, most: int) -> Fraction:
    """Return frames a second: the rate or a whole part of it where that lies within the limits."""
    if rate < LEAST:
        return Fraction(LEAST)
    return Fraction(rate / -(-rate // most)).limit_denominator(1_001)


def _own_sound(path: Path, index: int, start: float, end: float) -> Sound:
    """Return the sound as it is, but for more than two channels and rates that are out of use."""
    with open_file(path) as container:
        stream = stream_at(container, index)
        rate = stream.rate if stream.rate in _RATES else _RATES[-1]
        channels = max(1, min(2, stream.channels))
    return sound_between(path, index, start, end, from_start=True, rate=rate, channels=channels)


def _aligned(sound: Sound, start: float, seconds: float) -> NDArray[np.int16]:
    """Return the samples of a stretch of time, silent where there are none, [n, channels]."""
    samples = sound.samples.reshape(len(sound.samples), -1)
    whole = np.zeros((round(seconds * sound.rate), samples.shape[1]), np.int16)
    skipped = round((sound.begin - start) * sound.rate)
    samples = samples[max(0, -skipped) :]
    skipped = max(0, skipped)
    part = samples[: max(0, len(whole) - skipped)]
    whole[skipped : skipped + len(part)] = part
    return whole


def read_footage(path: Path, most: int = MOST) -> Footage:
    """Read the sound of a video and where its frames are.

    Args:
        path: The file.
        most: Frames a second, at most.

    Raises:
        Unreadable: When it cannot be opened, or its frames or its sound cannot be decoded.
    """
    notes: list[str] = []
    try:
        end = span_of(path).end
        stream, start, rate = first_readable(
            path, "video", lambda index: _first_frame(path, index), notes
        )
        own = first_readable(
            path, "audio", lambda index: (index, _own_sound(path, index, start, end)), notes
        )
        heard = sound_between(path, own[0], start, end, from_start=True)
    except (ValueError, av.error.FFmpegError) as error:
        raise Unreadable(f"cannot read {path}: {in_words(error)}") from error
    seconds = max(end - start, float(1 / rate))
    return Footage(
        path,
        stream,
        start,
        _even_rate(rate, most),
        _aligned(own[1], start, seconds),
        own[1].rate,
        (_aligned(heard, start, seconds)[:, 0] / np.float32(2**15)).astype(np.float32),
        notes + own[1].faults,
    )
