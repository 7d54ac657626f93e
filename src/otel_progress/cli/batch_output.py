"""Batches on the command line: one in full, or several in a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final

from otel_progress.cli.output import (
    MAX_BATCHES,
    echo,
    get_terminal_width,
    style_text,
    write_facts,
    write_table,
)
from otel_progress.console.batches import draw_bar, format_batch, format_batch_figures, format_batch_rate
from otel_progress.console.glyphs import STATUS_STYLES, choose_glyphs
from otel_progress.console.rows import clean_text, format_failure
from otel_progress.formats import format_count, format_duration, format_moment, format_percentage
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import BatchQuery, Reader
from otel_progress.text import escape_controls

_MAX_SUMMARY_LINES: Final = 5
"""Batches listed below ``ls``. The others are counted."""


_MAX_OPERATIONS: Final = 10
"""Active or failed operations listed for a batch. The others are counted."""


_BAR_CELLS: Final = 30


_HEADER: Final = (
    "STATUS",
    "ID",
    "TYPE",
    "NAME",
    "DONE",
    "COUNT",
    "RUNNING",
    "ABANDONED",
    "FAILED",
    "STARTED",
    "TIME",
    "LEFT",
    "RATE",
)


_OPTIONAL_COLUMNS: Final = tuple(
    _HEADER.index(name) for name in ("STARTED", "TYPE", "NAME", "RATE", "LEFT", "RUNNING")
)
"""Columns omitted on a narrow terminal, in this order."""


def find_batch(reader: Reader, id_or_prefix: str) -> BatchSnapshot | None:
    """Return the batch of an ID or of a unique prefix.

    None if no batch or several match.
    """
    batch = reader.batch(id_or_prefix)
    if batch is not None or not id_or_prefix:
        return batch
    matches = [
        batch.id for batch in reader.batches(BatchQuery(MAX_BATCHES)) if batch.id.startswith(id_or_prefix)
    ]
    return reader.batch(matches[0]) if len(matches) == 1 else None


def is_abandoned_batch(batch: BatchSnapshot) -> bool:
    """Return True if operations of a batch are abandoned, and none has failed."""
    return bool(batch.abandoned) and not batch.counts[Status.FAILED]


def write_batch(batch: BatchSnapshot, *, errors: bool) -> None:
    """Write a batch with its active and failed operations.

    With ``errors`` all failed operations are listed, with error details.
    """
    title = clean_text(batch.name) or clean_text(batch.id)
    echo(f"{style_text(title, 'bold')}  {clean_text(batch.type)}")
    write_facts(_collect_facts(batch))
    active_count = batch.counts[Status.RUNNING] + batch.counts[Status.PENDING]
    _write_operations("Active", batch.active, active_count, _MAX_OPERATIONS)
    max_failed = len(batch.failed) if errors else _MAX_OPERATIONS
    _write_operations("Failed", batch.failed, batch.counts[Status.FAILED], max_failed, details=errors)


def _collect_facts(batch: BatchSnapshot) -> Iterator[tuple[str, str]]:
    style, is_finished = STATUS_STYLES[batch.status], batch.is_finished
    yield "id", clean_text(batch.id)
    yield "status", style_text(batch.status.value, style)
    yield "progress", _format_progress(batch, style)
    yield "counts", _format_counts(batch)
    yield "rate", format_batch_rate(batch)
    yield "started", format_moment(batch.started_at)
    if is_finished and batch.ended_at is not None:
        yield "finished", format_moment(batch.ended_at)
    yield "duration" if is_finished else "elapsed", format_duration(batch.elapsed_seconds)
    yield "remaining", _format_time_left(batch)


def _format_progress(batch: BatchSnapshot, style: str) -> str:
    figures = format_batch_figures(batch)[: 2 if batch.ratio is not None else 1]
    text = "  ".join(style_text(figure, figure_style) for figure, figure_style in figures)
    bar = draw_bar(batch.ratio, _BAR_CELLS, choose_glyphs(getattr(sys.stdout, "encoding", None)))
    return f"{style_text(bar, style)}  {text}" if bar else text


def _count_running(batch: BatchSnapshot) -> int:
    # Why at least 0: the abandoned ones may also be pending.
    return max(0, batch.counts[Status.RUNNING] - batch.abandoned)


def _format_counts(batch: BatchSnapshot) -> str:
    numbers = dict(batch.counts)
    numbers[Status.RUNNING] = _count_running(batch)
    parts = [
        style_text(f"{count} {status.value}", STATUS_STYLES[status])
        for status in Status
        if (count := numbers[status])
    ]
    if batch.abandoned:
        parts.append(style_text(f"{batch.abandoned} abandoned", "red"))
    return "  ".join(parts)


def _format_time_left(batch: BatchSnapshot) -> str:
    if batch.remaining_s is None or batch.is_finished:
        return ""
    return format_duration(batch.remaining_s)


def write_batch_table(batches: Sequence[BatchSnapshot]) -> None:
    """Write batches in a table."""
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[int, str]] = [{-1: "dim"}]
    for batch in batches:
        rows.append(_build_row(batch))
        red = dict.fromkeys((_HEADER.index("ABANDONED"), _HEADER.index("FAILED")), "red")
        styles.append({0: STATUS_STYLES[batch.status], **red})
    write_table(rows, styles, get_terminal_width(), _OPTIONAL_COLUMNS)


def write_batch_summary(batches: Sequence[BatchSnapshot]) -> None:
    """Write active batches below a list of operations, one line per batch."""
    echo()
    echo(style_text("Batches", "bold"))
    for batch in batches[:_MAX_SUMMARY_LINES]:
        echo(f"  {format_batch(batch)}")
    if len(batches) > _MAX_SUMMARY_LINES:
        echo(f"  and {len(batches) - _MAX_SUMMARY_LINES} more: otel-progress ls --batches")


def _build_row(batch: BatchSnapshot) -> tuple[str, ...]:
    name, counts = clean_text(batch.name), batch.counts
    return (
        batch.status.value,
        clean_text(batch.id),
        clean_text(batch.type),
        name if name != clean_text(batch.id) else "",
        format_percentage(batch.ratio),
        format_count(batch.finished_count, batch.total, None),
        str(_count_running(batch) or ""),
        str(batch.abandoned or ""),
        str(counts[Status.FAILED]) if counts[Status.FAILED] else "",
        format_moment(batch.started_at)[:19].replace("T", " "),
        format_duration(batch.elapsed_seconds),
        _format_time_left(batch),
        format_batch_rate(batch),
    )


def _write_operations(
    title: str, operations: Sequence[OperationSnapshot], total: int, limit: int, *, details: bool = False
) -> None:
    """Write up to ``limit`` operations under a title.

    ``total`` counts the ones that exist.
    """
    if not operations:
        return
    echo()
    omitted = max(0, total - min(limit, len(operations)))
    hint = style_text(f"  (newest first, {omitted} more not listed)", "dim") if omitted else ""
    echo(style_text(title, "bold") + hint)
    for operation in operations[:limit]:
        root = operation.root
        is_failed = root.status is Status.FAILED
        parts = (
            clean_text(operation.operation_id),
            clean_text(operation.name) if operation.name != operation.operation_id else "",
            format_percentage(root.ratio),
            format_duration(operation.elapsed_seconds),
            style_text(format_failure(root), "red") if is_failed else clean_text(root.message),
        )
        echo("  " + "  ".join(part for part in parts if part))
        if details and root.error is not None:
            for line in (root.error.details or "").splitlines():
                echo(f"      {escape_controls(line)}")
