"""The command line: every option, its default for each dataset, and the settings of a resumed run.

Options have no default of their own in the parser, so that it is known which ones were given: the
others take the defaults of the dataset, or, with `--resume`, what the run was started with.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from avscenes.encoders import NORMS
from avscenes.errors import UserError
from avscenes.processes import first_process

LOSSES = {
    # name: which of the three adjacency terms are switched on, as (fns_audio, fns_visual, tne)
    "nce": (False, False, False),
    "fns-audio": (True, False, False),
    "fns-visual": (False, True, False),
    "fns": (True, True, False),
    "tne": (False, False, True),
    "fnac": (True, True, True),
}

COMMON: dict[str, Any] = {
    "loss": "fnac",
    "temperature": 0.03,
    "fns_audio_weight": 100.0,
    "fns_visual_weight": 100.0,
    "tne_weight": 100.0,
    "threshold": 0.6,
    "image_weights": None,
    "norm": "batch",
    "weight_decay": 1e-4,
    "evaluate": "last",
    "precision": "32-true",
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "compile": False,
    "seed": 0,
    "data_root": None,
    "train_list": None,
    "test_root": None,
    "test_list": None,
    "annotations": None,
    "allow_overlap": False,
    "max_missing": 0.05,
}
BY_DATASET: dict[str, dict[str, Any]] = {
    "synthetic": {
        "train_size": 512,
        "validation_size": 128,
        "test_size": 504,
        "encoder": "small",
        "image_dropout": 0.0,
        "warm_start_epochs": 12,
        "epochs": 40,
        "warmup_epochs": 10,
        "batch_size": 128,
        "lr": 3e-3,
        "schedule": "one-cycle",
        "workers": 0,
    },
    "vggsound": {
        "train_size": None,
        "validation_size": 512,
        "test_size": None,
        "encoder": "resnet18",
        "image_dropout": 0.9,
        "warm_start_epochs": 0,
        "epochs": 30,
        "warmup_epochs": 5,
        "batch_size": 256,
        "lr": 1e-4,
        "schedule": "constant",
        "workers": 8,
    },
}
FOLDER_OPTIONS = ("data_root", "train_list", "test_root", "test_list", "annotations")
# These do not change what is to be learned; a run may go on with other ones.
CHANGEABLE = ("accelerator", "devices", "num_nodes", "workers", "output_dir", "evaluate")
DESCRIPTION = """\
Train an image and a sound encoder with a contrastive loss and measure how well they localise.

