"""Makes a command line of a model: an option of every field. Imports nothing that takes time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NoReturn

from pydantic import ValidationError

from avscenes.files.errors import UserError
from avscenes.files.strict import Model, fault_of, flag

_MANY = 8  # names, above which a line cannot hold them beside the option


class ModelParser(argparse.ArgumentParser, Generic[Model]):
    """Reads the fields of a model; when something is wrong, it says so in one line.

    A field's title is its placeholder in the help, and `groups` are headings by the first field
    below them.
    """

    silent = False  # in a process whose neighbour says the same

    def __init__(
        self,
        model: type[Model],
        prog: str,
        description: str,
        *,
        groups: Mapping[str, str] | None = None,
        positional: Collection[str] = (),
        epilog: str | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self.model = model
        group: Any = self
        for name, about in model.model_json_schema()["properties"].items():
            if groups and name in groups:
                group = self.add_argument_group(groups[name])
            more = _described(about)
            if name in positional:
                group.add_argument(name, **more)
            else:
                required = model.model_fields[name].is_required()
                group.add_argument(flag(name), required=required, **more)

    def read(self, arguments: Sequence[str] | None = None) -> Model:
        """Return the options; those that were given are its `model_fields_set`."""
        given = vars(self.parse_args(arguments))
        try:
            return self.model.model_validate(given, strict=False)  # everything is text
        except ValidationError as error:
            key, text = fault_of(error)
            self.error(f"{flag(key.split('.')[0])}: {text}")

    def run(
        self,
        work: Callable[[Model], int | None],
        arguments: Sequence[str] | None,
        interrupted: str = "",
    ) -> int:
        """Call a function with the options, and return the exit status: its own, or else 0.

        It is 2 for what the user can put right, and 130 after Ctrl-C, of which `interrupted` says
        what it means.
        """
        try:
            return work(self.read(arguments)) or 0
        except UserError as error:
            print(f"{self.prog}: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if interrupted:
                print(f"interrupted; {interrupted}", file=sys.stderr)
            return 128 + 2

    def error(self, message: str) -> NoReturn:
        """Print the message and leave."""
        self.exit(2, None if self.silent else f"{self.prog}: error: {message}\n")


def _described(about: dict[str, Any]) -> dict[str, Any]:
    """Return what argparse has to know of a field, of which this is the JSON schema."""
    text, default = about.get("description", ""), about.get("default")
    form = about.get("anyOf", [about])[0]
    names = form.get("items", form).get("enum", [])
    several = form["type"] == "array"
    if len(names) > _MANY:
        text = f"{'of' if several else 'one of'} {', '.join(names)} {text}"
    if default is not None and default is not False and "(default: " not in text:
        text += f" (default: {' '.join(default) if several else default})"
    more: dict[str, Any] = {"help": text.strip()}
    if form["type"] == "boolean":
        return {**more, "action": "store_true"}
    if several:
        more["nargs"] = "+"
    if about["title"].isupper():
        more["metavar"] = about["title"]
    elif names:
        more["metavar"] = "NAME" if len(names) > _MANY else f"{{{','.join(names)}}}"
    return more
