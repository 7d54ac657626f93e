"""``export``: one operation as a document, as lines, or as a table, for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import click

from otel_progress.cli.output import Fault
from otel_progress.cli.scope import Scope, complete_id, find
from otel_progress.export import EXPORTERS

_ALL_EVENTS: Final = 10_000_000


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
@click.option("--format", "format_", type=click.Choice(list(EXPORTERS)), default="json", show_default=True, help="What to write.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; - or nothing is stdout.")
@click.pass_obj
def export(scope: Scope, operation_id: str, format_: str, output: Path | None) -> None:
    """Write one operation with its levels and events."""
    with scope.reader() as reader:
        operation = find(reader, operation_id)
        events = () if format_ == "csv" else reader.events(operation.operation_id, limit=_ALL_EVENTS)
    lines = EXPORTERS[format_](operation, events)
    if output is None or str(output) == "-":
        encoding = sys.stdout.encoding or "utf-8"
        for line in lines:
            click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
        return
    _save(output, lines)


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
