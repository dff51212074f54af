"""Reads a folder of spoken digits, laid out as the Free Spoken Digit Dataset is.

Its folder `recordings` has a file for each, `{digit}_{speaker}_{number}.wav`, mono at 8 kHz.
Numbers below 8 are for testing, whatever the seed: what is tested has never been trained on.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from avscenes.files.errors import UserError, reason_of
from avscenes.scenes.drawing import Array
from avscenes.scenes.sounds import SAMPLE_RATE

DIGITS = 10
_TEST_NUMBERS = 8
_NAME = re.compile(r"(\d)_[^_]+_(\d+)\.wav")


class Recordings(NamedTuple):
    """A folder that was looked through, and what tells it from others."""

    folder: Path
    digest: str


def find_recordings(folder: Path) -> Recordings:
    """Look through a folder.

    Raises:
        UserError: When it is not there, or has something else in it, or too little.
    """
    digest = hashlib.sha256()
    found = set()
    for path, split, digit in _files(folder):
        _read(path)
        digest.update(path.name.encode() + path.read_bytes())
        found.add((split, digit))
    for split, numbers in (("test", "below"), ("train", "from")):
        for digit in range(DIGITS):
            if (split, digit) not in found:
                raise UserError(
                    f"--recordings: {folder} has too few recordings: none of digit {digit} with a "
                    f"number {numbers} {_TEST_NUMBERS}, which are those of the {split} split"
                )
    return Recordings(folder, digest.hexdigest()[:12])


def read_recordings(folder: Path, split: str) -> list[list[Array]]:
    """Return the waveforms of a split, `train` or `test`, by digit and in the order of names."""
    waves: list[list[Array]] = [[] for _ in range(DIGITS)]
    for path, found, digit in _files(folder):
        if found == split:
            waves[digit].append(_read(path))
    return waves


def _files(folder: Path) -> list[tuple[Path, str, int]]:
    """Return the files in the order of names, each with its split and digit."""
    inside = folder / "recordings"
    if not inside.is_dir():
        raise UserError(f"--recordings: there is no folder {inside}")
    files, wrong = [], []
    for path in sorted(path for path in inside.iterdir() if not path.name.startswith(".")):
        if match := _NAME.fullmatch(path.name):
            split = "test" if int(match[2]) < _TEST_NUMBERS else "train"
            files.append((path, split, int(match[1])))
        else:
            wrong.append(path.name)
    if wrong:
        more = f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"--recordings: {inside / wrong[0]} is not named {{digit}}_{{speaker}}_{{number}}.wav"
            f"{more}"
        )
    return files


def _read(path: Path) -> Array:
    try:
        wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"--recordings: cannot read {path}: {reason_of(error)}") from error
    if rate != SAMPLE_RATE or wave.shape[1] != 1:
        raise UserError(
            f"--recordings: {path} must be mono at {SAMPLE_RATE} Hz, "
            f"got {wave.shape[1]} channels at {rate} Hz"
        )
    if not np.isfinite(wave).all() or not wave[:SAMPLE_RATE].any():
        raise UserError(f"--recordings: {path} is silent")
    mono: Array = wave[:, 0]
    return mono
