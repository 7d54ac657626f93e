"""``logs`` command: log records of an operation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import click

from otel_progress.cli.context import CliContext, complete_id, find
from otel_progress.cli.options import complete_severity, moment_of, severity_of
from otel_progress.cli.output import echo, say_json, style_text
from otel_progress.codec import SCHEMA, encode_log
from otel_progress.console.format import moment
from otel_progress.console.rows import clean
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import LogQuery, Reader
from otel_progress.records import SEVERITIES, LogRecord
from otel_progress.text import escape_controls

_MAX_RECORDS_PER_POLL: Final = 10_000
"""Newest records that one poll reads while following. Older new ones are skipped."""


@click.command(
    epilog="""\b
With --follow, the command ends with the operation or with Ctrl-C.

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
    callback=severity_of,
    shell_complete=complete_severity,
    help="Lowest severity: DEBUG to CRITICAL, or a number.",
)
@click.option(
    "--since",
    metavar="WHEN",
    callback=moment_of,
    help="Earliest time: 15m (that long ago), 2026-01-31T12:00:00Z, or Unix seconds.",
)
@click.option("--path", metavar="PATH", help="Only this level and its subtree, as song:12/action:3.")
@click.option("--follow", "-f", is_flag=True, help="Print new records until the operation ends.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="At most so many, the newest.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=0.25,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --follow one line a record.")
@click.pass_obj
def logs(
    scope: CliContext,
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

    Requires capture_logs=True in the work.
    """
    query = LogQuery(path, severity, since, limit=limit)
    with scope.reader() as reader:
        operation = find(reader, operation_id)
        records = reader.logs(operation.operation_id, query)
        if follow:
            # Ctrl-C ends the command regularly.
            with suppress(KeyboardInterrupt):
                _write_records(records, as_json)
                after = max((record.number for record in records), default=0)
                query = replace(query, after=after, limit=_MAX_RECORDS_PER_POLL)
                _follow_records(reader, operation, query, interval, as_json)
        elif as_json:
            say_json(
                {
                    "schema": SCHEMA,
                    "operation_id": operation.operation_id,
                    "run": operation.run,
                    "logs": [encode_log(record) for record in records],
                }
            )
        elif records:
            _write_records(records, as_json)
        else:
            echo("No log records. Work keeps them when it is configured with capture_logs=True.")


def _follow_records(
    reader: Reader, operation: OperationSnapshot, query: LogQuery, interval: float, as_json: bool
) -> None:
    """Write new records until the run has ended, including its last ones."""
    is_running = not operation.status.finished
    while is_running:
        time.sleep(interval)
        # Why before the records: the last records of a run are stored before the run has ended.
        is_running = any(active.run == operation.run for active in reader.active(levels=False))
        found = reader.logs(operation.operation_id, query)
        records = [record for record in found if record.run == operation.run]
        query = replace(query, after=max((record.number for record in records), default=query.after))
        _write_records(records, as_json)


def _write_records(records: Iterable[LogRecord], as_json: bool) -> None:
    for record in records:
        if as_json:
            say_json(encode_log(record))
            continue
        severity = style_text(
            f"{clean(record.severity_text) or record.severity:<8}", severity_style(record.severity)
        )
        path = f" {style_text(clean(record.path), 'dim')}" if record.path else ""
        first, *more = record.message.splitlines() or [""]
        echo(f"{moment(record.at)} {severity} {clean(record.logger)}{path}: {escape_controls(first)}")
        for line in (*more, *(record.details or "").splitlines()):
            echo(f"    {escape_controls(line)}")
    sys.stdout.flush()


def severity_style(severity: int) -> str:
    """Return the style of a severity: red, yellow for warnings, dim below INFO."""
    if severity >= SEVERITIES["ERROR"]:
        return "bold red" if severity >= SEVERITIES["CRITICAL"] else "red"
    if severity >= SEVERITIES["WARNING"]:
        return "yellow"
    return "" if severity >= SEVERITIES["INFO"] else "dim"