Without arguments: synthetic scenes, made on the spot, in about a minute. Defaults that depend on
the dataset are written as SYNTHETIC / VGGSOUND; the second is the published recipe."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message, once however many processes read the options, and leave."""
        self.exit(2, f"{self.prog}: error: {message}\n" if first_process() else None)


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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the values it yields hold only the options that were given."""
    parser = OneLineParser(
        prog="train_fnac.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )

    def default(name: str) -> str:
        values = [COMMON[name]] if name in COMMON else [d[name] for d in BY_DATASET.values()]
        return " / ".join("all" if value is None else f"{value}" for value in values)

    def option(group: Any, flag: str, kind: Any, text: str, **more: Any) -> None:  # noqa: ANN401
        name = flag[2:].replace("-", "_")
        known = name in COMMON or name in BY_DATASET["synthetic"]
        if known and name not in (*FOLDER_OPTIONS, "image_weights"):
            text = f"{text} (default: {default(name)})"
        group.add_argument(flag, type=kind, help=text, **more)

    data = parser.add_argument_group("data")
    option(data, "--dataset", str, "(default: synthetic)", choices=list(BY_DATASET))
    option(
        data, "--data-root", Path, "folder with frames/ID.jpg or .png and audio/ID.wav to train on"
    )
    option(data, "--train-list", Path, "ids to train on, one a line")
    option(data, "--test-root", Path, "folder with frames/ and audio/ to test on")
    option(data, "--test-list", Path, "ids to test on, one a line (vggss_test.csv)")
    option(data, "--annotations", Path, "classes and boxes of the test clips (vggss.json)")
    data.add_argument(
        "--allow-overlap",
        action="store_true",
        help="train although clips of --test-list are in --train-list",
    )
    option(data, "--train-size", _COUNT, "number of pairs to train on")
    option(data, "--validation-size", _COUNT, "number of further training pairs that are held out")
    option(data, "--test-size", _COUNT, "number of test pairs")
    option(data, "--max-missing", _SHARE, "stop when more than this share of a list is unreadable")

    loss = parser.add_argument_group("loss")
    option(loss, "--loss", str, "terms beside the contrastive one", choices=list(LOSSES))
    option(loss, "--temperature", _POSITIVE, "of every similarity")
    option(loss, "--fns-audio-weight", _AMOUNT, "weight of the audio adjacency")
    option(loss, "--fns-visual-weight", _AMOUNT, "weight of the visual adjacency")
    option(loss, "--tne-weight", _AMOUNT, "weight of true-negative enhancement")
    option(loss, "--threshold", _SHARE, "of the localised region in true-negative enhancement")
    option(loss, "--warmup-epochs", _WHOLE, "epochs with the contrastive term alone")

    model = parser.add_argument_group("model")
    option(model, "--encoder", str, "both encoders", choices=["small", "resnet18"])
    option(model, "--norm", str, "normalisation in the encoders", choices=list(NORMS))
    option(model, "--image-weights", Path, "torchvision's ResNet-18 weights for the image encoder")
    option(model, "--image-dropout", _SHARE, "share of the image features dropped in training")
    option(model, "--warm-start-epochs", _WHOLE, "epochs of the visual warm start (synthetic only)")

    training = parser.add_argument_group("training")
    option(training, "--epochs", _COUNT, "passes over the training pairs")
    option(training, "--batch-size", _COUNT, "pairs in a batch of all processes together")
    option(training, "--lr", _POSITIVE, "highest learning rate of Adam")
    option(training, "--schedule", str, "of the learning rate", choices=["constant", "one-cycle"])
    option(training, "--weight-decay", _AMOUNT, "of Adam")
    option(training, "--evaluate", str, "checkpoint that is tested", choices=["last", "best"])
    option(training, "--seed", _WHOLE, "of weights, order and augmentation; the data stay the same")

    machine = parser.add_argument_group("machine")
    option(machine, "--precision", str, "as Lightning names it: 32-true, bf16-mixed, 16-mixed, ...")
    option(machine, "--accelerator", str, "as Lightning names it: cpu, gpu, ...")
    option(machine, "--devices", _COUNT, "processes on each machine, which share every batch")
    option(machine, "--num-nodes", _COUNT, "machines")
    option(machine, "--workers", _WHOLE, "processes that read data, for each that trains")
    machine.add_argument("--compile", action="store_true", help="compile both encoders")

    output = parser.add_argument_group("output")
    option(output, "--output-dir", Path, "(default: runs/DATASET-LOSS-seedSEED)")
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of --output-dir, with the settings stored there",
    )
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the settings of the run, checked against each other.

    Raises:
        UserError: When options contradict each other, or the run that is to be resumed.
    """
    given = _plain(vars(build_parser().parse_args(arguments)))
    resume = given.pop("resume", False)
    dataset = given.get("dataset", "synthetic")
    settings = {"dataset": dataset, **COMMON, **BY_DATASET[dataset], **given}
    folder = f"runs/{dataset}-{settings['loss']}-seed{settings['seed']}"
    settings.setdefault("output_dir", folder)
    if resume:
        stored = read_config(Path(settings["output_dir"]))
        _refuse_changes(given, stored)
        changed = {name: given[name] for name in CHANGEABLE if name in given}
        settings = {**stored, **changed, "output_dir": settings["output_dir"]}
    _check(settings)
    return argparse.Namespace(**settings, resume=resume)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings that a run wrote down when it started.

    Raises:
        UserError: When the folder holds no run.
    """
    path = folder / "config.json"
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume: there is no readable {path}") from error
    expected = {"dataset", "output_dir", *COMMON, *BY_DATASET["synthetic"]}
    if stored.keys() != expected:
        names = ", ".join(sorted(stored.keys() ^ expected))
        raise UserError(f"--resume: {path} is from another version; it differs in {names}")
    return stored


def flag(name: str) -> str:
    """Return how a setting is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Turn paths into text, so that settings can be stored and compared."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def _refuse_changes(given: dict[str, Any], stored: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in CHANGEABLE and value != stored[name]:
            raise UserError(
                f"{flag(name)} is {value} but the run was started with {stored[name]}; "
                "leave the option out, or start a new run in another --output-dir"
            )


def _check(settings: dict[str, Any]) -> None:
    folders = settings["dataset"] == "vggsound"
    for name in FOLDER_OPTIONS:
        if folders and settings[name] is None:
            raise UserError(f"--dataset vggsound needs {flag(name)}")
        if not folders and settings[name] is not None:
            raise UserError(f"{flag(name)} needs --dataset vggsound")
    if settings["image_weights"] is not None and settings["encoder"] != "resnet18":
        raise UserError("--image-weights needs --encoder resnet18")
    if settings["image_weights"] is not None and settings["norm"] != "batch":
        raise UserError("--image-weights needs --norm batch")
    if folders and settings["warm_start_epochs"]:
        raise UserError("--warm-start-epochs needs --dataset synthetic")
    size = settings["train_size"]
    if size is not None and settings["batch_size"] > size:
        raise UserError(f"--batch-size {settings['batch_size']} is larger than --train-size {size}")
    batch, validation = settings["batch_size"], settings["validation_size"]
    check_split(f"--batch-size {batch}", batch, settings)
    if validation < batch:
        check_split(f"--validation-size {validation}", validation, settings)


def check_split(what: str, size: int, settings: dict[str, Any]) -> None:
    """Raise `UserError` unless a batch of that size has equal parts for all processes."""
    devices, nodes = settings["devices"], settings["num_nodes"]
    if size % (devices * nodes):
        raise UserError(
            f"{what} cannot be split evenly over {devices * nodes} processes "
            f"(--devices {devices} x --num-nodes {nodes})"
        )
