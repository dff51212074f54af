"""Says what a file is that was taken for weights and is something else."""

from __future__ import annotations

import json
import pickletools
import tarfile
import zipfile
from collections import deque
from pathlib import Path

_HEAD = 4_096
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLES = 5  # the magic number is the first; the values of the weights follow the last
_CUT = "a file that was cut short: its end is missing"
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "a gzip archive, which has to be unpacked"),
    (b"BZh", "a bzip2 archive, which has to be unpacked"),
    (b"\xfd7zXZ", "an xz archive, which has to be unpacked"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive, which has to be unpacked"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which has to be unpacked"),
    (b"Rar!", "a RAR archive, which has to be unpacked"),
    (b"\x89HDF\r\n", "an HDF5 file, such as Keras makes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
)


def kind_of(path: Path) -> str | None:
    """Return what a file is instead of weights, or None when it may be a file of PyTorch.

    Raises:
        OSError: When it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file of zeros, such as an unfinished download"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.startswith(b"PK"):
        return _zip(path)
    # A header of JSON, after its length.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return "a safetensors file, which has to be saved anew with torch.save"
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            first = archive.next()
        return f"a tar archive of something else (first {first.name if first else 'nothing'})"
    return _pickle(path, head) if head.startswith(b"\x80") else _text(path, head)


def _pickle(path: Path, head: bytes) -> str | None:
    """Look at a file as torch.save made it before it made zip archives; nothing in it is run."""
    if not head.startswith(_MAGIC):
        short = _MAGIC.startswith(head)
        return _CUT if short else "a pickle that torch.save has not made"
    with path.open("rb") as file:
        try:
            for _ in range(_PICKLES):
                deque(pickletools.genops(file), maxlen=0)
        except ValueError:
            return None if file.read(1) else _CUT
    return None


def _zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return _CUT
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        script = any(name.rpartition("/")[2] == "constants.pkl" for name in names)
        return "a TorchScript program, not a state dict" if script else None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays"
    return f"a zip archive of something else (first {names[0] if names else 'nothing'})"


def _text(path: Path, head: bytes) -> str:
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = head.decode("utf-16" if wide else "utf-8-sig", "ignore").lstrip().lower()
    if text.startswith(("<!doctype html", "<html")) or (text.startswith("<") and "<html" in text):
        return "an HTML page, such as a site answers in place of a download"
    if text.startswith("<"):
        return "an XML file"
    if "/annex/objects/" in text and len(head) < _HEAD:
        return "a pointer of git-annex; `git annex get` fetches the file itself"
    if text.startswith(("{", "[")):
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            pass
        else:
            return "a JSON file"
    return "no file of PyTorch"
