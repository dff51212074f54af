"""Files that say which samples of a training set are nearest to each one, by image and by sound.

Such a file is a NumPy archive (.npz) of `ids`, the [n] ids of the samples, and `image_neighbours`
and `audio_neighbours`, integers [n, k]: the places in `ids` of the nearest other samples, the
nearest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avscenes.files.errors import UserError, reading
from avscenes.files.whole_files import whole_file
from avscenes.sets.ids import one_spelling

_ARRAYS = ("ids", "image_neighbours", "audio_neighbours")
_BLOCK = 4_096  # rows that are checked at a time


class NeighbourLists(NamedTuple):
    """The nearest other samples of each sample, as places in `ids`, the nearest first."""

    ids: list[str]
    image_neighbours: Tensor  # int64 [n, k]
    audio_neighbours: Tensor  # int64 [n, k]

    def of(self, samples: Sequence[str], place: str = "--neighbours") -> NeighbourLists:
        """Return the same lists in the order of a training set, which has to have these samples.

        Args:
            samples: Ids of the training set, however they are written.
            place: What an error begins with.

        Raises:
            UserError: When a sample of one is not in the other; it names the first.
        """
        where = {one_spelling(name): row for row, name in enumerate(self.ids)}
        known = {one_spelling(name) for name in samples}
        for name in samples:
            if one_spelling(name) not in where:
                raise UserError(f"{place}: has no neighbours of {name}, which is trained on")
        for name in self.ids:
            if one_spelling(name) not in known:
                raise UserError(f"{place}: has {name}, which is not trained on")
        rows = torch.tensor([where[one_spelling(name)] for name in samples])
        back = torch.empty_like(rows)
        back[rows] = torch.arange(len(rows))
        return NeighbourLists(
            list(samples), back[self.image_neighbours[rows]], back[self.audio_neighbours[rows]]
        )


def read_neighbours(path: Path, option: str = "--neighbours") -> NeighbourLists:
    """Read a file of neighbours and check it.

    Raises:
        UserError: When it cannot be read, or is not what such a file has to be.
    """
    place = f"{option}: {path}"
    with reading(option, path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive of arrays (.npz)")
        arrays = {name: archive[name] for name in archive.files}
    if set(arrays) != set(_ARRAYS):
        got = ", ".join(arrays) or "nothing"
        raise UserError(f"{place}: must hold {', '.join(_ARRAYS)}, got {got}")
    return _checked(place, **arrays)


def write_neighbours(
    path: Path, ids: Sequence[str], image_neighbours: Tensor, audio_neighbours: Tensor
) -> None:
    """Write a file of neighbours, as a whole or not at all.

    Args:
        path: Of the file, which should end in .npz.
        ids: Of the samples, [n].
        image_neighbours: Places in `ids` of the samples whose images are nearest, [n, k].
        audio_neighbours: The same of sounds.

    Raises:
        UserError: When these are not what such a file has to hold.
    """
    lists = _checked(
        str(path), np.array(list(ids)), image_neighbours.numpy(), audio_neighbours.numpy()
    )
    write_arrays(
        path,
        ids=np.array(lists.ids),
        image_neighbours=lists.image_neighbours.numpy(),
        audio_neighbours=lists.audio_neighbours.numpy(),
    )


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write a NumPy archive, as a whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _checked(
    place: str,
    ids: NDArray[Any],
    image_neighbours: NDArray[Any],
    audio_neighbours: NDArray[Any],
) -> NeighbourLists:
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise UserError(f"{place}: ids must be [n] strings, got {ids.dtype} {list(ids.shape)}")
    names = ids.tolist()
    spelled, times = Counter(map(one_spelling, names)).most_common(1)[0] if names else ("", 0)
    if len(names) < 2 or "" in names:
        raise UserError(f"{place}: ids must be two or more that are not empty, got {names[:3]}")
    if times > 1:
        raise UserError(f"{place}: ids must differ, got {spelled} {times} times")
    lists = {"image_neighbours": image_neighbours, "audio_neighbours": audio_neighbours}
    for name, rows in lists.items():
        _check_rows(f"{place}: {name}", rows, names)
    if image_neighbours.shape != audio_neighbours.shape:
        raise UserError(
            f"{place}: image_neighbours and audio_neighbours must have equally many a sample, got "
            f"{image_neighbours.shape[1]} and {audio_neighbours.shape[1]}"
        )
    return NeighbourLists(
        names, *(torch.from_numpy(np.ascontiguousarray(rows)) for rows in lists.values())
    )


def _check_rows(place: str, rows: NDArray[Any], names: list[str]) -> None:
    count = len(names)
    if rows.dtype != np.int64 or rows.ndim != 2 or len(rows) != count or not rows.shape[1]:
        raise UserError(
            f"{place} must be int64 [{count}, k] with k of at least 1, got {rows.dtype} "
            f"{list(rows.shape)}"
        )
    for start in range(0, count, _BLOCK):
        block = rows[start : start + _BLOCK]
        ordered = np.sort(block, axis=1)
        own = np.arange(start, start + len(block))[:, None]
        faults = {
            f"a place outside 0 to {count - 1}": (ordered[:, :1] < 0) | (ordered[:, -1:] >= count),
            "the sample itself": block == own,
            "a sample twice": ordered[:, 1:] == ordered[:, :-1],
        }
        for what, found in faults.items():
            if found.any():
                name = names[start + int(found.any(axis=1).argmax())]
                raise UserError(f"{place}: the row of {name} has {what}")
