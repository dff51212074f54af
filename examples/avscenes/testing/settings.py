"""The settings of an evaluation: what is not given comes from the run of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from avcontrast import metrics
from avscenes.files.errors import UserError
from avscenes.files.strict import Count, File, OneOf, Portion, Whole, flag, flags, option
from avscenes.models.object_maps import mixes_absolute
from avscenes.sets.testsets import KINDS
from avscenes.training.devices import check_device, device_option
from avscenes.training.own_clips import LISTS
from avscenes.training.settings import Settings

Protocol = Annotated[str, OneOf(metrics.PROTOCOLS)]
Dataset = Annotated[str, OneOf(KINDS)]
FILES = ("test_root", "test_list", "annotations", "labels", "silent_list", "other_half")
PAIR = ("image", "sound", "output")
_FROM_RUN = (*FILES, "test_size", "max_missing", "batch_size", "workers")


def _test_file(name: str, text: str) -> Any:  # noqa: ANN401
    """Return a field whose help says which test sets take it."""
    takers = [kind for kind, what in KINDS.items() if name in what.needs + what.may_have]
    return option(None, f"{text} ({', '.join(takers)})")


class Options(BaseModel, strict=True, frozen=True, extra="forbid"):
    """What the command line says; None is what it does not say."""

    checkpoint: File = Field(
        description="RUN/checkpoints/best.ckpt, say, with its settings in RUN/config.json; or one "
        "of the released FNAC or EZ-VSL code, which needs none"
    )
    protocol: Protocol | None = option(
        None,
        "(default: slavc-test for extended sets, alignment for is3, ezvsl-test for all others)",
    )
    object_weights: File | None = option(
        None, "torchvision's ResNet-18 weights; adds OGL and the mix"
    )
    object_share: Portion | None = option(
        None,
        "weight of the object map in the mix (default: 0.6; 0.1 under SLAVC's protocols)",
    )
    batch_size: Count | None = option(None, "pairs that are encoded at a time")
    device: str = device_option()
    workers: Whole | None = option(None, "processes that read data")

    dataset: Dataset | None = option(None, "(default: that of the run)")
    test_root: File | None = _test_file("test_root", "folder with images and sounds")
    test_list: File | None = _test_file(
        "test_list", "ids, one a line (vggss_test.csv); for avsbench the table of videos"
    )
    annotations: File | None = _test_file(
        "annotations", "vggss.json; for flickr the folder of ID.xml; for is3 the list of boxes"
    )
    labels: File | None = _test_file("labels", "classes, ID,CLASS a line")
    silent_list: File | None = _test_file(
        "silent_list", "pairs without a visible source (vggss_test_plus_silent.csv)"
    )
    other_half: File | None = _test_file(
        "other_half", "test list of the other half of an open set, which must share no class"
    )
    test_size: Count | None = option(None, "number of test pairs")
    max_missing: Portion | None = option(None, "stop when more than this share is unreadable")
    output_dir: File | None = option(None, "(default: RUN/evaluation-DATASET-PROTOCOL)")

    image: File | None = option(None, "image file")
    sound: File | None = option(None, "sound file")
    output: File | None = option(None, "PNG file to write; of a video, MP4 or GIF")

    video: File | None = option(None, "video file, over which --output shows the maps")
    strip: File | None = option(None, "PNG file with some of the frames in a row (--video)")


def _share(known: dict[str, Any]) -> float:
    return 0.1 if mixes_absolute(known["protocol"]) else 0.6


class WholeSet(Options, frozen=True):
    """The settings of a test, with nothing left open."""

    protocol: Protocol
    object_share: Portion = Field(default_factory=_share)
    batch_size: Count
    workers: Whole
    dataset: Dataset
    max_missing: Portion
    output_dir: File


class OnePair(Options, frozen=True):
    """The settings of one heat map."""

    protocol: Protocol = "ezvsl-test"
    object_share: Portion = Field(default_factory=_share)
    image: File
    sound: File
    output: File


class OneVideo(Options, frozen=True):
    """The settings of maps over a video."""

    batch_size: Count = 32
    video: File
    output: File


def _check_output(options: Options) -> None:
    """Check the options that draw, instead of testing."""
    wanted = PAIR if options.video is None else ("video", "output")
    given = [name for name in (*PAIR, "video", "strip") if getattr(options, name) is not None]
    if not given:
        return
    if options.strip is not None and options.video is None:
        raise UserError("--strip needs --video")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(f"{flag(given[0])} needs {flags(missing)}")
    for name in ("dataset", *FILES, "test_size", "max_missing", "output_dir"):
        if getattr(options, name) is not None:
            raise UserError(f"{flag(name)} is for a test set and does not go with {flag(given[0])}")
    for name in ("image", "sound", "protocol", "object_weights"):
        if options.video is not None and getattr(options, name) is not None:
            raise UserError(f"{flag(name)} does not go with --video")
    endings = ".png" if options.video is None else (".mp4", ".gif")
    for name, allowed in (("output", endings), ("strip", ".png")):
        path = getattr(options, name)
        if path is not None and not path.name.lower().endswith(allowed):
            words = allowed if isinstance(allowed, str) else " or ".join(allowed)
            raise UserError(f"{flag(name)}: must end in {words}, got {path}")


def check(options: Options) -> None:
    """Check the options as far as they can be without the run.

    Raises:
        UserError: When they contradict each other or the device is none.
    """
    _check_output(options)
    if options.object_share is not None and options.object_weights is None:
        raise UserError("--object-share needs --object-weights")
    check_device(options.device)


def complete(options: Options, folder: Path, run: Settings) -> WholeSet:
    """Fill in what was not given: from the run if its data are those of the test set, or defaults.

    Args:
        options: From the command line.
        folder: Of the run.
        run: Its settings.

    Raises:
        UserError: When the data set does not suit the checkpoint, lacks an option or has one that
            does not belong to it.
    """
    dataset = options.dataset or run.dataset
    if (dataset == "synthetic") != (run.dataset == "synthetic"):
        raise UserError(
            f"--dataset {dataset}: the checkpoint was trained on {run.dataset}, whose "
            "images and spectrograms are others"
        )
    kind = KINDS[dataset]
    for name in FILES:
        if name not in kind.needs + kind.may_have and getattr(options, name) is not None:
            raise UserError(f"--dataset {dataset} takes no {flag(name)}")
    like = run
    if kind.like != run.dataset:
        like = Settings.model_validate({"dataset": kind.like or "vggsound"})
    protocol = options.protocol or kind.protocol
    values: dict[str, Any] = {
        **{name: getattr(like, name, None) for name in _FROM_RUN},
        **(_own_clips(options, folder, run) if dataset == run.dataset == "clips" else {}),
        "dataset": dataset,
        "protocol": protocol,
        "output_dir": folder / f"evaluation-{dataset}-{protocol}",
        **options.model_dump(exclude_none=True),
    }
    missing = [name for name in kind.needs if not values[name]]
    if missing:
        raise UserError(f"--dataset {dataset} needs {flags(missing)}")
    return WholeSet.model_validate(values)


def _own_clips(options: Options, folder: Path, run: Settings) -> dict[str, Any]:
    """Return where the clips are that a run on own clips was tested with, and which they are.

    Those of another folder are other clips, with annotations and classes of their own.
    """
    if options.test_root is not None:
        return {"test_list": None, "annotations": None, "labels": None}
    return {
        "test_root": run.test_root or run.data_root,
        "test_list": folder / LISTS / "test.txt",
    }
