"""The options of `train_fnac.py`.

They have no default of their own in the parser, so that it is known which ones were given: the
others take what the recipe says, or the default of the dataset, or, with `--resume`, what the run
was started with.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avscenes.media.transforms import TRANSFORMS
from avscenes.models.encoders import NORMS
from avscenes.options.parser import OneLineParser
from avscenes.options.recipes import shipped
from avscenes.training.processes import first_process
from avscenes.training.settings import BY_DATASET, CLIPS, COMMON, FOLDER_OPTIONS, LOSSES

DESCRIPTION = """\
Train an image and a sound encoder with a contrastive loss and measure how well they localise.

Without arguments: synthetic scenes, made on the spot, in about a minute. Defaults that depend on
the dataset are written as SYNTHETIC / CLIPS; --recipe sets what a publication did."""
# Files and the like: nothing to say about a default.
_WITHOUT_DEFAULT = (*FOLDER_OPTIONS, "recipe", "image_weights", "init_from", "transform")


def _number(kind: type, accepts: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:  # noqa: ANN401
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not accepts(value):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert


_COUNT = _number(int, lambda value: value >= 1, "a whole number of at least 1")
_WHOLE = _number(int, lambda value: value >= 0, "a whole number of at least 0")
_POSITIVE = _number(float, lambda value: value > 0, "a number above 0")
_AMOUNT = _number(float, lambda value: value >= 0, "a number of at least 0")
_SHARE = _number(float, lambda value: 0 <= value < 1, "at least 0 and below 1")


def _option(group: Any, flag: str, kind: Any, text: str, **more: Any) -> None:  # noqa: ANN401
    name = flag[2:].replace("-", "_")
    if name not in _WITHOUT_DEFAULT and (name in COMMON or name in CLIPS):
        values = [COMMON[name]] if name in COMMON else [BY_DATASET["synthetic"][name], CLIPS[name]]
        shown = " / ".join("all" if value is None else f"{value}" for value in values)
        text = f"{text} (default: {shown})"
    group.add_argument(flag, type=kind, help=text, **more)


def build_parser() -> OneLineParser:
    """Return the parser; the values it yields hold only the options that were given."""
    parser = OneLineParser(
        prog="train_fnac.py",
        description=DESCRIPTION,
        epilog="recipes:\n  " + "\n  ".join(shipped()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.silent = not first_process()
    parser.add_argument(
        "--recipe", metavar="NAME_OR_FILE", help="settings from below or from a TOML file"
    )
    _add_data(parser.add_argument_group("data"))
    _add_loss(parser.add_argument_group("loss"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_machine(parser.add_argument_group("machine"))

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        type=Path,
        help="(default: runs/DATASET-LOSS-seedSEED, or runs/RECIPE-seedSEED)",
    )
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of --output-dir, with the settings stored there",
    )
    return parser


def _add_data(data: Any) -> None:  # noqa: ANN401
    _option(data, "--dataset", str, "(default: synthetic)", choices=list(BY_DATASET))
    _option(
        data, "--data-root", Path, "folder with frames/ID.jpg or .png and audio/ID.wav to train on"
    )
    _option(data, "--train-list", Path, "ids to train on, one a line")
    _option(data, "--test-root", Path, "folder with frames/ and audio/ to test on")
    _option(data, "--test-list", Path, "ids to test on, one a line (vggss_test.csv)")
    _option(
        data,
        "--annotations",
        Path,
        "classes and boxes of the test clips (vggss.json), or the folder of Flickr's ID.xml",
    )
    data.add_argument(
        "--allow-overlap",
        action="store_true",
        help="train although clips of --test-list are in --train-list",
    )
    _option(data, "--train-size", _COUNT, "number of pairs to train on")
    _option(data, "--validation-size", _COUNT, "number of further training pairs that are held out")
    _option(data, "--test-size", _COUNT, "number of test pairs")
    _option(data, "--max-missing", _SHARE, "stop when more than this share of a list is unreadable")
    _option(
        data,
        "--transform",
        str,
        "what happens to a clip in training, as published (default: fnac; not for scenes)",
        choices=list(TRANSFORMS),
    )


def _add_loss(loss: Any) -> None:  # noqa: ANN401
    _option(loss, "--loss", str, "terms beside the contrastive one", choices=list(LOSSES))
    _option(loss, "--temperature", _POSITIVE, "of every similarity")
    _option(loss, "--fns-audio-weight", _AMOUNT, "weight of the audio adjacency")
    _option(loss, "--fns-visual-weight", _AMOUNT, "weight of the visual adjacency")
    _option(loss, "--tne-weight", _AMOUNT, "weight of true-negative enhancement")
    _option(
        loss,
        "--anchor",
        str,
        "whose rows the adjacencies are compared with in false-negative suppression",
        choices=["visual", "audio"],
    )
    _option(loss, "--threshold", _SHARE, "of the localised region in true-negative enhancement")
    _option(loss, "--warmup-epochs", _WHOLE, "epochs with the contrastive term alone")


def _add_model(model: Any) -> None:  # noqa: ANN401
    _option(model, "--encoder", str, "both encoders", choices=["small", "resnet18"])
    _option(model, "--norm", str, "normalisation in the encoders", choices=list(NORMS))
    _option(model, "--image-weights", Path, "torchvision's ResNet-18 weights for the image encoder")
    _option(
        model,
        "--init-from",
        Path,
        "start from the encoders, or one of them, of a checkpoint: of this script, or of the "
        "released FNAC or EZ-VSL code",
    )
    _option(model, "--image-dropout", _SHARE, "share of the image features dropped in training")
    _option(
        model, "--warm-start-epochs", _WHOLE, "epochs of the visual warm start (synthetic only)"
    )


def _add_training(training: Any) -> None:  # noqa: ANN401
    _option(training, "--epochs", _COUNT, "passes over the training pairs")
    _option(training, "--batch-size", _COUNT, "pairs in a batch of all processes together")
    _option(training, "--lr", _POSITIVE, "highest learning rate of Adam")
    _option(training, "--schedule", str, "of the learning rate", choices=["constant", "one-cycle"])
    _option(training, "--weight-decay", _AMOUNT, "of Adam")
    _option(training, "--evaluate", str, "checkpoint that is tested", choices=["last", "best"])
    _option(
        training, "--seed", _WHOLE, "of weights, order and augmentation; the data stay the same"
    )


def _add_machine(machine: Any) -> None:  # noqa: ANN401
    _option(
        machine, "--precision", str, "as Lightning names it: 32-true, bf16-mixed, 16-mixed, ..."
    )
    _option(machine, "--accelerator", str, "as Lightning names it: cpu, gpu, ...")
    _option(machine, "--devices", _COUNT, "processes on each machine, which share every batch")
    _option(machine, "--num-nodes", _COUNT, "machines")
    _option(machine, "--workers", _WHOLE, "processes that read data, for each that trains")
    machine.add_argument("--compile", action="store_true", help="compile both encoders")
