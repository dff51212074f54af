"""Takes the middle frame and ten seconds of sound around it out of a video file, with PyAV.

Nothing here imports torch: every process that prepares videos loads this module.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from avscenes.media.decoding import LEAD, SAMPLE_RATE, Sound, frame_at, sound_between
from avscenes.media.display import as_shown
from avscenes.media.streams import Span, first_readable, span_of

__all__ = ["SAMPLE_RATE", "encode_jpeg", "encode_wav", "is_silent", "read_frame", "read_sound"]
SECONDS = 10
# Seconds that are lost in the rounding of time stamps, and those by which sound may start late.
_ROUNDING = 0.002
_LATE = 0.1


def _picture(path: Path, index: int, middle: float) -> Image.Image:
    try:
        picture = frame_at(path, index, middle, from_start=False)
        usable = picture.intact and picture.frame.time <= middle
    except (ValueError, av.error.FFmpegError):
        usable = False
    if not usable:
        # A file without an index may be entered where its frames cannot be decoded yet.
        picture = frame_at(path, index, middle, from_start=True)
    if not picture.intact:
        raise ValueError("the middle frame is damaged")
    return as_shown(picture.frame, picture.pixel)


def read_frame(path: Path, notes: list[str] | None = None) -> Image.Image:
    """Return the frame that is shown half way through a video, as it is shown.

    Args:
        path: The video.
        notes: Gets a line when it is not of the stream that would be played.

    Raises:
        ValueError: When there is no video, it stops before its middle or cannot be decoded.
        av.error.FFmpegError: When the file cannot be opened.
    """
    middle = span_of(path).middle
    notes = [] if notes is None else notes
    return first_readable(path, "video", lambda index: _picture(path, index, middle), notes)


def _sound(path: Path, index: int, span: Span) -> Sound:
    start, end = span.middle - SECONDS / 2, span.middle + SECONDS / 2
    sound = None
    # Decoders of sound need some packets before the one that is wanted.
    if start - LEAD > span.start:
        with suppress(ValueError, av.error.FFmpegError):
            sound = sound_between(path, index, start, end, from_start=False)
    if sound is None or sound.faults or sound.begin > start + _ROUNDING:
        # A file without an index may be entered where its sound cannot be decoded yet.
        try:
            sound = sound_between(path, index, start, end, from_start=True)
        except (ValueError, av.error.FFmpegError):
            if sound is None:
                raise
    if sound.end < span.middle:
        raise ValueError(
            f"the sound stops at {sound.end:.1f} s, before the middle at {span.middle:.1f} s"
        )
    skipped, last = round((start - sound.begin) * SAMPLE_RATE), SECONDS * SAMPLE_RATE
    # Sound that starts late ends with the window all the same.
    last += skipped if abs(skipped) > _LATE * SAMPLE_RATE else max(0, skipped)
    return sound._replace(samples=sound.samples[max(0, skipped) : last])


def read_sound(path: Path, notes: list[str] | None = None) -> NDArray[np.int16]:
    """Return up to 10 s of sound around the middle of a video, mono at 16 kHz.

    A shorter video gives all of its sound. Nothing is padded, so that silence means silence; time
    for which sound is lost inside of it is silent, and noted.

    Args:
        path: The video.
        notes: Gets a line for each thing that is not as it was recorded.

    Raises:
        ValueError: When there is no sound, it stops before the middle or cannot be decoded.
        av.error.FFmpegError: When the file cannot be opened.
    """
    span = span_of(path)
    notes = [] if notes is None else notes
    sound = first_readable(path, "audio", lambda index: _sound(path, index, span), notes)
    notes += sound.faults
    return sound.samples


def is_silent(samples: NDArray[np.int16]) -> bool:
    """Return whether samples are digital silence, be it dithered in the last bit."""
    return bool(np.ptp(samples.astype(np.int32)) <= 2) if len(samples) else True


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
