"""``export``: one operation as a document, as lines, or as a table, for other programs."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import click

from otel_progress.cli.output import Fault, as_json
from otel_progress.cli.scope import Scope, complete_id, find
from otel_progress.codec import SCHEMA, encode_event, encode_level, encode_operation
from otel_progress.model import Event, OperationSnapshot
from otel_progress.text import printable

_ALL_EVENTS: Final = 10_000_000
_COLUMNS: Final = (
    "operation_id",
    "operation_type",
    "run",
    "path",
    "type",
    "id",
    "name",
    "status",
    "ratio",
    "percentage",
    "current",
    "total",
    "unit",
    "failed",
    "skipped",
    "attempt",
    "message",
    "started_at",
    "ended_at",
    "elapsed_seconds",
    "trace_id",
    "span_id",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@click.command(
    epilog="""\b
json   the operation with its levels and events, one document
jsonl  one line for the operation, each level and each event; "record" says which
csv    one row for the operation and each level; text a spreadsheet could take for a formula gets a ' in front

\b
Examples:
  otel-progress export friday-42 --format json -o friday.json
  otel-progress export friday-42 --format jsonl | jq 'select(.record == "event")'
  otel-progress export friday-42 --format csv -o friday.csv
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--format", "format_", type=click.Choice(["json", "jsonl", "csv"]), default="json", show_default=True, help="What to write."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; - or nothing is stdout.")
@click.pass_obj
def export(scope: Scope, operation_id: str, format_: str, output: Path | None) -> None:
    """Write one operation with its levels and events."""
    with scope.reader() as reader:
        operation = find(reader, operation_id)
        events = () if format_ == "csv" else reader.events(operation.operation_id, limit=_ALL_EVENTS)
    lines = {"json": _document, "jsonl": _lines, "csv": _rows}[format_](operation, events)
    if output is None or str(output) == "-":
        encoding = sys.stdout.encoding or "utf-8"
        for line in lines:
            click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
        return
    _save(output, lines)


def _document(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    yield as_json({**encode_operation(operation), "events": [encode_event(event) for event in events]})


def _lines(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    yield as_json({"record": "operation", **encode_operation(operation, levels=False)})
    for level in operation.levels:
        yield as_json({"record": "level", "schema": SCHEMA, **encode_level(level, operation.clock)})
    for event in events:
        yield as_json({"record": "event", "schema": SCHEMA, **encode_event(event)})


def _rows(operation: OperationSnapshot, events: Sequence[Event]) -> Iterator[str]:
    """Yield CSV (RFC 4180) records; ``events`` have no place in a table of levels."""
    del events
    yield _record([*_COLUMNS, "error_type", "error_message", "metadata"])
    for level in (operation.root, *operation.levels):
        document = encode_level(level, operation.clock)
        error = document["error"] or {"type": None, "message": None}
        metadata = as_json(document["metadata"]) if document["metadata"] else None
        yield _record([*(document[name] for name in _COLUMNS), error["type"], error["message"], metadata])


def _record(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Return what stands in a cell: text on one line that no spreadsheet runs (OWASP, CSV injection); numbers as they are."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.lstrip(" ").startswith(_FORMULA) else text


def _save(path: Path, lines: Iterator[str]) -> None:
    """Write a file at once or not at all."""
    try:
        with NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name[:100]}.", delete=False, encoding="utf-8", newline="\n"
        ) as file:
            part = Path(file.name)
            try:
                file.writelines(f"{line}\n" for line in lines)
                file.close()
                part.replace(path)
            except BaseException:
                file.close()
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        msg = f"Cannot write {str(path)!r}: {error.strerror}. Name a file in a directory that exists and can be written, with -o."
        raise Fault(msg) from error
