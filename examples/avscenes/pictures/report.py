"""Everything that an evaluation leaves, for the encoders of a run and for towers of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from avcontrast.metrics import PROTOCOLS
from avcontrast.metrics.accumulators import MaskMetric
from avscenes.files.output import check_free
from avscenes.files.strict import JSON, read_file
from avscenes.files.whole_files import whole_folder
from avscenes.media.images import IMAGE_SIZE
from avscenes.pictures.gallery import draw_gallery
from avscenes.sets.clips import ClipPairs, RawPairs
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.testsets import KINDS, NamedTests, read_tests
from avscenes.testing.results import LEFT_OUT, caption, write_results
from avscenes.testing.run import (
    Conditions,
    Networks,
    Part,
    Tested,
    run_part,
    score_features,
    whole_test,
)
from avscenes.testing.towers import Towers

_AT_ONCE = 64


class Report(NamedTuple):
    """The table under its title, and every figure by a flat name."""

    text: str
    figures: dict[str, Any]


def write_report(
    output: Path,
    tests: NamedTests,
    tested: Tested,
    title: str,
    about: dict[str, Any],
    *,
    gallery: bool = True,
) -> Report:
    """Write table, figures, scores of every sample and gallery into a folder, as a whole.

    Args:
        output: The folder.
        tests: The test set.
        tested: What came out.
        title: Lines to stand above the table.
        about: What else is to be said of the figures in `metrics.json`.
        gallery: Whether the images are there to be drawn.
    """
    with whole_folder(output, LEFT_OUT) as folder:
        text = write_results(folder, tests, tested, title, about)
        if gallery:
            name = f"{tested.how.dataset}, {tested.how.protocol}"
            draw_gallery(folder / "gallery.png", tests, tested, name)
    return Report(text, read_file(output / "metrics.json", JSON))


def evaluate_towers(
    towers: Towers,
    output: Path | str,
    dataset: str = "clips",
    *,
    protocol: str | None = None,
    name: str = "own towers",
    size: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    max_missing: float = 0.05,
    **files: Path | str | None,
) -> Report:
    """Evaluate towers of one's own as `evaluate.py` does a checkpoint.

    Args:
        towers: What encodes images and sounds.
        output: Folder for `table.txt`, `metrics.json`, `samples.csv` and `gallery.png`.
        dataset: Name of a test set of files.
        protocol: Name of a protocol, or that of the test set.
        name: Of the model, for the table.
        size: Number of samples, or all.
        batch_size: Pairs that are encoded at a time.
        workers: Processes that read data.
        max_missing: Share of unreadable samples beyond which it is an error.
        files: `test_root` and what else the test set takes, as the options of `evaluate.py`.

    Raises:
        avscenes.files.errors.UserError: When files are missing or cannot be read, too many clips
            are of no use, or there is something in `output`.
        ValueError: When there is no such test set or protocol, or the towers make no maps or no
            vectors.
        TypeError: When the test set takes other files.
    """
    _check_name("dataset", dataset, KINDS)
    kind = KINDS[dataset]
    _check_name("protocol", protocol or kind.protocol, PROTOCOLS)
    given = {key for key, path in files.items() if path is not None}
    if not {*kind.needs} <= given <= {*kind.needs, *kind.may_have} or kind.read is None:
        raise TypeError(
            f"{dataset} needs {', '.join(kind.needs) or 'no files and is of no use here'}"
            f"{', and takes ' + ', '.join(kind.may_have) if kind.may_have else ''}; got "
            f"{', '.join(sorted(given)) or 'nothing'}"
        )
    output = Path(output)
    check_free("output", output, leftover=LEFT_OUT)
    paths = {key: Path(path) for key, path in files.items() if path is not None}
    tests = read_tests(dataset, size, paths)
    pairs = tests.labelled.pairs
    assert isinstance(pairs, ClipPairs)
    raw = RawPairs(pairs.files, towers.image_size, towers.seconds)
    tests = tests._replace(labelled=tests.labelled._replace(pairs=raw))
    how = Conditions(dataset, protocol or kind.protocol)
    part = run_part(
        Networks(towers.visual, towers.audio),
        tests,
        how,
        batch_size=batch_size,
        workers=workers,
        max_missing=max_missing,
    )
    tested = whole_test([part], tests, how, max_missing)
    return write_report(output, tests, tested, caption(tests, tested, name), {"model": name})


def _check_name(argument: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {name!r}")


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, images: Sequence[Tensor]) -> None:
        self.images = images

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.images[row], torch.zeros(0)


@torch.no_grad()
def evaluate_features(
    visual: Tensor,
    audio: Tensor,
    output: Path | str,
    *,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    images: Sequence[Tensor] | None = None,
    protocol: str = "ezvsl-test",
    name: str = "own features",
) -> Report:
    """Evaluate features as `evaluate.py` does those of a checkpoint.

    Args:
        visual: Of images, [n, d, h, w].
        audio: Of their sounds, [n, d].
        output: Folder for `table.txt`, `metrics.json`, `samples.csv` and `gallery.png`.
        names: Of the samples; numbers if not given.
        classes: Of the samples, for retrieval by class.
        boxes: Of each sample, x0, y0, x1, y1 in shares of the image, for localisation.
        images: Of each sample, [3, height, width], for the gallery.
        protocol: Name of a protocol.
        name: Of the model, for the table.

    Raises:
        ValueError: When there are not as many of each, boxes are no shares, features are no maps or
            no vectors, or there is no such protocol.
        avscenes.files.errors.UserError: When there is something in `output`.
    """
    count = len(visual)
    beside = {"audio": audio, "names": names, "classes": classes, "boxes": boxes, "images": images}
    for what, some in beside.items():
        if some is not None and len(some) != count:
            raise ValueError(f"{what} must be as many as visual, {count}, got {len(some)}")
    _check_name("protocol", protocol, PROTOCOLS)
    output = Path(output)
    check_free("output", output)
    known = sorted(set(classes or [""]))
    given = boxes if boxes is not None else [[]] * count
    labelled = LabelledSet(
        pairs=_Pictures(images or []),
        labels=torch.tensor([known.index(one) for one in classes or [""] * count]),
        class_names=known,
        boxes=[torch.tensor(one, dtype=torch.float64).reshape(-1, 4) for one in given],
        image_size=IMAGE_SIZE,
        located=boxes is not None,
    )
    tests = NamedTests(labelled, list(names or map(str, range(count))), [])
    how = Conditions("clips", protocol)
    masks: dict[str, MaskMetric] = {}
    scored = []
    for rows in torch.split(torch.arange(count), _AT_ONCE):
        truth = torch.stack([labelled.truth(row) for row in rows.tolist()])
        seen, heard = visual[rows].float(), audio[rows].float()
        scored.append(score_features(seen, heard, None, rows.tolist(), truth, tests, how, masks))
    tested = whole_test([Part(scored, masks, [])], tests, how, 0)
    title = caption(tests, tested, name)
    gallery = images is not None
    return write_report(output, tests, tested, title, {"model": name}, gallery=gallery)
