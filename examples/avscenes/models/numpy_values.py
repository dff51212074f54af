"""Reads NumPy's numbers and arrays in a checkpoint, where `torch.load` reads nothing but weights.

What builds them here takes no more of a file than values, shapes and kinds of numbers. NumPy's own
would take the flags of a kind from the file as well, and with them addresses for objects.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Kind:
    """Stands in for `numpy.dtype`: what a file says about a kind of numbers."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def dtype(self) -> np.dtype[Any]:
        """Return the kind, made anew."""
        if not self.state:
            return np.dtype(self.code)
        _, order, array, names, fields, size, *rest = self.state
        if array is not None:
            return np.dtype((array[0].dtype(), array[1]))
        if fields is not None:
            parts = [fields[name] for name in names]
            formats, offsets = [part[0].dtype() for part in parts], [part[1] for part in parts]
            keys = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
            return np.dtype(keys)  # type: ignore[call-overload, no-any-return]
        if self.code in ("M8", "m8") and len(rest) > 2:
            unit, count = rest[2][1][:2]
            return np.dtype(f"{self.code}[{count}{unit.decode()}]").newbyteorder(order)
        return np.dtype(self.code).newbyteorder(order)


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """Stands in for `numpy.ndarray`: an array that is filled by what a file says."""

    def __new__(cls, *_: object) -> _Array:
        return np.ndarray.__new__(cls, 0)

    def __setstate__(self, state: tuple[Any, ...], /) -> None:
        version, shape, kind, by_columns, values = state
        super().__setstate__((version, shape, _dtype(kind), by_columns, values))


def _dtype(kind: object) -> np.dtype[Any]:
    if not isinstance(kind, _Kind):
        raise UnpicklingError(f"a kind of numbers that is a {type(kind).__name__}")
    return kind.dtype()


def _scalar(kind: object, values: bytes) -> object:
    numbers: NDArray[Any] = np.zeros(1, _dtype(kind))
    return np.frombuffer(values, numbers.dtype)[0] if values else numbers[0]


_Kind.__name__, _Array.__name__ = "dtype", "ndarray"  # as errors are to say
# By the names in a file; NumPy 1 and 2 keep the same functions in different places.
NUMPY_VALUES: list[Any] = [
    (_Kind, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (lambda *_: b"", "builtins.bytes"),  # others are no calls in a file
    *(
        (function, f"{module}.{name}")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (("scalar", _scalar), ("_reconstruct", lambda *_: _Array()))
    ),
]
