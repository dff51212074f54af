"""What went wrong, in one line: a mistake at the command line, or why a file is of no use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something that the user can put right; its message is one line that names it."""


def reason_of(error: Exception) -> str:
    """Return the first line of what an exception says, without the path where it can."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


@contextmanager
def reading(option: str, path: Path) -> Iterator[None]:
    """Raise `UserError` with the option for whatever a file makes its decoder trip over."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{option}: cannot read {path}: {reason_of(error)}") from error


def printable(path: Path) -> str:
    """Return a path as text that every terminal and file can hold, whatever bytes it is made of."""
    return str(path).encode("utf-8", "backslashreplace").decode()
