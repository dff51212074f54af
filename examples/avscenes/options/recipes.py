"""Recipes: files that set options, as a publication did. The command line overrides them.

A recipe is a TOML file whose keys are options of `train_fnac.py` without the dashes in front. The
key `extends` names another recipe, whose settings it starts from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avscenes.files.errors import UserError, reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[2] / "recipes"


def shipped() -> list[str]:
    """Return the names of the recipes that come with the example."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(
    name: str, parser: argparse.ArgumentParser, known: Mapping[str, object]
) -> dict[str, Any]:
    """Return the settings of a recipe, those that it extends included.

    Args:
        name: Of a shipped recipe, or of a file.
        parser: What turns values into settings, as it does on the command line.
        known: The settings that a recipe may name; those whose value is a bool take true or false.

    Raises:
        UserError: When there is no such recipe, it cannot be read, or a key or a value is wrong.
    """
    settings: dict[str, Any] = {}
    files: list[Path] = []
    following: object = name
    while following is not None:
        path = _find(following, files[-1] if files else None)
        if path in files:
            raise UserError(f"--recipe: {path}: extends: leads back to this file")
        files.append(path)
        entries = _read(path)
        following = entries.pop("extends", None)
        settings = {**_convert(path, entries, parser, known), **settings}
    return settings


def _find(name: object, extended_by: Path | None) -> Path:
    """Return the file of a recipe; one that another file names may lie beside that one."""
    if name in shipped():
        return FOLDER / f"{name}.toml"
    place = "--recipe" if extended_by is None else f"--recipe: {extended_by}: extends"
    if isinstance(name, str):
        path = Path(name) if extended_by is None else extended_by.parent / name
        if path.is_file():
            return path.resolve()
    raise UserError(f"{place}: there is no recipe or file {name!r}; --help lists the recipes")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    # What tomllib raises for its own errors, and Python for other encodings, is a ValueError.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--recipe: cannot read {path}: {reason_of(error)}") from error


def _convert(
    path: Path,
    entries: Mapping[str, object],
    parser: argparse.ArgumentParser,
    known: Mapping[str, object],
) -> dict[str, Any]:
    parser.exit_on_error = False
    settings: dict[str, Any] = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name not in known or "_" in key:
            raise UserError(
                f"--recipe: {path}: unknown key {key!r}; keys are options without the dashes in "
                "front, such as batch-size"
            )
        switch = isinstance(known[name], bool)
        if isinstance(value, bool) != switch or not isinstance(value, bool | int | float | str):
            expected = "true or false" if switch else "a number or text"
            got = str(value).lower() if isinstance(value, bool) else repr(value)
            raise UserError(f"--recipe: {path}: {key}: must be {expected}, got {got}")
        if switch:
            settings[name] = value
            continue
        try:
            settings.update(vars(parser.parse_args([f"--{key}={value}"])))
        except argparse.ArgumentError as error:
            raise UserError(f"--recipe: {path}: {key}: {error.message}") from error
    return settings
