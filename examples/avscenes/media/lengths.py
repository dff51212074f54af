"""Tells how long the header of a sound file says that its samples are.

A sound that was cut short would otherwise be taken for a shorter one, with another middle.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Sizes from here on are what programs write that do not know them yet, as into a pipe.
_UNKNOWN = 0x7FFF_0000


class _Chunks(NamedTuple):
    """How the chunks of a kind of file are laid out."""

    first: int  # where they begin
    name: int  # bytes of their names
    size: str  # format of their sizes
    samples: bytes  # name of the one with the samples, up to its length
    padded: int = 2  # they begin at multiples of this
    counts_head: bool = False  # their sizes count name and size too


_KINDS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data"),
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"RF64": _Chunks(12, 4, "<I", b"data"),
    b"BW64": _Chunks(12, 4, "<I", b"data"),
    b"FORM": _Chunks(12, 4, ">I", b"SSND"),
    b"caff": _Chunks(8, 4, ">q", b"data", padded=1),
    b"riff": _Chunks(40, 16, "<q", b"data", padded=8, counts_head=True),  # Sony Wave64
}


def _chunk(file: BinaryIO, kind: _Chunks) -> tuple[int, int] | None:
    """Return where the samples begin and the size that is written there."""
    place, wide = kind.first, 0
    head = kind.name + struct.calcsize(kind.size)
    while True:
        file.seek(place)
        start = file.read(head)
        if len(start) < head:
            return None
        name, (size,) = start[: kind.name], struct.unpack(kind.size, start[kind.name :])
        if name == b"ds64":
            # Of files above 4 GiB; the size of the samples is the second number in it.
            wide = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        if name.startswith(kind.samples):
            size = wide if wide and size == 0xFFFF_FFFF else size
            return place + head, size - head * kind.counts_head
        size = max(size, head) if kind.counts_head else head + max(size, 0)
        place += -(-size // kind.padded) * kind.padded


def missing_bytes(path: Path) -> int:
    """Return how many bytes of samples the header promises that are not in the file.

    Zero where the header does not say, or is of a kind that has no such size.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b".snd":
            begin, size = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        elif magic in _KINDS and (found := _chunk(file, _KINDS[magic])):
            begin, size = found
        else:
            return 0
    held = max(0, length - begin)
    guessed = size <= 0 or (size >= _UNKNOWN and held < _UNKNOWN)
    return 0 if guessed else max(0, size - held)
