"""Clips of one's own: every pair in a folder, with boxes and classes where a file has them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from avscenes.files.errors import UserError
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import FRAME_SUFFIXES, SOUND_SUFFIXES, Skipped, clips_in, files_by_name
from avscenes.sets.ids import finder, one_spelling, same_clip
from avscenes.sets.lists import read_rows
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.vggss import Annotation, Entry, read_annotations

# Fewer in a part tell nothing apart.
_LEAST = 2


class _Entry(Entry):
    class_name: str = Field("", alias="class")


class Found(NamedTuple):
    """What a folder holds."""

    pairs: list[str]  # in the order of their names
    unpaired: list[Skipped]


class Split(NamedTuple):
    """The ids of each part."""

    train: list[str]
    validation: list[str]
    test: list[str]


def pairs_in(option: str, root: Path) -> Found:
    """Return every image that has a sound of the same name.

    Raises:
        UserError: When there is none.
    """
    split = (root / "frames").is_dir()
    frames = files_by_name(root / "frames" if split else root, FRAME_SUFFIXES)
    sounds = files_by_name(root / "audio" if split else root, SOUND_SUFFIXES)
    sound_of, frame_of = finder(sounds), finder(frames)
    pairs = sorted(name for name in frames if sound_of(name) is not None)
    if not pairs:
        raise UserError(
            f"{option}: {root} holds no image with a sound of the same name (frames/ID.jpg or .png "
            "with audio/ID.wav or .flac); prepare.py makes them from videos"
        )
    unpaired = [
        *(Skipped("unpaired", name, "no sound") for name in frames if sound_of(name) is None),
        *(Skipped("unpaired", name, "no image") for name in sounds if frame_of(name) is None),
    ]
    return Found(pairs, sorted(unpaired))


def _place(clip: str) -> float:
    """Return a number in [0, 1) that depends on the video of a clip alone."""
    text = f"{DATA_SEED} {same_clip(clip)[0]}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(clips: Sequence[str], held_out: float, test: Sequence[str] | None = None) -> Split:
    """Return which clips to train on, to choose a checkpoint by, and to test on.

    Where a clip belongs depends on its name alone, so that it stays there when others are added,
    and clips of one video whose ids say so stay together. In very small sets the parts that are
    held out are filled up to two clips.

    Args:
        clips: Their ids.
        held_out: Share that is held out, half of it for either purpose.
        test: Ids to test on instead; the others are held out all the same.

    Raises:
        ValueError: When fewer than two clips are left to train on.
    """
    chosen = {one_spelling(clip) for clip in test or ()}
    others = [clip for clip in clips if one_spelling(clip) not in chosen]
    order = sorted(others, key=lambda clip: (_place(clip), clip))
    places = [_place(clip) for clip in order]
    first = sum(place < held_out / 2 for place in places)
    second = sum(place < held_out for place in places) - first
    tested = 0 if test is not None else max(_LEAST, first)
    # Of clips that are tested on by name, the first half is trained on.
    trained = order[:first] if test is not None else []
    start = first if test is not None else tested
    end = start + max(_LEAST, second)
    train = trained + order[end:]
    if len(train) < _LEAST:
        raise ValueError(f"{len(train)} of {len(clips)} pairs are left to train on")
    return Split(train, order[start:end], order[:tested] if test is None else list(test))


def read_labels(path: Path) -> dict[str, str]:
    """Read the classes of clips: lines of an id and a class.

    Raises:
        UserError: When the file cannot be read, a line has another form, or a clip has two classes.
    """
    classes: dict[str, str] = {}
    for line, cells in read_rows("--labels", path):
        clip, name = ([cell.strip() for cell in cells] + [""])[:2]
        if not (clip and name):
            got = ",".join(cells)
            raise UserError(
                f"--labels: line {line} of {path} must be an id and a class, got {got!r}"
            )
        if (known := classes.setdefault(one_spelling(clip), name)) != name:
            raise UserError(
                f"--labels: line {line} of {path} has {clip} again, of the class {name!r} and not "
                f"{known!r}"
            )
    if not classes:
        raise UserError(f"--labels: {path} holds no classes")
    return classes


def read_boxes(path: Path) -> dict[str, Annotation]:
    """Read annotations in the form of `vggss.json`, whose classes may be missing.

    Raises:
        UserError: When the file cannot be read, has another form, or annotates a clip twice.
    """
    return read_annotations(path, _Entry)


def own_samples(
    option: str,
    root: Path,
    clips: Sequence[str] | None,
    annotations: Path | None = None,
    labels: Path | None = None,
) -> list[Sample]:
    """Return clips to test on.

    Where there are annotations, clips that have none are passed over: nothing but clips with boxes
    is tested.

    Args:
        option: That names the folder.
        root: Folder with `frames` and `audio`, or with both kinds of files side by side.
        clips: Ids, or None for all with annotations, or else for all pairs.
        annotations: Of `read_boxes`.
        labels: Of `read_labels`; these classes come before those of the annotations.

    Raises:
        UserError: When a file cannot be read or has another form, or no clip is left.
    """
    boxes = None if annotations is None else read_boxes(annotations)
    classes = None if labels is None else read_labels(labels)
    if classes is None and boxes is not None:
        named = {one_spelling(clip): entry.class_name for clip, entry in boxes.items()}
        classes = named if any(named.values()) else None
    if clips is None:
        clips = pairs_in(option, root).pairs if boxes is None else list(boxes)
    written = finder(boxes or {})
    left = [clip for clip in clips if boxes is None or written(clip) is not None]
    if not left:
        raise UserError(f"--annotations: {annotations} has none of the {len(clips)} test clips")
    samples = []
    for clip in clips_in(root, left):
        places = boxes[written(clip.name) or ""].boxes if boxes is not None else []
        class_name = "" if classes is None else classes.get(one_spelling(clip.name), "")
        fault = None
        if classes is not None and not class_name:
            fault = f"no class in {'--annotations' if labels is None else '--labels'}"
        elif boxes is not None and not places:
            fault = "no box in --annotations"
        samples.append(Sample(clip, class_name, places, fault=fault))
    return samples
