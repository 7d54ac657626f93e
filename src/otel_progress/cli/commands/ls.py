"""``ls`` and ``history``: operations in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from otel_progress.cli.batch_output import MAX_BATCHES, batch_table, write_batch_summary
from otel_progress.cli.context import CliContext
from otel_progress.cli.output import echo, operations_document, say_json, status_word, table, terminal_width
from otel_progress.codec import SCHEMA, encode_batch
from otel_progress.console.format import count, duration, moment, percentage, remaining
from otel_progress.console.rows import cancelling_note, clean, failure_text
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.protocols import BatchQuery, HistoryQuery

_HISTORY_IN_LS: Final = 1000


_HEADER: Final = (
    "STATUS",
    "ID",
    "TYPE",
    "NAME",
    "DONE",
    "COUNT",
    "FAILED",
    "STARTED",
    "TIME",
    "LEFT",
    "MESSAGE",
)


_SPARE: Final = tuple(_HEADER.index(name) for name in ("STARTED", "TYPE", "NAME", "FAILED", "LEFT", "COUNT"))


@click.command(
    epilog="""\b
Examples:
  otel-progress ls
  otel-progress ls --all --status failed
  otel-progress ls --condition stalled --json
  otel-progress ls --batches
"""
)
@click.option("--all", "everything", is_flag=True, help="Ended operations too.")
@click.option("--type", "type_", metavar="TYPE", help="Only operations of this type.")
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    help="Only this status; ended ones imply --all.",
)
@click.option(
    "--condition",
    type=click.Choice([condition.value for condition in Condition]),
    help="Only this condition.",
)
@click.option(
    "--batches", "only_batches", is_flag=True, help="Batches instead of operations, those that are over too."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def ls(
    scope: CliContext,
    everything: bool,
    type_: str | None,
    status: str | None,
    condition: str | None,
    only_batches: bool,
    as_json: bool,
) -> None:
    """List the operations that are under way, the newest first, and their batches."""
    if only_batches and (everything or condition is not None):
        msg = "--batches lists all batches: it goes with --type, --status and --json only."
        raise click.UsageError(msg)
    with scope.reader() as reader:
        filtered = any(one is not None for one in (type_, status, condition))
        batches = reader.batches(BatchQuery(MAX_BATCHES)) if only_batches or not filtered else ()
        operations = [] if only_batches else list(reader.active(levels=False))
        if not only_batches and (everything or (status is not None and Status(status).finished)):
            operations += reader.history(HistoryQuery(type_, _HISTORY_IN_LS))
    if only_batches:
        _write_batches(
            [one for one in batches if type_ in (None, one.type) and status in (None, one.status.value)],
            as_json,
        )
        return
    operations = [
        operation
        for operation in operations
        if type_ in (None, operation.operation_type)
        and status in (None, operation.status.value)
        and condition in (None, operation.condition.value)
    ]
    at_work = [batch for batch in batches if not batch.is_finished]
    if as_json:
        document = operations_document(operations)
        say_json({**document, "batches": [encode_batch(batch, operations=False) for batch in at_work]})
        return
    _write(operations, as_json, "No operation is under way." if not everything else "No operations.")
    if at_work:
        write_batch_summary(at_work)


def _write_batches(batches: Sequence[BatchSnapshot], as_json: bool) -> None:
    if as_json:
        say_json({"schema": SCHEMA, "batches": [encode_batch(batch, operations=False) for batch in batches]})
    elif batches:
        batch_table(batches)
    else:
        echo("No batches.")


@click.command(
    epilog="""\b
Examples:
  otel-progress history
  otel-progress history --type backup --limit 5
  otel-progress history --json
"""
)
@click.option("--type", "type_", metavar="TYPE", help="Only operations of this type.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most so many."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def history(scope: CliContext, type_: str | None, limit: int, as_json: bool) -> None:
    """List the operations that have ended, the last one first."""
    with scope.reader() as reader:
        operations = reader.history(HistoryQuery(type_, limit))
    _write(operations, as_json, "No operation has ended.")


def _write(operations: Sequence[OperationSnapshot], as_json: bool, nothing: str) -> None:
    if as_json:
        say_json(operations_document(operations))
        return
    if not operations:
        echo(f"{nothing} Try: otel-progress demo")
        return
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[int, str]] = [{-1: "dim"}]
    for operation in operations:
        word, style = cancelling_note(operation) or status_word(operation.status, operation.condition)
        rows.append(_row(operation, word))
        styles.append({0: style, 6: "red"})
    table(rows, styles, terminal_width(), _SPARE)


def _row(operation: OperationSnapshot, word: str) -> tuple[str, ...]:
    root = operation.root
    name = clean(operation.name)
    return (
        word,
        clean(operation.operation_id),
        clean(operation.operation_type),
        name if name != clean(operation.operation_id) else "",
        percentage(root.ratio, estimated=root.estimated),
        count(root.current, root.total, root.info.unit) if root.current or root.total is not None else "",
        str(root.failed) if root.failed else "",
        moment(root.info.started_at)[:19].replace("T", " "),
        duration(operation.elapsed_seconds),
        remaining(operation.eta, bounds=False),
        failure_text(root) if root.status is Status.FAILED else clean(root.message),
    )
