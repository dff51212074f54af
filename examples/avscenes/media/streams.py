"""Opens a video file: which of its streams to decode, when its pictures start and end.

Nothing here imports torch: every process that prepares videos loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av

from avscenes.files.errors import reason_of

Result = TypeVar("Result")
_MICROSECONDS = 1_000_000
# Seconds by which sound may outlast the pictures, as codecs pad it, before the two are told apart.
_PADDING = 0.1


class Span(NamedTuple):
    """When pictures start and end, in seconds of the clock of their file."""

    start: float
    end: float

    @property
    def middle(self) -> float:
        """The time half way."""
        return (self.start + self.end) / 2


def in_words(error: Exception) -> str:
    """Return what a decoder says, without the numbers that only FFmpeg knows."""
    if isinstance(error, (av.error.PatchWelcomeError, av.error.NotImplementedError)):
        return "not supported by this build of FFmpeg: a feature that the file uses"
    if isinstance(error, av.error.ExperimentalError):
        return "not supported by this build of FFmpeg: its decoder is experimental"
    if isinstance(error, av.error.UndefinedError):
        return "invalid data, or something that is not supported by this build of FFmpeg"
    return reason_of(error)


def open_file(path: Path) -> Any:  # noqa: ANN401
    """Open a file for reading.

    Raises:
        ValueError: When FFmpeg refuses it with an error that has no words of its own.
        av.error.FFmpegError: When it refuses it with any other.
    """
    try:
        return av.open(str(path))
    except (av.error.UndefinedError, av.error.PatchWelcomeError) as error:
        raise ValueError(f"the file cannot be opened: {in_words(error)}") from error


def _ranked(container: Any, kind: str) -> list[Any]:  # noqa: ANN401
    """Return the streams of a kind, the one to be played first, without the cover pictures.

    The default ones come before the others and, as in FFmpeg, those for people who hear or see
    badly last; equal ones as they are in the file.
    """
    flags = av.stream.Disposition
    impaired = flags.hearing_impaired | flags.visual_impaired
    streams = [
        stream
        for stream in container.streams
        if stream.type == kind and not stream.disposition & flags.attached_pic
    ]
    return sorted(
        streams,
        key=lambda one: (not one.disposition & flags.default, bool(one.disposition & impaired)),
    )


def stream_at(container: Any, index: int) -> Any:  # noqa: ANN401
    """Return a stream, ready to be decoded."""
    stream = container.streams[index]
    if stream.codec_context is None:
        raise ValueError(f"an unknown {stream.type} codec, not supported by this build of FFmpeg")
    # A video is decoded by one of many processes, which are parallel enough.
    stream.codec_context.thread_count = 1
    return stream


def first_readable(
    path: Path, kind: str, read: Callable[[int], Result], notes: list[str]
) -> Result:
    """Return what is read from the stream that would be played, or else from the next one.

    Args:
        path: The file.
        kind: `video` or `audio`.
        read: Called with the index of a stream.
        notes: Gets a line when it is not the first choice.

    Raises:
        ValueError: When no stream can be read, with what is wrong with the first choice.
    """
    with open_file(path) as container:
        indices = [stream.index for stream in _ranked(container, kind)]
    if not indices:
        raise ValueError(f"no {kind} stream")
    faults: list[tuple[str, Exception]] = []
    for index in indices:
        try:
            result = read(index)
        except (ValueError, av.error.FFmpegError) as error:
            foreign = isinstance(error, av.error.FFmpegError)
            words = f"the {kind} cannot be decoded: {in_words(error)}" if foreign else str(error)
            faults.append((words, error))
            continue
        if faults:
            notes.append(
                f"{kind} of stream {index}, since of stream {indices[0]} it is: {faults[0][0]}"
            )
        return result
    raise ValueError(faults[0][0]) from faults[0][1]


def _told(container: Any, stream: Any) -> Span | None:  # noqa: ANN401
    """Return the span that the header gives for one stream, if it does.

    MP4 and its kin have exact tables. Others give the span of the whole file for a stream that they
    know nothing about, or an estimate.
    """
    if "mp4" not in container.format.name or stream.start_time is None or not stream.duration:
        return None
    start = float(stream.start_time * stream.time_base)
    return Span(start, start + float(stream.duration * stream.time_base))


def _tagged_end(stream: Any) -> float | None:  # noqa: ANN401
    """Return when a stream of a Matroska file ends, as written by FFmpeg."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3_600 + minutes * 60 + seconds


def _packets(container: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the packets of all streams up to where the file cannot be read further."""
    while True:
        try:
            yield from container.demux()
        except IndexError:
            # PyAV stumbles over the packet of a stream that the header does not announce.
            continue
        except av.error.FFmpegError:
            pass
        return


def _counted(container: Any, whole: Span | None) -> tuple[dict[int, Span], bool]:  # noqa: ANN401
    """Return the spans of the packets of all streams, and whether none is missing at the end."""
    spans: dict[int, Span] = {}
    for packet in _packets(container):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard:
            continue
        start = float(stamp * packet.time_base)
        end = start + float((packet.duration or 0) * packet.time_base)
        before = spans.get(packet.stream_index, Span(start, end))
        spans[packet.stream_index] = Span(min(before.start, start), max(before.end, end))
    last = max((span.end for span in spans.values()), default=0.0)
    return spans, whole is None or last > whole.end - _PADDING


def span_of(path: Path) -> Span:
    """Return when the pictures of a file start and end; of one without pictures, its sound.

    The header of their stream says so, or else its packets. Where they and the whole file have the
    same middle but for padding, it is that of the whole.
    """
    with open_file(path) as container:
        choices = _ranked(container, "video") or _ranked(container, "audio")
        if not choices:
            raise ValueError("no video stream")
        # One that cannot be decoded is not shown.
        stream = next((one for one in choices if one.codec_context is not None), choices[0])
        whole = None
        begin = (container.start_time or 0) / _MICROSECONDS
        if container.duration is not None and container.duration > 0:
            whole = Span(begin, begin + container.duration / _MICROSECONDS)
        span = _told(container, stream)
        if span is None:
            spans, complete = _counted(container, whole)
            span = spans.get(stream.index)
            if span is not None and not complete:
                # Of a file that was cut short the packets do not tell how long it was.
                end = _tagged_end(stream)
                span = Span(span.start, end) if end and span.start < end else None
            if whole is None and spans:
                whole = Span(begin, max(one.end for one in spans.values()))
    if whole is None:
        raise ValueError("no packets")
    return whole if span is None or abs(whole.middle - span.middle) < _PADDING / 2 else span
