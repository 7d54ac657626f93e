"""``ls`` and ``history``: operations and batches in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from otel_progress.cli.batch_output import write_batch_summary, write_batch_table
from otel_progress.cli.context import CliContext
from otel_progress.cli.output import (
    MAX_BATCHES,
    build_operations_document,
    echo,
    echo_json,
    get_status_label,
    get_terminal_width,
    write_table,
)
from otel_progress.codec import SCHEMA, encode_batch
from otel_progress.console.rows import clean_text, format_cancelling, format_failure
from otel_progress.formats import (
    ENDED_EARLY,
    format_count,
    format_duration,
    format_moment,
    format_percentage,
    format_remaining,
)
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.protocols import BatchQuery, HistoryQuery, Reader

_MAX_HISTORY: Final = 1000
"""Finished operations that ``ls --all`` reads, the newest."""


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


_OPTIONAL_COLUMNS: Final = tuple(_HEADER.index(name) for name in ("STARTED", "TYPE", "NAME", "LEFT", "COUNT"))
"""Columns omitted on a narrow terminal, in this order."""


@dataclass(frozen=True, slots=True)
class _Filter:
    """Conditions on operations and batches. None matches every value."""

    type: str | None
    status: str | None
    condition: str | None

    @property
    def is_empty(self) -> bool:
        return self.type is None and self.status is None and self.condition is None

    @property
    def needs_finished(self) -> bool:
        """True if only finished operations can match."""
        return self.status is not None and Status(self.status).finished

    def matches_operation(self, operation: OperationSnapshot) -> bool:
        return (
            self.type in (None, operation.operation_type)
            and self.status in (None, operation.status.value)
            and self.condition in (None, operation.condition.value)
        )

    def matches_batch(self, batch: BatchSnapshot) -> bool:
        return self.type in (None, batch.type) and self.status in (None, batch.status.value)


@click.command(
    epilog="""\b
Examples:
  otel-progress ls
  otel-progress ls --all --status failed
  otel-progress ls --condition stalled --json
  otel-progress ls --batches
"""
)
@click.option("--all", "include_finished", is_flag=True, help="Include finished operations.")
@click.option("--type", "type_", metavar="TYPE", help="Only operations of this type.")
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    help="Only this status; a final status implies --all.",
)
@click.option(
    "--condition",
    type=click.Choice([condition.value for condition in Condition]),
    help="Only this condition.",
)
@click.option(
    "--batches", "only_batches", is_flag=True, help="List batches instead of operations, finished ones too."
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def ls(
    context: CliContext,
    include_finished: bool,
    type_: str | None,
    status: str | None,
    condition: str | None,
    only_batches: bool,
    as_json: bool,
) -> None:
    """List active operations, newest first, and their batches."""
    wanted = _Filter(type_, status, condition)
    if only_batches:
        if include_finished or condition is not None:
            rejected = "--all" if include_finished else "--condition"
            msg = f"Invalid option {rejected}: expected only --type, --status and --json with --batches."
            raise click.UsageError(msg)
        with context.reader() as reader:
            batches = [
                batch for batch in reader.batches(BatchQuery(MAX_BATCHES)) if wanted.matches_batch(batch)
            ]
        _write_batches(batches, as_json)
        return
    with context.reader() as reader:
        operations = _read_operations(reader, wanted, include_finished=include_finished)
        batches = list(reader.batches(BatchQuery(MAX_BATCHES))) if wanted.is_empty else []
    active_batches = [batch for batch in batches if not batch.is_finished]
    if as_json:
        encoded = [encode_batch(batch, operations=False) for batch in active_batches]
        echo_json({**build_operations_document(operations), "batches": encoded})
        return
    _write_operations(
        operations, "No operations." if include_finished or not wanted.is_empty else "No active operations."
    )
    if active_batches:
        write_batch_summary(active_batches)


def _read_operations(reader: Reader, wanted: _Filter, *, include_finished: bool) -> list[OperationSnapshot]:
    operations = list(reader.active(levels=False))
    if include_finished or wanted.needs_finished:
        operations += reader.history(HistoryQuery(wanted.type, _MAX_HISTORY))
    return [operation for operation in operations if wanted.matches_operation(operation)]


def _write_batches(batches: Sequence[BatchSnapshot], as_json: bool) -> None:
    if as_json:
        encoded = [encode_batch(batch, operations=False) for batch in batches]
        echo_json({"schema": SCHEMA, "batches": encoded})
    elif batches:
        write_batch_table(batches)
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
    "--limit",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Maximum number of operations.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def history(context: CliContext, type_: str | None, limit: int, as_json: bool) -> None:
    """List finished operations, the most recently finished first."""
    with context.reader() as reader:
        operations = reader.history(HistoryQuery(type_, limit))
    if as_json:
        echo_json(build_operations_document(operations))
    else:
        _write_operations(operations, "No finished operations.")


def _write_operations(operations: Sequence[OperationSnapshot], text_if_empty: str) -> None:
    if not operations:
        echo(f"{text_if_empty} Try: otel-progress demo")
        return
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[int, str]] = [{-1: "dim"}]
    for operation in operations:
        label, style = format_cancelling(operation) or get_status_label(operation.status, operation.condition)
        if operation.root.ended_early:
            label, style = ENDED_EARLY, "yellow"
        rows.append(_build_row(operation, label))
        styles.append({0: style, _HEADER.index("FAILED"): "red"})
    intact = _HEADER.index("FAILED")
    write_table(rows, styles, get_terminal_width(), _OPTIONAL_COLUMNS, intact)


def _build_row(operation: OperationSnapshot, label: str) -> tuple[str, ...]:
    root = operation.root
    name, shown = clean_text(operation.name), (operation.operation_id, operation.operation_type)
    has_count = bool(root.current) or root.total is not None
    return (
        label,
        clean_text(operation.operation_id),
        clean_text(operation.operation_type),
        name if name not in map(clean_text, shown) else "",
        format_percentage(root.ratio, estimated=root.estimated),
        format_count(root.current, root.total, root.info.unit, root.info.unit_plural) if has_count else "",
        str(root.failed) if root.failed else "",
        format_moment(root.info.started_at)[:19].replace("T", " "),
        format_duration(operation.elapsed_seconds),
        format_remaining(operation.eta, bounds=False),
        format_failure(root) if root.status is Status.FAILED else clean_text(root.message),
    )
