"""``logs``: the log records of an operation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import click

from otel_progress.cli.context import CliContext, complete_id, find_operation
from otel_progress.cli.options import complete_severity, parse_severity, parse_since
from otel_progress.cli.output import echo, echo_json, style_text
from otel_progress.codec import SCHEMA, encode_log
from otel_progress.console.rows import clean_text
from otel_progress.formats import format_moment
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import LogQuery, Reader
from otel_progress.records import SEVERITIES, LogRecord
from otel_progress.text import escape_controls

_MAX_RECORDS_PER_POLL: Final = 10_000
"""Records read per poll with ``--follow``. Of more than these only the newest are written."""


@click.command(
    epilog="""\b
With --follow, the command ends when the operation finishes, or with Ctrl-C.

\b
Examples:
  otel-progress logs friday-42
  otel-progress logs friday-42 --severity WARNING --since 15m
  otel-progress logs friday-42 --path song:12 --limit 20
  otel-progress logs friday-42 --follow --json | jq .message
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--severity",
    metavar="SEVERITY",
    callback=parse_severity,
    shell_complete=complete_severity,
    help="Lowest severity: DEBUG to CRITICAL, or a number.",
)
@click.option(
    "--since",
    metavar="WHEN",
    callback=parse_since,
    help="Only records since then: 15m (15 minutes ago), 2026-01-31T12:00:00Z, or Unix seconds.",
)
@click.option("--path", metavar="PATH", help="Only this level and what is below it, as song:12/action:3.")
@click.option("--follow", "-f", is_flag=True, help="Continue with new records until the operation finishes.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Maximum number of records; the newest are shown.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=0.25,
    show_default=True,
    help="Seconds between polls with --follow.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document; with --follow one line per record."
)
@click.pass_obj
def logs(
    context: CliContext,
    operation_id: str,
    severity: int,
    since: float | None,
    path: str | None,
    follow: bool,
    limit: int,
    interval: float,
    as_json: bool,
) -> None:
    """Show the log records of an operation, oldest first.

    Log records are stored if the operation runs with capture_logs=True.
    """
    with context.reader() as reader:
        operation = find_operation(reader, operation_id)
        query = LogQuery(path or None, severity, since, limit=limit)
        records = reader.logs(operation.operation_id, query)
        if follow:
            # Why: Ctrl-C is the usual way to end --follow, so it is not an error.
            with suppress(KeyboardInterrupt):
                _write_records(records, as_json)
                query = replace(query, after=_last_number(records, 0), limit=_MAX_RECORDS_PER_POLL)
                _follow_records(reader, operation, query, interval, as_json)
        elif as_json:
            document = {"schema": SCHEMA, "operation_id": operation.operation_id, "run": operation.run}
            echo_json({**document, "logs": [encode_log(record) for record in records]})
        elif records:
            _write_records(records, as_json)
        else:
            echo("No log records. To store them, call configure(capture_logs=True) in the program.")


def _follow_records(
    reader: Reader,
    operation: OperationSnapshot,
    query: LogQuery,
    interval: float,
    as_json: bool,
) -> None:
    """Write new records until the run has finished, including its last ones."""
    is_active = not operation.status.finished
    while is_active:
        time.sleep(interval)
        # Why: the status is read before the records, so the last read includes the final records.
        is_active = any(active.run == operation.run for active in reader.active(levels=False))
        new_records = reader.logs(operation.operation_id, query)
        records = [record for record in new_records if record.run == operation.run]
        query = replace(query, after=_last_number(records, query.after))
        _write_records(records, as_json)


def _last_number(records: Iterable[LogRecord], default: int) -> int:
    return max((record.number for record in records), default=default)


def _write_records(records: Iterable[LogRecord], as_json: bool) -> None:
    for record in records:
        if as_json:
            echo_json(encode_log(record))
            continue
        severity = clean_text(record.severity_text) or str(record.severity)
        path = f" {style_text(clean_text(record.path), 'dim')}" if record.path else ""
        first_line, *other_lines = record.message.splitlines() or [""]
        echo(
            f"{format_moment(record.at)} {style_text(f'{severity:<8}', get_severity_style(record.severity))} "
            f"{clean_text(record.logger)}{path}: {escape_controls(first_line)}"
        )
        for line in (*other_lines, *(record.details or "").splitlines()):
            echo(f"    {escape_controls(line)}")
    sys.stdout.flush()


def get_severity_style(severity: int) -> str:
    """Return the style of a severity: red, yellow, none for INFO, or dim."""
    if severity >= SEVERITIES["ERROR"]:
        return "bold red" if severity >= SEVERITIES["CRITICAL"] else "red"
    if severity >= SEVERITIES["WARNING"]:
        return "yellow"
    return "" if severity >= SEVERITIES["INFO"] else "dim"
