"""Ids of clips, in whichever way a list, a folder or annotations write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# YouTube's id with the start in seconds, or with start and end in milliseconds.
_SECONDS = re.compile(r"(?P<video>.{11})_(?P<start>\d{6})")
_MILLISECONDS = re.compile(r"(?P<video>.{11})_(?P<start>\d+)_(?P<end>\d+)")
_LENGTH = 10_000  # milliseconds, where an id says no more than the start
# Lists of Flickr-SoundNet name files.
_ENDING = re.compile(r"\.(avi|flac|jpe?g|mkv|mov|mp3|mp4|png|wav|webm|xml)$", re.IGNORECASE)


def without_ending(clip: str) -> str:
    """Return an id without the ending of an image, a sound, a video or an annotation."""
    return _ENDING.sub("", clip)


def same_clip(clip: str) -> tuple[str, int]:
    """Return what the ids of clips of a video with the same start have in common."""
    clip = without_ending(clip)
    if match := _SECONDS.fullmatch(clip):
        return match["video"], int(match["start"]) * 1_000
    if match := _MILLISECONDS.fullmatch(clip):
        return match["video"], int(match["start"])
    return clip, 0


def one_spelling(clip: str) -> str:
    """Return the id of a clip with the start in seconds and without an ending.

    A clip that is not of 10 s, or starts between two seconds, has no other id than its own.
    """
    clip = without_ending(clip)
    match = _MILLISECONDS.fullmatch(clip)
    if match is None:
        return clip
    start, end = int(match["start"]), int(match["end"])
    if start % 1_000 or end - start != _LENGTH:
        return clip
    return f"{match['video']}_{start // 1_000:06d}"


def finder(known: Iterable[str]) -> Callable[[str], str | None]:
    """Return what finds an id among known ones: as it is, or else written in another way."""
    names = set(known)
    spelled = {one_spelling(name): name for name in sorted(names, reverse=True)}
    return lambda clip: clip if clip in names else spelled.get(one_spelling(clip))
