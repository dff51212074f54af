"""The one exception that stands for a mistake of the person at the command line."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can put right; its message is one line that names it."""
