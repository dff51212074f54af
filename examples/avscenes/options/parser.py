"""A command line whose errors are one line; imports nothing that takes time."""

from __future__ import annotations

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser that leaves out the usage when something is wrong."""

    silent = False  # in a process whose neighbour says the same

    def error(self, message: str) -> NoReturn:
        """Print the message and leave."""
        self.exit(2, None if self.silent else f"{self.prog}: error: {message}\n")
