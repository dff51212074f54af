"""Which of one's own clips a run trains on, holds out and tests on, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_whole
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Skipped
from avscenes.sets.ids import one_spelling
from avscenes.sets.lists import check_layout, read_ids
from avscenes.sets.overlap import check_overlap
from avscenes.sets.own import Found, Split, own_samples, pairs_in, read_boxes, split_of
from avscenes.training.settings import Settings

# Folder of a run with the ids of each part of its clips.
LISTS = "lists"


class Listed(NamedTuple):
    """What a run is to read, and the options that say so."""

    train: list[str]
    validation: list[str]
    samples: list[Sample]
    train_option: str
    test_option: str
    unpaired: Sequence[Skipped] = ()


def own_clips(settings: Settings, known: Path | None) -> Listed:
    """Return the clips of a run.

    Args:
        settings: Of the run.
        known: A file in its folder, when it has written its lists there already.

    Raises:
        UserError: When a folder, a list or an annotation is missing or of no use.
    """
    assert settings.data_root is not None
    split, found = _split(settings) if known is None else (_read_split(known.parent), None)
    elsewhere = settings.test_root is not None
    option = "--test-root" if elsewhere else "--data-root"
    samples = own_samples(
        option,
        settings.test_root or settings.data_root,
        split.test,
        settings.annotations,
        settings.labels,
    )
    if elsewhere:
        check_overlap(
            [*split.train, *split.validation],
            split.test,
            allow=settings.allow_overlap,
            train="--data-root",
            test="--test-root",
        )
    return Listed(
        split.train[: settings.train_size],
        split.validation,
        samples[: settings.test_size],
        "--data-root" if settings.train_list is None else "--train-list",
        option if settings.test_list is None else "--test-list",
        () if found is None else found.unpaired,
    )


def _split(settings: Settings) -> tuple[Split, Found]:
    """Divide the pairs of a folder, or those on a list, and return what else the folder holds."""
    root, share = settings.data_root, settings.held_out
    assert root is not None
    assert share is not None
    check_layout("--data-root", root, ())
    if settings.train_list is None:
        found = pairs_in("--data-root", root)
    else:
        found = Found(read_ids("--train-list", settings.train_list), [])
    test = _tested(settings, found.pairs)
    # Clips of another folder may have the same names.
    named = test if settings.test_root is None else []
    try:
        split = split_of(found.pairs, share, named)
    except ValueError as error:
        ways = "--held-out less" if test is None else "test on fewer by --test-list"
        raise UserError(f"--data-root: {error} in {root}; add clips, or {ways}") from error
    return split if test is None else split._replace(test=test), found


def _tested(settings: Settings, pairs: list[str]) -> list[str] | None:
    """Return the ids to test on, or None where they are to be drawn from the pairs.

    Where some pairs have boxes, these are tested on; where all have, boxes tell none apart.
    """
    if settings.test_list is not None:
        return read_ids("--test-list", settings.test_list)
    if settings.test_root is not None:
        check_layout("--test-root", settings.test_root, ())
        if settings.annotations is None:
            return pairs_in("--test-root", settings.test_root).pairs
    if settings.annotations is None:
        return None
    boxes = read_boxes(settings.annotations)
    if settings.test_root is None and {*map(one_spelling, pairs)} <= {*map(one_spelling, boxes)}:
        return None
    return list(boxes)


def with_sizes(settings: Settings, given: Collection[str]) -> Settings:
    """Return settings with the sizes that the folder allows, where they were not given.

    The batch is the largest power of two times the number of processes that fits twice into the
    clips to train on, and not above the default.

    Args:
        settings: Of a run on own clips.
        given: Names of those that were given.

    Raises:
        UserError: When the number of held-out clips is given, or the folder is of no use.
    """
    if "validation_size" in given:
        raise UserError("--validation-size does not go with --dataset clips; it has --held-out")
    split, _ = _split(settings)
    sizes = {"validation_size": len(split.validation)}
    if "batch_size" not in given:
        count = len(split.train[: settings.train_size])
        batch = 2 * settings.devices * settings.num_nodes
        while 2 * batch <= min(settings.batch_size, count // 2):
            batch *= 2
        sizes["batch_size"] = batch
    return settings.model_copy(update=sizes)


def shared_evenly(clips: list[str], settings: Settings) -> list[str]:
    """Return as many clips as can be shared by all processes, if they are less than a batch."""
    if len(clips) >= settings.batch_size:
        return clips
    return clips[: len(clips) - len(clips) % (settings.devices * settings.num_nodes)]


def write_split(output: Path, split: Split) -> None:
    """Write down the ids of each part, one a line."""
    for name, clips in split._asdict().items():
        write_whole(output / LISTS / f"{name}.txt", "".join(f"{c}\n" for c in clips).encode())


def _read_split(output: Path) -> Split:
    return Split(*(read_ids("--resume", output / LISTS / f"{name}.txt") for name in Split._fields))
