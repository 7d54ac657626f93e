"""Batches on the command line: one in full, or some in a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from otel_progress.cli.output import echo, get_terminal_width, style_text, write_table
from otel_progress.console.batches import draw_bar, format_batch, format_batch_figures, format_batch_rate
from otel_progress.console.format import format_count, format_duration, format_moment, format_percentage
from otel_progress.console.glyphs import STATUS_STYLES, choose_glyphs
from otel_progress.console.rows import clean_text, format_failure
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import Reader
from otel_progress.text import escape_controls

MAX_BATCHES: Final = 1000
"""Batches that a list, and the search for the beginning of an id, take in."""


_MAX_SUMMARY_LINES: Final = 5


_MAX_OPERATIONS: Final = 10


_BAR_CELLS: Final = 30


_HEADER: Final = (
    "STATUS",
    "ID",
    "TYPE",
    "NAME",
    "DONE",
    "COUNT",
    "RUNNING",
    "FAILED",
    "STARTED",
    "TIME",
    "LEFT",
    "PACE",
)


_OPTIONAL_COLUMNS: Final = tuple(
    _HEADER.index(name) for name in ("STARTED", "TYPE", "NAME", "PACE", "LEFT", "RUNNING")
)


def find_batch(reader: Reader, wanted: str) -> BatchSnapshot | None:
    """Return the batch whose id is ``wanted``, or the only one whose id begins so."""
    found = reader.batch(wanted)
    if found is not None or not wanted:
        return found
    matches = [batch.id for batch in reader.batches(MAX_BATCHES) if batch.id.startswith(wanted)]
    return reader.batch(matches[0]) if len(matches) == 1 else None


def write_batch(batch: BatchSnapshot, *, errors: bool) -> None:
    """Write a batch: where it stands, what runs, what failed; with ``errors`` all that failed, and the details."""
    glyphs = choose_glyphs(getattr(sys.stdout, "encoding", None))
    style = STATUS_STYLES[batch.status]
    echo(f"{style_text(clean_text(batch.name) or clean_text(batch.id), 'bold')}  {clean_text(batch.type)}")
    drawn = draw_bar(batch.ratio, _BAR_CELLS, glyphs)
    figures = "  ".join(
        style_text(text, look)
        for text, look in format_batch_figures(batch)[: 2 if batch.ratio is not None else 1]
    )
    facts = (
        ("id", clean_text(batch.id)),
        ("status", style_text(batch.status.value, style)),
        ("progress", f"{style_text(drawn, style)}  {figures}" if drawn else figures),
        (
            "counts",
            "  ".join(
                style_text(f"{number} {one.value}", STATUS_STYLES[one])
                for one in Status
                if (number := batch.counts[one])
            ),
        ),
        ("pace", format_batch_rate(batch)),
        ("started", format_moment(batch.started_at)),
        ("ended", format_moment(batch.ended_at) if batch.is_finished and batch.ended_at is not None else ""),
        ("duration" if batch.is_finished else "elapsed", format_duration(batch.elapsed_seconds)),
        (
            "remaining",
            format_duration(batch.remaining_s)
            if batch.remaining_s is not None and not batch.is_finished
            else "",
        ),
    )
    for name, value in facts:
        if value:
            echo(f"  {style_text(f'{name:<10}', 'dim')} {value}")
    _write_operations(
        "Under way",
        batch.active,
        batch.counts[Status.RUNNING] + batch.counts[Status.PENDING],
        _MAX_OPERATIONS,
    )
    _write_operations(
        "Failed",
        batch.failed,
        batch.counts[Status.FAILED],
        len(batch.failed) if errors else _MAX_OPERATIONS,
        details=errors,
    )


def write_batch_table(batches: Sequence[BatchSnapshot]) -> None:
    """Write batches in a table."""
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[int, str]] = [{-1: "dim"}]
    for batch in batches:
        rows.append(_build_row(batch))
        styles.append({0: STATUS_STYLES[batch.status], 7: "red"})
    write_table(rows, styles, get_terminal_width(), _OPTIONAL_COLUMNS)


def write_batch_summary(batches: Sequence[BatchSnapshot]) -> None:
    """Write the batches that are under way below a list of operations, one line each."""
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
        str(counts[Status.RUNNING]) if counts[Status.RUNNING] else "",
        str(counts[Status.FAILED]) if counts[Status.FAILED] else "",
        format_moment(batch.started_at)[:19].replace("T", " "),
        format_duration(batch.elapsed_seconds),
        format_duration(batch.remaining_s) if batch.remaining_s is not None and not batch.is_finished else "",
        format_batch_rate(batch),
    )


def _write_operations(
    title: str, operations: Sequence[OperationSnapshot], count: int, most: int, *, details: bool = False
) -> None:
    if not operations:
        return
    echo()
    left = max(0, count - min(most, len(operations)))
    echo(style_text(title, "bold") + (style_text(f"  (the newest; {left} more)", "dim") if left else ""))
    for operation in operations[:most]:
        root = operation.root
        text = (
            style_text(format_failure(root), "red")
            if root.status is Status.FAILED
            else clean_text(root.message)
        )
        name = clean_text(operation.name) if operation.name != operation.operation_id else ""
        parts = (
            clean_text(operation.operation_id),
            name,
            format_percentage(root.ratio),
            format_duration(operation.elapsed_seconds),
            text,
        )
        echo("  " + "  ".join(part for part in parts if part))
        if details and root.error is not None:
            for line in (root.error.details or "").splitlines():
                echo(f"      {escape_controls(line)}")
