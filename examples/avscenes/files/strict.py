"""Checks strictly what comes from outside, and says in one line what is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, WrapValidator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from avscenes.files.errors import UserError, reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Of models, and of named tuples before pydantic 2.14.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
JSON, TOML = json.loads, tomllib.loads
Model = TypeVar("Model", bound=BaseModel)


def must_be(words: str) -> WrapValidator:
    """Return what makes any fault of a value read `must be {words}`."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("must_be", "must be {words}", {"words": words}) from error

    return WrapValidator(check)


class OneOf:
    """Names that are known only when the program runs, as a type."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        """Accept the names alone."""
        return core_schema.literal_schema(self.names)


Count = Annotated[int, Field(ge=1), must_be("a whole number of at least 1")]
Whole = Annotated[int, Field(ge=0), must_be("a whole number of at least 0")]
Positive = Annotated[FiniteFloat, Field(gt=0), must_be("a number above 0")]
Amount = Annotated[FiniteFloat, Field(ge=0), must_be("a number of at least 0")]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1), must_be("at least 0 and below 1")]
Within = Annotated[FiniteFloat, Field(gt=0, lt=1), must_be("above 0 and below 1")]
Portion = Annotated[FiniteFloat, Field(ge=0, le=1), must_be("between 0 and 1")]
Box = Annotated[
    list[FiniteFloat], Field(min_length=4, max_length=4), must_be("four numbers x0, y0, x1, y1")
]
# No file says that a text is a path.
File = Annotated[Path, Field(strict=False), must_be("a path")]


def option(default: object, text: str, **more: Any) -> Any:  # noqa: ANN401
    """Return a field with a default and a text for the help."""
    return Field(default, description=text, **more)


def flag(name: str) -> str:
    """Return how a setting is written on the command line."""
    return f"--{name.replace('_', '-')}"


def flags(names: Sequence[str]) -> str:
    """Return several settings as they are written on the command line, in one phrase."""
    *first, last = map(flag, names)
    return f"{', '.join(first)} and {last}" if first else last


def fault_of(error: ValidationError) -> tuple[str, str]:
    """Return the key of the first fault, and what was expected and what came.

    A key that is not known comes first, since it may be why another one is missing.
    """
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] in _UNKNOWN), faults[0])
    key, got = ".".join(str(part) for part in first["loc"]), repr(first["input"])
    if first["type"] in _UNKNOWN:
        return key, "unknown key"
    if first["type"].startswith("missing"):
        return key, "is missing"
    text = first["msg"].replace("Input should be", "must be")
    text = text.replace("a valid boolean", "true or false")
    return key, f"{text}, got {got if len(got) <= 100 else f'{got[:100]}...'}"


def checked(model: type[Model], values: object, place: str) -> Model:
    """Return values as a model.

    Raises:
        UserError: When there is a fault; it names the place, the key, what was expected and what
            came.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        key, text = fault_of(error)
        raise UserError(": ".join(part for part in (place, key, text) if part)) from error


def read_file(path: Path, parse: Callable[[str], Any], option: str = "") -> Any:  # noqa: ANN401
    """Return what is in a JSON or TOML file, or raise `UserError`, which names the option."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    # What parsers raise for their own errors, and Python for other encodings, is a ValueError.
    except (OSError, ValueError, RecursionError) as error:
        where = f"{option}: " if option else ""
        raise UserError(f"{where}cannot read {path}: {reason_of(error)}") from error
