"""What commands write: text that no terminal can be harmed by, JSON that goes through any pipe, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from otel_progress.codec import SCHEMA, Document, encode_operation
from otel_progress.console.format import cut_cells
from otel_progress.console.glyphs import CONDITION_STYLES, STATUS_STYLES
from otel_progress.exports import encode_json_line
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.text import escape_controls

_LEAST_CUT: Final = 12
"""Columns narrower than this are never cut, and a last column of less is not worth its place."""


class CliError(click.ClickException):
    """An error of the command line: one line on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        setattr(self, "exit_code", exit_code)  # noqa: B010 - a class variable to click's types, read from the instance


def echo(text: str = "") -> None:
    """Write one line to stdout. Colours (of ``paint``) are taken out where they do not belong; ``text`` is trusted otherwise."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def say_error(message: str) -> None:
    """Write ``error: message`` to stderr, on one line."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    line = f"error: {escape_controls(' '.join(message.split()))}"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=True)


def say_json(document: object) -> None:
    """Write a document as one line of JSON that is safe for every encoding and every terminal."""
    text = encode_json_line(document)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), separators=(",", ":"))
    click.echo(text)


def operations_document(operations: Sequence[OperationSnapshot]) -> Document:
    """Return the document of a list of operations, without their levels."""
    return {
        "schema": SCHEMA,
        "operations": [encode_operation(operation, levels=False) for operation in operations],
    }


def style_text(text: str, style: str) -> str:
    """Return text in a style of the display's tables (``bold yellow``)."""
    if not style or not text:
        return text
    words = style.split()
    colour = next((word for word in words if word not in {"bold", "dim"}), None)
    return click.style(text, fg=colour, bold="bold" in words or None, dim="dim" in words or None)


def status_word(status: Status, condition: Condition) -> tuple[str, str]:
    """Return what to call the state of an operation, and its style: its condition when that is not ok, else its status."""
    if condition is Condition.OK:
        return status.value, STATUS_STYLES[status]
    return condition.value, CONDITION_STYLES[condition]


def table(
    rows: Sequence[Sequence[str]],
    styles: Sequence[Mapping[int, str]],
    width: int | None,
    spare: Sequence[int] = (),
) -> None:
    """Write rows, the first one the header, in columns; those without content are left out.

    On a terminal of ``width`` cells the columns in ``spare`` go first when there is no room, and the last one is cut; None never
    cuts. ``styles`` has each row's styles by column.
    """
    from rich.cells import cell_len, set_cell_size

    sizes = {
        index: max(cell_len(row[index]) for row in rows)
        for index in range(len(rows[0]))
        if any(row[index] for row in rows[1:])
    }
    if width is not None:
        sizes = {
            index: min(size, max(_LEAST_CUT, width // 4)) if index != max(sizes) else size
            for index, size in sizes.items()
        }
        for index in spare:
            if sum(sizes.values()) + 2 * (len(sizes) - 1) > width + max(0, sizes[max(sizes)] - _LEAST_CUT):
                sizes.pop(index, None)
    for row, style in zip(rows, styles, strict=True):
        room, cells = width, []
        for index, wanted in sizes.items():
            size = wanted if room is None else max(0, min(wanted, room))
            cell = cut_cells(row[index], size)
            cells.append(
                style_text(
                    cell if index == max(sizes) else set_cell_size(cell, size),
                    style.get(index, style.get(-1, "")),
                )
            )
            room = None if room is None else room - size - 2
        echo("  ".join(cells).rstrip())


def terminal_width() -> int | None:
    """Return the columns of the terminal on stdout, None when it is a file or a pipe."""
    from otel_progress.console.region import terminal_size

    return terminal_size(sys.stdout)[0] if sys.stdout.isatty() else None
