"""The extended test sets: more pairs, in which what sounds is not in the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from avscenes.files.errors import UserError
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import clips_in
from avscenes.sets.lists import read_rows

_COLUMNS = ["video", "audio", "label"]
_LABELS = ("sounding", "non-sounding")


class Pair(NamedTuple):
    """The image of one clip with the sound of another."""

    video: str
    audio: str


def read_silent_pairs(option: str, path: Path) -> list[Pair]:
    """Read the rows of `*_test_plus_silent.csv` that are labelled `non-sounding`.

    Rows labelled `sounding` are clips of the base test set and left to its own list.

    Raises:
        UserError: When the file cannot be read, has another form, labels a pair in both ways, or
            has no such row.
    """
    rows = read_rows(option, path)
    if not rows or rows[0].cells != _COLUMNS:
        raise UserError(f"{option}: {path} must start with the line {','.join(_COLUMNS)}")
    pairs = []
    labels: dict[Pair, str] = {}
    for number, row in rows[1:]:
        if len(row) != len(_COLUMNS) or row[2] not in _LABELS or not (row[0] and row[1]):
            raise UserError(
                f"{option}: row {number} of {path} must be two ids and one of "
                f"{' and '.join(_LABELS)}, got {','.join(row)!r}"
            )
        pair = Pair(row[0], row[1])
        if labels.setdefault(pair, row[2]) != row[2]:
            raise UserError(
                f"{option}: row {number} of {path} labels {pair.video} with {pair.audio} "
                f"{row[2]!r}, and an earlier one {labels[pair]!r}"
            )
        if row[2] == "non-sounding":
            pairs.append(pair)
    if not pairs:
        raise UserError(f"{option}: {path} has no row labelled non-sounding")
    return pairs


def silent_samples(root: Path, pairs: Sequence[Pair]) -> list[Sample]:
    """Return pairs without a visible source; a name is that of the image + that of the sound.

    Add them to the samples of the base test set.
    """
    clips = clips_in(root, [pair.video for pair in pairs], [pair.audio for pair in pairs])
    return [
        Sample(clip._replace(name=f"{pair.video}+{pair.audio}"), visible=False)
        for clip, pair in zip(clips, pairs, strict=True)
    ]
