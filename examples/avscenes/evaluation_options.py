"""The command line of `evaluate.py`: what is not given comes from the run of the checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from avcontrast import metrics
from avscenes.errors import UserError
from avscenes.objects import mixes_absolute
from avscenes.options import BY_DATASET, COMMON, OneLineParser, flag
from avscenes.testsets import DATASETS, FOLDER_OPTIONS

DESCRIPTION = """\
Evaluate a checkpoint of train_fnac.py on a test set, or draw the heat map of one image and sound.

What is not given is as in the run of the checkpoint."""
_FROM_RUN = (*FOLDER_OPTIONS, "test_size", "max_missing", "batch_size", "workers")


def _number(kind: Callable[[str], float], least: float, most: float, expected: str) -> Any:  # noqa: ANN401
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert


_COUNT = _number(int, 1, float("inf"), "a whole number of at least 1")
_WHOLE = _number(int, 0, float("inf"), "a whole number of at least 0")
_SHARE = _number(float, 0, 1, "between 0 and 1")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what is not given is None."""
    parser = OneLineParser(
        prog="evaluate.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        help="RUN/checkpoints/best.ckpt, say; the settings are read from RUN/config.json",
    )
    add(
        "--protocol",
        choices=list(metrics.PROTOCOLS),
        default="ezvsl-test",
        metavar="NAME",
        help=f"one of {', '.join(metrics.PROTOCOLS)} (default: ezvsl-test)",
    )
    add("--object-weights", type=Path, help="torchvision's ResNet-18 weights; adds OGL and the mix")
    add(
        "--object-share",
        type=_SHARE,
        help="weight of the object map in the mix (default: 0.6; 0.1 under slavc-test protocols)",
    )
    add("--batch-size", type=_COUNT, help="pairs that are encoded at a time")
    add(
        "--device", help="as torch names it: cpu, cuda, cuda:1, mps (default: cuda if there is one)"
    )
    add("--workers", type=_WHOLE, help="processes that read data")

    tests = parser.add_argument_group("a test set")
    add = tests.add_argument
    add("--dataset", choices=list(DATASETS), help="(default: that of the run)")
    add("--test-root", type=Path, help="folder with frames/ and audio/")
    add("--test-list", type=Path, help="ids, one a line (vggss_test.csv)")
    add("--annotations", type=Path, help="classes and boxes (vggss.json)")
    add("--test-size", type=_COUNT, help="number of test pairs")
    add("--max-missing", type=_SHARE, help="stop when more than this share is unreadable")
    add("--output-dir", type=Path, help="(default: RUN/evaluation-DATASET-PROTOCOL)")

    pair = parser.add_argument_group("one pair, instead of a test set")
    add = pair.add_argument
    add("--image", type=Path, help="image file")
    add("--sound", type=Path, help="sound file")
    add("--output", type=Path, help="PNG file to write")
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, checked as far as they can be without the run.

    Raises:
        UserError: When options contradict each other or the device is none.
    """
    options = build_parser().parse_args(arguments)
    given = [name for name in ("image", "sound", "output") if getattr(options, name) is not None]
    for name in ("image", "sound", "output"):
        if given and name not in given:
            raise UserError(f"{flag(given[0])} needs {flag(name)}")
    if given and options.output.suffix.lower() != ".png":
        raise UserError(f"--output: must end in .png, got {options.output}")
    if options.object_share is not None and options.object_weights is None:
        raise UserError("--object-share needs --object-weights")
    if options.object_share is None:
        options.object_share = 0.1 if mixes_absolute(options.protocol) else 0.6
    options.device = _device(options.device)
    return options


def complete(options: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    """Fill in what was not given: from the run if it was tested on this data set, or its defaults.

    Raises:
        UserError: When the data set does not suit the checkpoint or lacks an option.
    """
    trained_on = settings["dataset"]
    options.dataset = options.dataset or trained_on
    if (options.dataset == "synthetic") != (trained_on == "synthetic"):
        raise UserError(
            f"--dataset {options.dataset}: the checkpoint was trained on {trained_on}, whose "
            "images and spectrograms are others"
        )
    if options.dataset not in DATASETS:
        raise UserError(
            f"--dataset: the checkpoint was trained on {trained_on}; name the test data, "
            f"one of {', '.join(DATASETS)}"
        )
    for name in FOLDER_OPTIONS:
        if options.dataset == "synthetic" and getattr(options, name) is not None:
            raise UserError(f"{flag(name)} needs --dataset vggsound")
    defaults = {**COMMON, **BY_DATASET[options.dataset]}
    known = settings if options.dataset == trained_on else defaults
    for name in _FROM_RUN:
        if getattr(options, name) is None:
            setattr(options, name, known.get(name, defaults[name]))
        if name in FOLDER_OPTIONS and options.dataset != "synthetic" and not getattr(options, name):
            raise UserError(f"--dataset {options.dataset} needs {flag(name)}")
    if options.output_dir is None:
        options.output_dir = folder / f"evaluation-{options.dataset}-{options.protocol}"


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # What a name or a build of torch that is not up to it raises.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device: cannot use {name}: {str(error).splitlines()[0]}") from error
    return device
