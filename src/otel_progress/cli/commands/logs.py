"""``logs``: the log records that were made inside of an operation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import click

from otel_progress.cli.context import CliContext, complete_id, find
from otel_progress.cli.options import complete_severity, moment_of, severity_of
from otel_progress.cli.output import echo, say_json, style_text
from otel_progress.codec import SCHEMA, encode_log
from otel_progress.console.format import moment
from otel_progress.console.rows import clean
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import Reader
from otel_progress.records import SEVERITIES, LogRecord
from otel_progress.text import escape_controls

_AT_ONCE: Final = 10_000
"""Records that one look takes in while following."""


@click.command(
    epilog="""\b
With --follow it ends when the operation has ended, or with Ctrl-C.

\b
Examples:
  otel-progress logs friday-42
  otel-progress logs friday-42 --level WARNING --since 15m
  otel-progress logs friday-42 --path song:12 --limit 20
  otel-progress logs friday-42 --follow --json | jq .message
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--level",
    "severity",
    metavar="LEVEL",
    callback=severity_of,
    shell_complete=complete_severity,
    help="Least severity: DEBUG to CRITICAL, or a number.",
)
@click.option(
    "--since",
    metavar="WHEN",
    callback=moment_of,
    help="Not before: 15m (that long ago), 2026-01-31T12:00:00Z, or Unix seconds.",
)
@click.option("--path", metavar="PATH", help="Only this level and what is below it, as song:12/action:3.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
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
    """Show the log records of an operation, the oldest first. The work keeps them with capture_logs=True."""
    with scope.reader() as reader:
        operation = find(reader, operation_id)
        id_ = operation.operation_id
        records = reader.logs(id_, path=path or None, severity=severity, since=since, limit=limit)
        if follow:
            with suppress(KeyboardInterrupt):  # how it is ended
                _write(records, as_json)
                after = max((record.number for record in records), default=0)
                _follow(
                    reader,
                    operation,
                    after,
                    interval,
                    as_json,
                    path=path or None,
                    severity=severity,
                    since=since,
                )
        elif as_json:
            say_json(
                {
                    "schema": SCHEMA,
                    "operation_id": id_,
                    "run": operation.run,
                    "logs": [encode_log(record) for record in records],
                }
            )
        elif records:
            _write(records, as_json)
        else:
            echo("No log records. Work keeps them when it is configured with capture_logs=True.")


def _follow(
    reader: Reader,
    operation: OperationSnapshot,
    after: int,
    interval: float,
    as_json: bool,
    *,
    path: str | None,
    severity: int,
    since: float | None,
) -> None:
    """Write what comes until the run has ended, and everything that was kept before its end."""
    running = not operation.status.finished
    while running:
        time.sleep(interval)
        # Asked before the records: those that were kept until the end are seen after it.
        running = any(one.run == operation.run for one in reader.active(levels=False))
        found = reader.logs(
            operation.operation_id, path=path, severity=severity, since=since, after=after, limit=_AT_ONCE
        )
        records = [record for record in found if record.run == operation.run]
        after = max((record.number for record in records), default=after)
        _write(records, as_json)


def _write(records: Iterable[LogRecord], as_json: bool) -> None:
    for record in records:
        if as_json:
            say_json(encode_log(record))
            continue
        level = style_text(
            f"{clean(record.severity_text) or record.severity:<8}", severity_style(record.severity)
        )
        place = f" {style_text(clean(record.path), 'dim')}" if record.path else ""
        first, *more = record.message.splitlines() or [""]
        echo(f"{moment(record.at)} {level} {clean(record.logger)}{place}: {escape_controls(first)}")
        for line in (*more, *(record.details or "").splitlines()):
            echo(f"    {escape_controls(line)}")
    sys.stdout.flush()


def severity_style(severity: int) -> str:
    """Return the style of a severity: red from ERROR on, yellow from WARNING on, dim below INFO."""
    if severity >= SEVERITIES["ERROR"]:
        return "bold red" if severity >= SEVERITIES["CRITICAL"] else "red"
    if severity >= SEVERITIES["WARNING"]:
        return "yellow"
    return "" if severity >= SEVERITIES["INFO"] else "dim"
