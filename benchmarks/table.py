"""Rows of results as aligned text for a terminal or as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """One line: name, cost, ratio, target and verdict.

    ``met`` is "yes", "NO", or empty without a target.
    """

    what: str
    cost: str
    ratio: str = ""
    target: str = ""
    met: str = ""


HEADINGS: Final = tuple(field.name for field in fields(Row))


def judged(what: str, cost: str, ratio: str, target: str, *, met: bool) -> Row:
    """Return a row with its verdict."""
    return Row(what, cost, ratio, target, "yes" if met else "NO")


def text(rows: Sequence[Row]) -> str:
    """Return the rows in aligned columns with headings."""
    lines = [HEADINGS, *(astuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(astuple(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
