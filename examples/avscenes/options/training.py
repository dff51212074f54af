"""The settings of a run: from the command line, a recipe, the defaults, or the run resumed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avscenes.files.errors import UserError
from avscenes.options.recipes import read_recipe
from avscenes.options.training_parser import build_parser
from avscenes.training.settings import CHANGEABLE, FOLDER_OPTIONS, check_split, defaults, flag


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the settings of the run, checked against each other.

    Raises:
        UserError: When options contradict each other, or the run that is to be resumed.
    """
    given = _plain(vars(build_parser().parse_args(arguments)))
    resume = given.pop("resume", False)
    recipe = given.get("recipe")
    chosen = {**_settings_of(recipe), **given} if recipe is not None else given
    settings = {**defaults(chosen.get("dataset", "synthetic")), **chosen}
    name = f"{settings['dataset']}-{settings['loss']}" if recipe is None else Path(recipe).stem
    settings.setdefault("output_dir", f"runs/{name}-seed{settings['seed']}")
    if resume:
        stored = read_config(Path(settings["output_dir"]))
        _refuse_changes(given, stored)
        changed = {name: given[name] for name in CHANGEABLE if name in given}
        settings = {**stored, **changed, "output_dir": settings["output_dir"]}
    _check(settings)
    return argparse.Namespace(**settings, resume=resume)


def _settings_of(recipe: str) -> dict[str, Any]:
    known = defaults("synthetic")
    del known["recipe"]
    return _plain(read_recipe(recipe, build_parser(), known))


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
    expected = {"output_dir", *defaults("synthetic")}
    if stored.keys() != expected:
        names = ", ".join(sorted(stored.keys() ^ expected))
        raise UserError(f"--resume: {path} is from another version; it differs in {names}")
    return stored


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
    folders = settings["dataset"] != "synthetic"
    for name in FOLDER_OPTIONS:
        if folders and settings[name] is None:
            raise UserError(f"--dataset {settings['dataset']} needs {flag(name)}")
    for name in (*FOLDER_OPTIONS, "transform"):
        if not folders and settings[name] is not None:
            raise UserError(f"{flag(name)} needs --dataset vggsound or flickr")
    if settings["image_weights"] is not None and settings["encoder"] != "resnet18":
        raise UserError("--image-weights needs --encoder resnet18")
    if settings["image_weights"] is not None and settings["norm"] != "batch":
        raise UserError("--image-weights needs --norm batch")
    if folders and settings["warm_start_epochs"]:
        raise UserError("--warm-start-epochs needs --dataset synthetic")
    for name in ("image_weights", "warm_start_epochs"):
        if settings["init_from"] is not None and settings[name]:
            raise UserError(f"--init-from and {flag(name)} {settings[name]} exclude each other")
    size = settings["train_size"]
    if size is not None and settings["batch_size"] > size:
        raise UserError(f"--batch-size {settings['batch_size']} is larger than --train-size {size}")
    batch, validation = settings["batch_size"], settings["validation_size"]
    check_split(f"--batch-size {batch}", batch, settings)
    if validation < batch:
        check_split(f"--validation-size {validation}", validation, settings)
