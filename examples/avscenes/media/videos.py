"""Takes the middle frame and ten seconds of sound around it out of a video file, with PyAV.

Nothing here imports torch: every process that prepares videos loads this module.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

SAMPLE_RATE = 16_000
SECONDS = 10
# Decoders of sound need some packets before the one that is wanted.
_LEAD = 0.5
_MICROSECONDS = 1_000_000


class Span(NamedTuple):
    """When a video starts and ends, in seconds of its own clock."""

    start: float
    end: float

    @property
    def middle(self) -> float:
        """The time half way."""
        return (self.start + self.end) / 2


def _streams(container: Any, kind: str) -> list[Any]:  # noqa: ANN401
    """Return the streams of a kind, without the cover pictures of sound files."""
    pictures = av.stream.Disposition.attached_pic
    return [
        stream
        for stream in container.streams
        if stream.type == kind and not stream.disposition & pictures
    ]


def _first_stream(container: Any, kind: str) -> Any:  # noqa: ANN401
    streams = _streams(container, kind)
    if not streams:
        raise ValueError(f"no {kind} stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise ValueError(f"an unknown {kind} codec")
    # A video is decoded by one of many processes, which are parallel enough.
    stream.codec_context.thread_count = 1
    return stream


def _span(path: Path) -> Span:
    """Return when a video starts and ends, from its packets where its header does not say."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / _MICROSECONDS
        if container.duration is not None and container.duration > 0:
            return Span(start, start + container.duration / _MICROSECONDS)
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux()
            if packet.pts is not None
        ]
    if not ends:
        raise ValueError("no packets")
    return Span(start, max(ends))


def _seek(container: Any, stream: Any, time: float) -> None:  # noqa: ANN401
    """Go to the last point before a time from which a stream can be decoded."""
    container.seek(int(time / stream.time_base), stream=stream, backward=True)


def _frame_at(path: Path, time: float, *, seek: bool) -> Any:  # noqa: ANN401
    """Return the frame that is shown at a time, or else the one next to it."""
    with av.open(str(path)) as container:
        stream = _first_stream(container, "video")
        if seek:
            _seek(container, stream, time)
        shown = None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if shown is None or frame.time <= time:
                shown = frame
            if frame.time > time:
                return shown
    if shown is None:
        raise ValueError("no frame can be decoded")
    # The last frame is shown for its duration; a file that was cut short has none at that time.
    if shown.time + float((shown.duration or 0) * shown.time_base) < time:
        raise ValueError(
            f"the video stops at {shown.time:.1f} s, before its middle at {time:.1f} s"
        )
    return shown


def read_frame(path: Path) -> Image.Image:
    """Return the frame that is shown half way through a video, upright.

    Raises:
        ValueError: When there is no video, or it stops before its middle.
        av.error.FFmpegError: When it cannot be decoded.
    """
    time = _span(path).middle
    try:
        frame = _frame_at(path, time, seek=True)
        usable = frame.time <= time and not frame.is_corrupt
    except (ValueError, av.error.FFmpegError):
        usable = False
    if not usable:
        # A file without an index may be entered where its frames cannot be decoded yet.
        frame = _frame_at(path, time, seek=False)
    if frame.is_corrupt:
        raise ValueError("the middle frame is damaged")
    image: Image.Image = frame.to_image()
    turn = frame.rotation % 360
    return image.rotate(turn, expand=True) if turn else image


def _resampled(container: Any, stream: Any, start: float, end: float) -> Iterator[Any]:  # noqa: ANN401
    """Yield the sound from `start` or a little before to `end` as mono at 16 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    for frame in container.decode(stream):
        if frame.time is None or frame.time + frame.samples / frame.sample_rate <= start:
            continue
        if frame.time >= end:
            break
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def read_sound(path: Path) -> NDArray[np.int16]:
    """Return up to 10 s of sound around the middle of a video, mono at 16 kHz.

    A shorter video gives all of its sound. Nothing is padded, so that silence means silence.

    Raises:
        ValueError: When there is no sound, or it stops before the middle.
        av.error.FFmpegError: When it cannot be decoded.
    """
    span = _span(path)
    start = max(span.start, span.middle - SECONDS / 2)
    with av.open(str(path)) as container:
        stream = _first_stream(container, "audio")
        if start - _LEAD > span.start:
            _seek(container, stream, start - _LEAD)
        # The resampler holds samples back, so decoding goes on a little past the end.
        frames = list(_resampled(container, stream, start, start + SECONDS + _LEAD))
    if not frames:
        raise ValueError("no sound can be decoded")
    samples: NDArray[np.int16] = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    begin = start if frames[0].time is None else frames[0].time
    end = begin + len(samples) / SAMPLE_RATE
    if end < span.middle:
        raise ValueError(
            f"the sound stops at {end:.1f} s, before the middle at {span.middle:.1f} s"
        )
    skipped = max(0, round((start - begin) * SAMPLE_RATE))
    return samples[skipped : skipped + SECONDS * SAMPLE_RATE]


def encode_jpeg(image: Image.Image) -> bytes:
    """Return an image as the bytes of a JPEG file that shows no blocks."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95)
    return content.getvalue()


def encode_wav(samples: NDArray[np.int16]) -> bytes:
    """Return samples at 16 kHz as the bytes of a WAV file."""
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return content.getvalue()
