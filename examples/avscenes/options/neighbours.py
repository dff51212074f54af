"""The options of `neighbours.py`, and the training set that they stand for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from avscenes.files.errors import UserError
from avscenes.files.output import check_free
from avscenes.files.strict import Count, File, Share, Whole, Within, flag, flags, option
from avscenes.options.parser import ModelParser
from avscenes.training.devices import check_device, device_option
from avscenes.training.settings import NEEDED, Settings
from avscenes.training.trained import Trained

RESULT = "neighbours.npz"
_DESCRIPTION = """\
List the nearest other samples of each sample of a training set, by image and by sound.

What is not given is as in the run of the checkpoint; with --data-root, or without a checkpoint, as
train_fnac.py has it."""
_DATA = (
    *("data_root", "train_list", "train_size", "validation_size", "held_out"),
    *("test_root", "test_list", "annotations", "max_missing", "workers"),
)
_NEEDED = ("data_root", "train_list")
_OF_FILES = (*_NEEDED, "labels")
_OF_CLIPS = ("held_out", "test_root", "test_list", "annotations")


class Options(BaseModel, strict=True, frozen=True):
    """The options."""

    checkpoint: File | None = option(
        None, "what encodes images and sounds, as evaluate.py takes it"
    )
    image_weights: File | None = option(
        None, "torchvision's ResNet-18 weights, to encode the images instead"
    )
    k: Count = option(1_000, "number of neighbours")
    output_dir: File = Field(description=f"folder for {RESULT}")
    labels: File | None = option(
        None, "classes of the clips, ID,CLASS a line, to say how many neighbours share theirs"
    )

    dataset: Literal["synthetic", "vggsound", "flickr", "clips"] | None = option(
        None, "(default: that of the run)"
    )
    data_root: File | None = option(None, "folder with the images and sounds to train on")
    train_list: File | None = option(None, "ids to train on, one a line")
    train_size: Count | None = option(None, "number of pairs to train on")
    validation_size: Count | None = option(None, "number of further pairs that are held out")
    held_out: Within | None = option(None, "share of the pairs that is held out (clips)")
    test_root: File | None = option(None, "folder to test on, if another one (clips)")
    test_list: File | None = option(None, "ids to test on, which are not trained on (clips)")
    annotations: File | None = option(None, "boxes of clips to test on (clips)")
    max_missing: Share | None = option(None, "stop when more than this share is unreadable")

    batch_size: Count = option(64, "pairs that are encoded at a time")
    device: str = device_option()
    workers: Whole | None = option(None, "processes that read data")


def check(options: Options) -> None:
    """Check the options as far as they can be without the run.

    Raises:
        UserError: When one is missing or the device is none.
    """
    if options.checkpoint is None and options.image_weights is None:
        raise UserError("it needs --checkpoint or --image-weights, to encode the samples with")
    check_free("--output-dir", options.output_dir, claim=RESULT)
    check_device(options.device)


def complete(options: Options, trained: Trained | None) -> Settings:
    """Return the settings of a run that trains on the samples.

    Raises:
        UserError: When the data set does not suit the checkpoint, lacks an option or has one that
            does not belong to it.
    """
    run = Settings() if trained is None else trained.settings
    dataset = options.dataset or run.dataset
    if trained is not None and (dataset == "synthetic") != (run.dataset == "synthetic"):
        raise UserError(
            f"--dataset {dataset}: the checkpoint was trained on {run.dataset}, whose "
            "images and spectrograms are others"
        )
    refused = _OF_CLIPS if dataset != "clips" else ("validation_size",)
    for name in (*refused, *(_OF_FILES if dataset == "synthetic" else ())):
        if getattr(options, name) is not None:
            raise UserError(f"--dataset {dataset} takes no {flag(name)}")
    if dataset != run.dataset or options.data_root is not None:
        run = Settings.model_validate({"dataset": dataset})
    given = options.model_dump(include={*_DATA}, exclude_none=True)
    values = {**{name: getattr(run, name) for name in _DATA}, **given}
    missing = [name for name in _NEEDED if name in NEEDED[dataset] and values[name] is None]
    if missing:
        raise UserError(f"--dataset {dataset} needs {flags(missing)}")
    # What is tested on does not matter here, unless it decides what is trained on.
    return Settings.model_validate({**values, "dataset": dataset, "allow_overlap": True})


def build_parser() -> ModelParser[Options]:
    """Return the parser of the command line."""
    return ModelParser(Options, "neighbours.py", _DESCRIPTION, groups={"dataset": "data"})
