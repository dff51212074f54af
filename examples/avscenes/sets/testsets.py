"""Every test set by its name: what it needs, how it is read, and which figures it is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from avscenes.scenes.scene import CLASSES, class_name, make_scenes
from avscenes.sets.annotated import Sample, labelled_set, without_faults
from avscenes.sets.avsbench import avsbench_samples, read_split
from avscenes.sets.clips import Skipped
from avscenes.sets.extended import read_silent_pairs, silent_samples
from avscenes.sets.flickr import CONSENSUS, flickr_samples
from avscenes.sets.is3 import is3_samples, read_entries
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.lists import check_layout, read_ids
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.own import own_samples
from avscenes.sets.scene_pairs import scene_test_set
from avscenes.sets.vggss import check_open_set, read_annotations, vggss_samples


class NamedTests(NamedTuple):
    """A labelled test set, what its samples are called, and what was left out of it so far."""

    labelled: LabelledSet
    names: list[str]
    skipped: list[Skipped]


class Kind(NamedTuple):
    """What a test set takes from the command line, and how it is tested."""

    # Of the number of samples, or None for all, and the files; None for scenes, which are made.
    read: Callable[..., list[Sample]] | None
    needs: tuple[str, ...] = ("test_root", "test_list", "annotations")
    may_have: tuple[str, ...] = ()
    protocol: str = "ezvsl-test"  # where none is named
    consensus: int = 1
    like: str = ""  # the data set that trains on the same folders and lists
    retrieval: bool = True  # each sample has an image and a sound of its own
    interactive: bool = False  # names without their last part are those of scenes


def _vggsound(
    size: int | None,
    test_root: Path,
    test_list: Path,
    annotations: Path,
    other_half: Path | None = None,
) -> list[Sample]:
    check_layout("--test-root", test_root, ("frames", "audio"))
    listed = read_ids("--test-list", test_list)
    known = read_annotations(annotations)
    if other_half is not None:
        check_open_set(listed, read_ids("--other-half", other_half), known)
    return vggss_samples(test_root, listed[:size], known)


def _flickr(size: int | None, test_root: Path, test_list: Path, annotations: Path) -> list[Sample]:
    check_layout("--test-root", test_root, ())
    listed = read_ids("--test-list", test_list)
    check_layout("--annotations", annotations, ())
    return flickr_samples(test_root, listed[:size], annotations)


def _clips(
    size: int | None,
    test_root: Path,
    test_list: Path | None = None,
    annotations: Path | None = None,
    labels: Path | None = None,
) -> list[Sample]:
    check_layout("--test-root", test_root, ())
    listed = None if test_list is None else read_ids("--test-list", test_list)
    return own_samples("--test-root", test_root, listed, annotations, labels)[:size]


def _with_silent(base: Callable[..., list[Sample]]) -> Callable[..., list[Sample]]:
    """Return a reader that adds as many silent pairs as `--test-size` allows of the others."""

    def read(size: int | None, test_root: Path, silent_list: Path, **others: Path) -> list[Sample]:
        silent = read_silent_pairs("--silent-list", silent_list)
        samples = base(size, test_root=test_root, **others)
        return samples + silent_samples(test_root, silent[:size])

    return read


def _avsbench(
    size: int | None, test_root: Path, test_list: Path, *, several: bool = False
) -> list[Sample]:
    check_layout("--test-root", test_root, ("visual_frames", "audio_wav", "gt_masks"))
    videos = read_split("--test-list", test_list, "test")
    return avsbench_samples(test_root, videos, several=several)[:size]


def _is3(
    size: int | None, test_root: Path, annotations: Path, *, masks: bool = False
) -> list[Sample]:
    folders = ("images", "audio_wav", "gt_segmentation") if masks else ("images", "audio_wav")
    check_layout("--test-root", test_root, folders)
    return is3_samples(test_root, read_entries(annotations)[:size], masks=masks)


_VGGSOUND = Kind(_vggsound, may_have=("other_half",), like="vggsound")
_FLICKR = Kind(_flickr, consensus=CONSENSUS, like="flickr")
_WITH_SILENT = ("test_root", "test_list", "annotations", "silent_list")
_MASKS = Kind(_avsbench, needs=("test_root", "test_list"), retrieval=False)
_IS3 = Kind(
    _is3,
    needs=("test_root", "annotations"),
    protocol="alignment",
    retrieval=False,
    interactive=True,
)
KINDS: dict[str, Kind] = {
    "synthetic": Kind(None, needs=(), like="synthetic"),
    "vggsound": _VGGSOUND,
    "flickr": _FLICKR,
    "clips": Kind(
        _clips,
        needs=("test_root",),
        may_have=("test_list", "annotations", "labels"),
        like="clips",
    ),
    "extended-vggsound": _VGGSOUND._replace(
        read=_with_silent(_vggsound), needs=_WITH_SILENT, may_have=(), protocol="slavc-test"
    ),
    "extended-flickr": _FLICKR._replace(
        read=_with_silent(_flickr), needs=_WITH_SILENT, protocol="slavc-test"
    ),
    "avsbench-s4": _MASKS,
    "avsbench-ms3": _MASKS._replace(read=partial(_avsbench, several=True)),
    "is3": _IS3,
    "is3-masks": _IS3._replace(read=partial(_is3, masks=True)),
}


def scene_tests(count: int) -> NamedTests:
    """Make the first scenes of the synthetic test set."""
    scenes = make_scenes(DATA_SEED, "test", count)
    names = [f"scene {index}" for index in range(count)]
    labelled = scene_test_set(scenes, [class_name(label) for label in range(CLASSES)])
    return NamedTests(labelled, names, [])


def read_tests(dataset: str, size: int | None, options: Mapping[str, Path | None]) -> NamedTests:
    """Return a test set, whose files are decoded only when it is used.

    Args:
        dataset: Its name.
        size: Number of samples, or None for all.
        options: Files and folders by their options; those that it does not take do not matter.

    Raises:
        UserError: When folders, lists or annotations are missing or cannot be read.
    """
    kind = KINDS[dataset]
    if kind.read is None:
        assert size is not None
        return scene_tests(size)
    files = {name: options.get(name) for name in kind.needs + kind.may_have}
    samples, skipped = without_faults(kind.read(size, **files))
    names = [sample.clip.name for sample in samples]
    return NamedTests(labelled_set(samples, consensus=kind.consensus), names, skipped)
