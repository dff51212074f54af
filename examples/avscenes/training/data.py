"""Turns the settings of a run into data: synthetic scenes, or clips of VGG-Sound or Flickr."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from avscenes.files.errors import UserError
from avscenes.media.transforms import TRANSFORMS
from avscenes.scenes.scene import make_scenes
from avscenes.sets.annotated import annotated_set, labelled_set
from avscenes.sets.clips import ClipPairs, Skipped, Unusable, check_files, clips_in, too_many
from avscenes.sets.lists import check_layout, read_ids
from avscenes.sets.loaders import DATA_SEED, PairDataset
from avscenes.sets.neighbour_lists import NeighbourLists, read_neighbours
from avscenes.sets.overlap import check_overlap
from avscenes.sets.own import Split
from avscenes.sets.sampling import generator_for
from avscenes.sets.scene_pairs import SceneDataset
from avscenes.sets.testsets import KINDS, NamedTests, scene_tests
from avscenes.sets.views import Views, WithNeighbours
from avscenes.training.own_clips import Listed, own_clips, shared_evenly
from avscenes.training.settings import Settings, check_split


class Data(NamedTuple):
    """Everything that one run reads."""

    train: Dataset[Any]  # of pairs, with what the loss needs beside them
    validation: PairDataset
    test: NamedTests
    train_size: int
    validation_size: int
    test_ids_in_training: int
    digest: str  # of the names of all clips, so that processes can compare what they read
    split: Split | None = None  # of own clips, to be written down


def _neighbours(settings: Settings) -> NeighbourLists | None:
    return None if settings.neighbours is None else read_neighbours(settings.neighbours)


def _for_loss(
    pairs: PairDataset, names: Sequence[str], lists: NeighbourLists | None, settings: Settings
) -> Dataset[Any]:
    """Return pairs to train on with what the loss of the run needs beside them.

    Raises:
        UserError: When the lists of neighbours are of other samples.
    """
    if lists is not None:
        lists = lists.of(names, f"--neighbours: {settings.neighbours}")
    if settings.loss == "alignment":
        return Views(pairs, settings.seed, lists)
    return pairs if lists is None else WithNeighbours(pairs, lists)


def synthetic_data(settings: Settings) -> Data:
    """Make the scenes, whose ids are their numbers.

    Raises:
        UserError: When there are lists of neighbours that do not fit.
    """
    assert settings.train_size is not None
    assert settings.test_size is not None
    lists = _neighbours(settings)
    names = [str(number) for number in range(settings.train_size)]
    train = make_scenes(DATA_SEED, "train", settings.train_size)
    validation = make_scenes(DATA_SEED, "validation", settings.validation_size)
    return Data(
        train=_for_loss(SceneDataset(train, settings.seed), names, lists, settings),
        validation=SceneDataset(validation, settings.seed),
        test=scene_tests(settings.test_size),
        train_size=settings.train_size,
        validation_size=settings.validation_size,
        test_ids_in_training=0,
        digest="",
    )


def ids_to_train_on(settings: Settings) -> list[str]:
    """Return the ids of the clips that a run trains on, also of those that cannot be read.

    Raises:
        UserError: When a folder, a list or an annotation is missing or of no use.
    """
    if settings.dataset == "clips":
        return own_clips(settings, None).train
    return _shared_out(_listed_ids(settings), settings)[0]


def _listed_ids(settings: Settings) -> list[str]:
    """Read the list of clips of VGG-Sound or Flickr to train on."""
    root, train_list = settings.data_root, settings.train_list
    assert root is not None
    assert train_list is not None
    # Flickr's files may lie side by side.
    check_layout("--data-root", root, ("frames", "audio") if settings.dataset == "vggsound" else ())
    return read_ids("--train-list", train_list)


def _shared_out(train_ids: list[str], settings: Settings) -> tuple[list[str], list[str]]:
    """Return which ids to train on and which are held out."""
    size = settings.validation_size
    # Held-out clips are drawn from all ids, so that a clip that gets lost does not move the others.
    order = torch.randperm(len(train_ids), generator=generator_for(DATA_SEED)).tolist()
    shuffled = [train_ids[index] for index in order]
    held_out, rest = shuffled[:size], shuffled[size:][: settings.train_size]
    if not rest:
        raise UserError(
            f"--validation-size {size} leaves none of the {len(train_ids)} clips of --train-list "
            "to train on"
        )
    return rest, held_out


def _listed(settings: Settings) -> Listed:
    """Read the lists of VGG-Sound or Flickr."""
    train_ids, size = _listed_ids(settings), settings.validation_size
    rest, held_out = _shared_out(train_ids, settings)
    kind = KINDS[settings.dataset]
    if settings.batch_size > len(rest):
        raise UserError(
            f"--batch-size {settings.batch_size} is larger than the {len(rest)} clips of "
            f"--train-list that --validation-size {size} leaves to train on"
        )
    assert kind.read is not None, "scenes have no files"
    samples = kind.read(
        settings.test_size, **{name: getattr(settings, name) for name in kind.needs}
    )
    test_ids = [sample.clip.name for sample in samples]
    check_overlap(train_ids, test_ids, allow=settings.allow_overlap)
    return Listed(rest, held_out, samples, "--train-list", "--test-list")


def clip_data(settings: Settings, known: Path | None) -> tuple[Data, list[Skipped]]:
    """Read the lists, check every file and return the data and the clips that are left out.

    Args:
        settings: Of the run.
        known: The list of left-out clips that this run has written already, if it has; it saves a
            second check and keeps the data the same.

    Raises:
        UserError: When folders, lists or annotations are missing, or neighbours do not fit.
        Unusable: When too many clips are.
    """
    root = settings.data_root
    assert root is not None
    assert settings.transform is not None
    transform = TRANSFORMS[settings.transform]
    kind = KINDS[settings.dataset]
    own = settings.dataset == "clips"
    neighbours = _neighbours(settings)  # first, because a file that is wrong needs no look at clips
    listed = own_clips(settings, known) if own else _listed(settings)
    rest, held_out, samples = listed.train, listed.validation, listed.samples
    test_ids = [sample.clip.name for sample in samples]

    if known is not None and known.is_file():
        with known.open(newline="", encoding="utf-8") as file:
            skipped = [Skipped(**row) for row in csv.DictReader(file)]
        faults = {entry.clip for entry in skipped if entry.split == "test"}
        usable = [sample for sample in samples if sample.clip.name not in faults]
        test = labelled_set(usable, consensus=kind.consensus, transform=transform)
    else:
        # First, because an annotation that is wrong needs no look at any training clip.
        test, lost = annotated_set(
            samples, settings.workers, consensus=kind.consensus, transform=transform
        )
        skipped = [
            *check_files("train", clips_in(root, rest), settings.workers, transform),
            *check_files("validation", clips_in(root, held_out), settings.workers, transform),
            *lost,
            *listed.unpaired,
        ]
    source, most = listed.train_option, settings.max_missing
    train = _without(skipped, "train", source, rest, most)
    validation = _without(skipped, "validation", source, held_out, most)
    tested = _without(skipped, "test", listed.test_option, test_ids, most)
    if settings.batch_size > len(train):
        raise Unusable(
            f"--batch-size {settings.batch_size} is larger than the {len(train)} readable clips of "
            f"{source}",
            skipped,
        )
    if own:
        validation = shared_evenly(validation, settings)
    if len(validation) < settings.batch_size:
        what = f"--validation-size: {len(validation)} readable clips"
        try:
            check_split(what, len(validation), settings)
        except UserError as error:
            raise Unusable(str(error), skipped) from error
    data = Data(
        train=_for_loss(
            ClipPairs(clips_in(root, train), settings.seed, transform), train, neighbours, settings
        ),
        validation=ClipPairs(clips_in(root, validation), settings.seed, transform),
        test=NamedTests(test, tested, [entry for entry in skipped if entry.split == "test"]),
        train_size=len(train),
        validation_size=len(validation),
        test_ids_in_training=len(check_overlap([*train, *validation], tested, allow=True)),
        digest=hashlib.sha256(repr((train, validation, tested)).encode()).hexdigest(),
        split=Split(rest, held_out, test_ids) if own else None,
    )
    return data, skipped


def _without(
    skipped: Sequence[Skipped], split: str, option: str, clips: Sequence[str], most: float
) -> list[str]:
    """Return the clips of a split that are not skipped, or raise when too many are."""
    lost = [entry for entry in skipped if entry.split == split]
    faults = {entry.clip for entry in lost}
    left = [clip for clip in clips if clip not in faults]
    if not left or len(lost) > most * len(clips):
        raise Unusable(too_many(option, f"{split} clips", len(clips), lost, most), skipped)
    return left
