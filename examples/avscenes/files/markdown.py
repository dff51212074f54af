"""Tables of pages that are written in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a table of a header and rows.

    Args:
        lines: The header first.
        texts: How many of the first columns are text; the others are numbers, aligned to the right.
    """
    header, *rows = lines
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))
