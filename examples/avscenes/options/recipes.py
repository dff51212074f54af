"""Recipes: files that set options, as a publication did. The command line overrides them.

A recipe is a TOML file whose keys are options of `train_fnac.py` without the dashes in front. The
key `extends` names another recipe, whose settings it starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from avscenes.files.errors import UserError
from avscenes.files.strict import TOML, fault_of, read_file
from avscenes.training.settings import Settings

FOLDER = Path(__file__).parents[2] / "recipes"
_KEYS = {
    name.replace("_", "-"): name
    for name in Settings.model_fields
    if name not in ("recipe", "output_dir", "resume")
}


def shipped() -> list[str]:
    """Return the names of the recipes that come with the example."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a recipe, those that it extends included.

    Args:
        name: Of a shipped recipe, or of a file.

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
        entries = read_file(path, TOML, "--recipe")
        following = entries.pop("extends", None)
        settings = {**_checked(path, entries), **settings}
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


def _checked(path: Path, entries: dict[str, object]) -> dict[str, Any]:
    for key in entries:
        if key not in _KEYS:
            raise UserError(
                f"--recipe: {path}: unknown key {key!r}; keys are options without the dashes in "
                "front, such as batch-size"
            )
    try:
        settings = Settings.model_validate({_KEYS[key]: v for key, v in entries.items()})
    except ValidationError as error:
        name, text = fault_of(error)
        raise UserError(f"--recipe: {path}: {name.replace('_', '-')}: {text}") from error
    return settings.model_dump(exclude_unset=True)
