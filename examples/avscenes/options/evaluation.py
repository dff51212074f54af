"""The command line of `evaluate.py`: what is not given comes from the run of the checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from avcontrast import metrics
from avscenes.files.errors import UserError
from avscenes.models.object_maps import mixes_absolute
from avscenes.options.parser import OneLineParser
from avscenes.sets.testsets import KINDS
from avscenes.training.settings import BY_DATASET, COMMON, flag

DESCRIPTION = """\
Evaluate a checkpoint of train_fnac.py on a test set, or draw the heat map of one image and sound.

What is not given is as in the run of the checkpoint."""
_FILES = {
    "test_root": "folder with images and sounds",
    "test_list": "ids, one a line (vggss_test.csv); for avsbench the table of videos",
    "annotations": "vggss.json; for flickr the folder of ID.xml; for is3 the list of boxes",
    "silent_list": "pairs without a visible source (vggss_test_plus_silent.csv)",
    "other_half": "test list of the other half of an open set, which must share no class",
}
_FROM_RUN = (*_FILES, "test_size", "max_missing", "batch_size", "workers")


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
        help="RUN/checkpoints/best.ckpt, say, with its settings in RUN/config.json; or one of the "
        "released FNAC or EZ-VSL code, which needs none",
    )
    add(
        "--protocol",
        choices=list(metrics.PROTOCOLS),
        metavar="NAME",
        help=f"one of {', '.join(metrics.PROTOCOLS)} (default: slavc-test for extended sets, "
        "alignment for is3, ezvsl-test for all others)",
    )
    add("--object-weights", type=Path, help="torchvision's ResNet-18 weights; adds OGL and the mix")
    add(
        "--object-share",
        type=_SHARE,
        help="weight of the object map in the mix (default: 0.6; 0.1 under SLAVC's protocols)",
    )
    add("--batch-size", type=_COUNT, help="pairs that are encoded at a time")
    add(
        "--device", help="as torch names it: cpu, cuda, cuda:1, mps (default: cuda if there is one)"
    )
    add("--workers", type=_WHOLE, help="processes that read data")

    tests = parser.add_argument_group("a test set")
    add = tests.add_argument
    add(
        "--dataset",
        choices=list(KINDS),
        metavar="NAME",
        help=f"one of {', '.join(KINDS)} (default: that of the run)",
    )
    for name, text in _FILES.items():
        takers = [kind for kind, what in KINDS.items() if name in what.needs + what.may_have]
        add(flag(name), type=Path, help=f"{text} ({', '.join(takers)})")
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
    for name in ("dataset", *_FILES, "test_size", "max_missing", "output_dir"):
        if given and getattr(options, name) is not None:
            raise UserError(f"{flag(name)} is for a test set and does not go with {flag(given[0])}")
    if given and options.output.suffix.lower() != ".png":
        raise UserError(f"--output: must end in .png, got {options.output}")
    if options.object_share is not None and options.object_weights is None:
        raise UserError("--object-share needs --object-weights")
    options.device = _device(options.device)
    if given:
        _choose_protocol(options, "ezvsl-test")
    return options


def _choose_protocol(options: argparse.Namespace, default: str) -> None:
    options.protocol = options.protocol or default
    if options.object_share is None:
        options.object_share = 0.1 if mixes_absolute(options.protocol) else 0.6


def complete(options: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    """Fill in what was not given: from the run if its data are those of the test set, or defaults.

    Raises:
        UserError: When the data set does not suit the checkpoint, lacks an option or has one that
            does not belong to it.
    """
    trained_on = settings["dataset"]
    options.dataset = options.dataset or trained_on
    if (options.dataset == "synthetic") != (trained_on == "synthetic"):
        raise UserError(
            f"--dataset {options.dataset}: the checkpoint was trained on {trained_on}, whose "
            "images and spectrograms are others"
        )
    if options.dataset not in KINDS:
        raise UserError(
            f"--dataset: the checkpoint was trained on {trained_on}; name the test data, "
            f"one of {', '.join(KINDS)}"
        )
    kind = KINDS[options.dataset]
    for name in _FILES:
        if name not in kind.needs + kind.may_have and getattr(options, name) is not None:
            raise UserError(f"--dataset {options.dataset} takes no {flag(name)}")
    defaults = {**COMMON, **BY_DATASET[kind.like or "vggsound"]}
    known = {**defaults, **settings} if kind.like == trained_on else defaults
    for name in _FROM_RUN:
        if getattr(options, name) is None:
            setattr(options, name, known.get(name))
        if name in kind.needs and not getattr(options, name):
            raise UserError(f"--dataset {options.dataset} needs {flag(name)}")
    _choose_protocol(options, kind.protocol)
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
