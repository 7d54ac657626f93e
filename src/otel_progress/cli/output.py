"""Output of commands: text, tables, JSON and errors, safe for every terminal."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TextIO

import click

from otel_progress.codec import SCHEMA, Document, encode_operation
from otel_progress.console.cells import cut_cells
from otel_progress.console.glyphs import CONDITION_STYLES, STATUS_STYLES
from otel_progress.exports import encode_json_line
from otel_progress.formats import format_condition_name
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.text import escape_controls

MAX_BATCHES: Final = 1000
"""Batches that a list, a search by prefix and shell completion read, the newest."""


EXIT_ABANDONED: Final = 4
"""Exit code with ``--exit-status``: an abandoned operation, whose process has exited."""


EXIT_NOT_REPORTING: Final = 5
"""Exit code of ``show --exit-status``: an operation that sends no heartbeats has not reported."""


_MIN_CUT_CELLS: Final = 12
"""Narrowest width of a cut column. Narrower columns are never cut."""


class CliError(click.ClickException):
    """Error of the command line: one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        # Why: click declares exit_code as a class variable, but reads it from the instance.
        setattr(self, "exit_code", exit_code)  # noqa: B010


def echo(text: str = "") -> None:
    """Write one line to stdout, without colours if stdout does not support them.

    Other control characters are not removed: the caller escapes untrusted text.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def echo_error(message: str) -> None:
    """Write ``error: message`` to stderr, on one line."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    line = f"error: {escape_controls(' '.join(message.split()))}"
    # Why suppress: stderr may be full or closed, and there is no other place for the error.
    with suppress(OSError):
        click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=True)


def quote_id(operation_id: str) -> str:
    """Return an ID as an argument for a suggested command.

    ``--`` precedes an ID that starts with ``-``.
    """
    quoted = shlex.quote(escape_controls(operation_id))
    return f"-- {quoted}" if operation_id.startswith("-") else quoted


def echo_if_possible(text: str) -> None:
    """Write one line to stdout.

    Discard all output if stdout is full or its reader has exited.
    """
    try:
        echo(text)
    except OSError:
        discard_output()


def discard_output(stream: TextIO | None = None) -> None:
    """Discard further output to a stream, by default stdout.

    An example is ``| head -1`` after its end.
    """
    with suppress(OSError, ValueError, AttributeError):
        target = (sys.stdout if stream is None else stream).fileno()
        discarding = os.open(os.devnull, os.O_WRONLY)
        os.dup2(discarding, target)
        os.close(discarding)


def echo_json(document: object) -> None:
    """Write a document as one line of JSON, escaped for stdout's encoding."""
    text = encode_json_line(document)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), separators=(",", ":"))
    click.echo(text)


def build_operations_document(operations: Sequence[OperationSnapshot]) -> Document:
    """Return the JSON document of a list of operations, without their levels."""
    return {
        "schema": SCHEMA,
        "operations": [encode_operation(operation, levels=False) for operation in operations],
    }


def style_text(text: str, style: str) -> str:
    """Return text with a style such as ``bold yellow``."""
    if not style or not text:
        return text
    words = style.split()
    colour = next((word for word in words if word not in {"bold", "dim"}), None)
    return click.style(text, fg=colour, bold="bold" in words or None, dim="dim" in words or None)


def get_status_label(status: Status, condition: Condition) -> tuple[str, str]:
    """Return the label and style of a state.

    The label is the condition, or the status if the condition is ok.
    """
    if condition is Condition.OK:
        return status.value, STATUS_STYLES[status]
    return format_condition_name(condition), CONDITION_STYLES[condition]


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write one line per label and value.

    Values may be styled. Facts without a value are omitted.
    """
    for label, value in facts:
        if value:
            echo(f"  {style_text(f'{label:<10}', 'dim')} {value}")


def write_table(
    rows: Sequence[Sequence[str]],
    styles: Sequence[Mapping[int, str]],
    width: int | None,
    optional: Sequence[int] = (),
    intact: int | None = None,
) -> None:
    """Write rows in columns. The first row is the header.

    Empty columns are omitted. On a terminal of ``width`` cells the columns in ``optional`` are
    omitted until the table fits, then the last column is cut. The column ``intact`` is never cut:
    columns before it become narrower instead. A ``width`` of None never cuts.
    ``styles`` has the styles of each row by column, with -1 as the default.
    """
    from rich.cells import set_cell_size

    sizes = _measure_columns(rows, width, optional)
    if width is not None and intact in sizes:
        _shrink_columns_before(sizes, intact, width)
    for row, style in zip(rows, styles, strict=True):
        free_cells, cells = width, []
        for index, column_size in sizes.items():
            size = column_size if free_cells is None else max(0, min(column_size, free_cells))
            cell = cut_cells(row[index], size)
            padded = cell if index == max(sizes) else set_cell_size(cell, size)
            cells.append(style_text(padded, style.get(index, style.get(-1, ""))))
            free_cells = None if free_cells is None else free_cells - size - 2
        echo("  ".join(cells).rstrip())


def _measure_columns(
    rows: Sequence[Sequence[str]], width: int | None, optional: Sequence[int]
) -> dict[int, int]:
    """Return the width in cells of each column that is shown, by index."""
    from rich.cells import cell_len

    sizes = {
        index: max(cell_len(row[index]) for row in rows)
        for index in range(len(rows[0]))
        if any(row[index] for row in rows[1:])
    }
    if width is None:
        return sizes
    last = max(sizes)
    max_size = max(_MIN_CUT_CELLS, width // 4)
    sizes = {index: size if index == last else min(size, max_size) for index, size in sizes.items()}
    for index in optional:
        available = width + max(0, sizes[max(sizes)] - _MIN_CUT_CELLS)
        if sum(sizes.values()) + 2 * (len(sizes) - 1) > available:
            sizes.pop(index, None)
    return sizes


def _shrink_columns_before(sizes: dict[int, int], intact: int, width: int) -> None:
    """Make the widest columns before ``intact`` narrower until that column fits."""
    before = [index for index in sizes if index < intact]
    excess = sum(sizes[index] + 2 for index in before) + sizes[intact] - width
    while excess > 0 and before:
        widest = max(before, key=lambda index: sizes[index])
        if sizes[widest] <= 1:
            return
        sizes[widest] -= 1
        excess -= 1


def get_terminal_width() -> int | None:
    """Return the width of the terminal on stdout in cells. None for a file or pipe."""
    from otel_progress.console.region import get_terminal_size

    return get_terminal_size(sys.stdout)[0] if sys.stdout.isatty() else None
