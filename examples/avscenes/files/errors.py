"""What went wrong, in one line: a mistake at the command line, or why a file is of no use."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something that the user can put right; its message is one line that names it."""


def reason_of(error: Exception) -> str:
    """Return the first line of what an exception says, without the path where it can."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def printable(path: Path) -> str:
    """Return a path as text that every terminal and file can hold, whatever bytes it is made of."""
    return str(path).encode("utf-8", "backslashreplace").decode()
