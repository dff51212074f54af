"""Decodes frames and sound packet by packet, so that one that is damaged costs no more than itself.

Nothing here imports torch: every process that prepares videos loads this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from avscenes.media.streams import in_words, open_file, stream_at

SAMPLE_RATE = 16_000
# Decoders of sound need some packets before the one that is wanted.
LEAD = 0.5
# Seconds without sound that are more than the rounding of time stamps.
_GAP = 0.1
_ROUNDING = 0.002


class Lost(NamedTuple):
    """A packet that the decoder refuses, and when it would have been shown or heard."""

    reason: Exception
    time: float | None


class Picture(NamedTuple):
    """A frame, the shape of its pixels, and whether it is as it was filmed."""

    frame: Any
    pixel: Fraction | None  # width over height
    intact: bool


class Sound(NamedTuple):
    """Samples, when they begin, and what is not as it was recorded."""

    samples: NDArray[np.int16]  # [n] of mono, [n, channels] of more
    begin: float
    missing: float  # seconds that are silent because nothing could be decoded
    damaged: int  # frames of which the decoder says that they are not right
    lost: int  # packets
    rate: int = SAMPLE_RATE

    @property
    def faults(self) -> list[str]:
        """What is not as it was recorded, a line for each."""
        lines = []
        if self.missing:
            lines.append(f"{self.missing:.2f} s of the sound are lost, and silent")
        elif self.lost:
            lines.append(f"{self.lost} packets of the sound cannot be decoded")
        if self.damaged:
            lines.append(f"{self.damaged} frames of the sound are damaged")
        return lines

    @property
    def end(self) -> float:
        """When it ends."""
        return self.begin + len(self.samples) / self.rate


def seek(container: Any, stream: Any, time: float) -> None:  # noqa: ANN401
    """Go to the last point before a time from which a stream can be decoded."""
    container.seek(int(time / stream.time_base), stream=stream, backward=True)


def decoded(container: Any, stream: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the frames of a stream, and `Lost` for a packet that cannot be decoded."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            stamp = packet.dts if packet.pts is None else packet.pts
            yield Lost(error, None if stamp is None else float(stamp * packet.time_base))
            continue
        yield from frames


def frame_at(path: Path, index: int, time: float, *, from_start: bool) -> Picture:
    """Return the frame that is shown at a time, or else the one next to it.

    Raises:
        ValueError: When there is none.
    """
    with open_file(path) as container:
        stream = stream_at(container, index)
        if not from_start:
            seek(container, stream, time)
        shown, reason, past = None, None, False
        # What refers to a lost packet is wrong, up to a later frame that refers to none.
        lost_at = -inf
        for frame in decoded(container, stream):
            if isinstance(frame, Lost):
                reason = reason or in_words(frame.reason)
                lost_at = max(lost_at, inf if frame.time is None else frame.time)
                continue
            if frame.time is None:
                continue
            past = frame.time > time
            if shown is None or not past:
                shown = frame
                if frame.key_frame and frame.time > lost_at:
                    lost_at = -inf
            if past:
                break
        context = stream.codec_context
        pixel = stream.sample_aspect_ratio or context.sample_aspect_ratio
    if shown is None:
        raise ValueError("no frame can be decoded" + (f": {reason}" if reason else ""))
    # The last frame is shown for its duration; a file that was cut short has none at that time.
    if not past and shown.time + float((shown.duration or 0) * shown.time_base) < time:
        raise ValueError(
            f"the video stops at {shown.time:.1f} s, before its middle at {time:.1f} s"
        )
    return Picture(shown, pixel, lost_at == -inf and not shown.is_corrupt)


class _Track:
    """Resamples frames of any format to pieces of one, with one resampler for each format."""

    def __init__(self, rate: int, channels: int) -> None:
        self.rate = rate
        self.channels = channels
        self.pieces: list[NDArray[np.int16]] = []
        self.begin: float | None = None
        self._format: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def add(self, frame: Any) -> None:  # noqa: ANN401
        """Take a frame."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._format:
            self.flush()
            self._format = kind
            layout = "mono" if self.channels == 1 else "stereo"
            self._resampler = av.AudioResampler(format="s16", layout=layout, rate=self.rate)
        self._keep(self._resampler.resample(frame))

    def flush(self) -> None:
        """Get what the resampler holds back."""
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
        self._resampler = self._format = None

    def silence(self, begin: float, end: float) -> None:
        """Fill time in which there is no sound."""
        self.flush()
        self.begin = begin if self.begin is None else self.begin
        silent = np.zeros(round((end - begin) * self.rate) * self.channels, np.int16)
        self.pieces.append(silent)

    def _keep(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            if self.begin is None:
                self.begin = frame.time
            self.pieces.append(frame.to_ndarray()[0])


def sound_between(
    path: Path,
    index: int,
    start: float,
    end: float,
    *,
    from_start: bool,
    rate: int = SAMPLE_RATE,
    channels: int = 1,
) -> Sound:
    """Return the sound of a stream from `start` or a little before to `end` or a little after.

    Args:
        path: The file.
        index: Of the stream.
        start: In seconds of the clock of the file.
        end: Likewise.
        from_start: Decode all that comes before, too.
        rate: Of the samples.
        channels: One or two.

    Raises:
        ValueError: When there is none.
    """
    track, stop, reason = _Track(rate, channels), None, None
    missing, damaged, lost, lost_before = 0.0, 0, 0, False
    with open_file(path) as container:
        stream = stream_at(container, index)
        if not from_start:
            seek(container, stream, start - LEAD)
        for frame in decoded(container, stream):
            if isinstance(frame, Lost):
                reason = reason or in_words(frame.reason)
                lost_before = True
                lost += start <= (start if frame.time is None else frame.time) < end
                continue
            if frame.time is None:
                lost_before = True
                continue
            begin = frame.time
            # The resampler holds samples back, so decoding goes on a little past the end.
            if begin >= end + LEAD:
                break
            gap_begin = begin if stop is None else max(stop, start)
            if begin - gap_begin > (_ROUNDING if lost_before else _GAP):
                track.silence(gap_begin, begin)
                missing += max(0.0, min(begin, end) - gap_begin)
            stop, lost_before = begin + frame.samples / frame.sample_rate, False
            if stop > start:
                damaged += frame.is_corrupt and begin < end
                track.add(frame)
        track.flush()
    if not track.pieces:
        raise ValueError("no sound can be decoded" + (f": {reason}" if reason else ""))
    begin = start if track.begin is None else track.begin
    samples = np.concatenate(track.pieces)
    if channels > 1:
        samples = samples.reshape(-1, channels)
    return Sound(samples, begin, missing, damaged, lost, rate)
