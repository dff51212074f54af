"""Every test set by its name: what it needs, how it is read, and which figures it is made for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from avscenes.scenes.scene import CLASSES, class_name, make_scenes
from avscenes.sets.annotated import Sample, labelled_set, without_faults
from avscenes.sets.avsbench import ms3_samples, read_split, s4_samples
from avscenes.sets.clips import Skipped
from avscenes.sets.extended import read_silent_pairs, silent_samples
from avscenes.sets.flickr import CONSENSUS, flickr_samples
from avscenes.sets.is3 import is3_samples, read_entries
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.lists import check_layout, read_ids
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.scene_pairs import scene_test_set
from avscenes.sets.vggss import check_open_set, read_annotations, vggss_samples

Options = argparse.Namespace


class NamedTests(NamedTuple):
    """A labelled test set, what its samples are called, and what was left out of it so far."""

    labelled: LabelledSet
    names: list[str]
    skipped: list[Skipped]


class Kind(NamedTuple):
    """What a test set takes from the command line, and how it is tested."""

    read: Callable[[Options], list[Sample]] | None  # None for scenes, which are made
    needs: tuple[str, ...] = ("test_root", "test_list", "annotations")
    may_have: tuple[str, ...] = ()
    protocol: str = "ezvsl-test"  # where none is named
    consensus: int = 1
    like: str = ""  # the data set that trains on the same folders and lists
    retrieval: bool = True  # each sample has an image and a sound of its own
    interactive: bool = False  # names without their last part are those of scenes


def _root(options: Options, *folders: str) -> Path:
    root = Path(options.test_root)
    check_layout("--test-root", root, folders)
    return root


def _vggsound(options: Options) -> list[Sample]:
    root = _root(options, "frames", "audio")
    listed = read_ids("--test-list", Path(options.test_list))
    annotations = read_annotations(Path(options.annotations))
    other_half = vars(options).get("other_half")
    if other_half is not None:
        check_open_set(listed, read_ids("--other-half", Path(other_half)), annotations)
    return vggss_samples(root, listed[: options.test_size], annotations)


def _flickr(options: Options) -> list[Sample]:
    root, annotations = _root(options), Path(options.annotations)
    listed = read_ids("--test-list", Path(options.test_list))
    check_layout("--annotations", annotations, ())
    return flickr_samples(root, listed[: options.test_size], annotations)


def _with_silent(base: Callable[[Options], list[Sample]]) -> Callable[[Options], list[Sample]]:
    """Return a reader that adds as many silent pairs as `--test-size` allows of the others."""

    def read(options: Options) -> list[Sample]:
        silent = read_silent_pairs("--silent-list", Path(options.silent_list))
        samples = base(options)
        return samples + silent_samples(Path(options.test_root), silent[: options.test_size])

    return read


def _s4(options: Options) -> list[Sample]:
    root = _root(options, "visual_frames", "audio_wav", "gt_masks")
    videos = read_split("--test-list", Path(options.test_list), "test")
    return s4_samples(root, videos)[: options.test_size]


def _ms3(options: Options) -> list[Sample]:
    root = _root(options, "visual_frames", "audio_wav", "gt_masks")
    videos = read_split("--test-list", Path(options.test_list), "test")
    return ms3_samples(root, videos)[: options.test_size]


def _is3(options: Options) -> list[Sample]:
    root = _root(options, "images", "audio_wav")
    return is3_samples(root, read_entries(Path(options.annotations))[: options.test_size])


def _is3_masks(options: Options) -> list[Sample]:
    root = _root(options, "images", "audio_wav", "gt_segmentation")
    entries = read_entries(Path(options.annotations))
    return is3_samples(root, entries[: options.test_size], masks=True)


_VGGSOUND = Kind(_vggsound, may_have=("other_half",), like="vggsound")
_FLICKR = Kind(_flickr, consensus=CONSENSUS, like="flickr")
_WITH_SILENT = ("test_root", "test_list", "annotations", "silent_list")
_MASKS = Kind(_s4, needs=("test_root", "test_list"), retrieval=False)
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
    "extended-vggsound": _VGGSOUND._replace(
        read=_with_silent(_vggsound), needs=_WITH_SILENT, may_have=(), protocol="slavc-test"
    ),
    "extended-flickr": _FLICKR._replace(
        read=_with_silent(_flickr), needs=_WITH_SILENT, protocol="slavc-test"
    ),
    "avsbench-s4": _MASKS,
    "avsbench-ms3": _MASKS._replace(read=_ms3),
    "is3": _IS3,
    "is3-masks": _IS3._replace(read=_is3_masks),
}


def scene_tests(count: int) -> NamedTests:
    """Make the first scenes of the synthetic test set."""
    scenes = make_scenes(DATA_SEED, "test", count)
    names = [f"scene {index}" for index in range(count)]
    labelled = scene_test_set(scenes, [class_name(label) for label in range(CLASSES)])
    return NamedTests(labelled, names, [])


def read_tests(options: Options) -> NamedTests:
    """Return the test set that the options name; its files are decoded only when it is used.

    Raises:
        UserError: When folders, lists or annotations are missing or cannot be read.
    """
    kind = KINDS[options.dataset]
    if kind.read is None:
        return scene_tests(options.test_size)
    samples, skipped = without_faults(kind.read(options))
    names = [sample.clip.name for sample in samples]
    return NamedTests(labelled_set(samples, consensus=kind.consensus), names, skipped)
