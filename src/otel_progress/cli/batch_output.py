"""Batches on the command line: one in full, or some in a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from otel_progress.cli.output import echo, style_text, table, terminal_width
from otel_progress.console.batches import bar, batch_figures, batch_pace, batch_text
from otel_progress.console.format import count, duration, moment, percentage
from otel_progress.console.glyphs import STATUS_STYLES, glyphs_for
from otel_progress.console.rows import clean, failure_text
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import BatchQuery, Reader
from otel_progress.text import escape_controls

MAX_BATCHES: Final = 1000
"""Batches that a list, and the search for the beginning of an id, take in."""


_BRIEFLY: Final = 5


_LISTED: Final = 10


_BAR: Final = 30


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


_SPARE: Final = tuple(_HEADER.index(name) for name in ("STARTED", "TYPE", "NAME", "PACE", "LEFT", "RUNNING"))


def find_batch(reader: Reader, wanted: str) -> BatchSnapshot | None:
    """Return the batch whose id is ``wanted``, or the only one whose id begins so."""
    found = reader.batch(wanted)
    if found is not None or not wanted:
        return found
    matches = [batch.id for batch in reader.batches(BatchQuery(MAX_BATCHES)) if batch.id.startswith(wanted)]
    return reader.batch(matches[0]) if len(matches) == 1 else None


def write_batch(batch: BatchSnapshot, *, errors: bool) -> None:
    """Write a batch: where it stands, what runs, what failed; with ``errors`` all that failed, and the details."""
    glyphs = glyphs_for(getattr(sys.stdout, "encoding", None))
    style = STATUS_STYLES[batch.status]
    echo(f"{style_text(clean(batch.name) or clean(batch.id), 'bold')}  {clean(batch.type)}")
    drawn = bar(batch.ratio, _BAR, glyphs)
    figures = "  ".join(
        style_text(text, look) for text, look in batch_figures(batch)[: 2 if batch.ratio is not None else 1]
    )
    facts = (
        ("id", clean(batch.id)),
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
        ("pace", batch_pace(batch)),
        ("started", moment(batch.started_at)),
        ("ended", moment(batch.ended_at) if batch.is_finished and batch.ended_at is not None else ""),
        ("duration" if batch.is_finished else "elapsed", duration(batch.elapsed_seconds)),
        (
            "remaining",
            duration(batch.remaining_s) if batch.remaining_s is not None and not batch.is_finished else "",
        ),
    )
    for name, value in facts:
        if value:
            echo(f"  {style_text(f'{name:<10}', 'dim')} {value}")
    _operations(
        "Under way", batch.active, batch.counts[Status.RUNNING] + batch.counts[Status.PENDING], _LISTED
    )
    _operations(
        "Failed",
        batch.failed,
        batch.counts[Status.FAILED],
        len(batch.failed) if errors else _LISTED,
        details=errors,
    )


def batch_table(batches: Sequence[BatchSnapshot]) -> None:
    """Write batches in a table."""
    rows: list[tuple[str, ...]] = [_HEADER]
    styles: list[dict[int, str]] = [{-1: "dim"}]
    for batch in batches:
        rows.append(_row(batch))
        styles.append({0: STATUS_STYLES[batch.status], 7: "red"})
    table(rows, styles, terminal_width(), _SPARE)


def write_batch_summary(batches: Sequence[BatchSnapshot]) -> None:
    """Write the batches that are under way below a list of operations, one line each."""
    echo()
    echo(style_text("Batches", "bold"))
    for batch in batches[:_BRIEFLY]:
        echo(f"  {batch_text(batch)}")
    if len(batches) > _BRIEFLY:
        echo(f"  and {len(batches) - _BRIEFLY} more: otel-progress ls --batches")


def _row(batch: BatchSnapshot) -> tuple[str, ...]:
    name, counts = clean(batch.name), batch.counts
    return (
        batch.status.value,
        clean(batch.id),
        clean(batch.type),
        name if name != clean(batch.id) else "",
        percentage(batch.ratio),
        count(batch.finished_count, batch.total, None),
        str(counts[Status.RUNNING]) if counts[Status.RUNNING] else "",
        str(counts[Status.FAILED]) if counts[Status.FAILED] else "",
        moment(batch.started_at)[:19].replace("T", " "),
        duration(batch.elapsed_seconds),
        duration(batch.remaining_s) if batch.remaining_s is not None and not batch.is_finished else "",
        batch_pace(batch),
    )


def _operations(
    title: str, operations: Sequence[OperationSnapshot], count: int, most: int, *, details: bool = False
) -> None:
    if not operations:
        return
    echo()
    left = max(0, count - min(most, len(operations)))
    echo(style_text(title, "bold") + (style_text(f"  (the newest; {left} more)", "dim") if left else ""))
    for operation in operations[:most]:
        root = operation.root
        text = style_text(failure_text(root), "red") if root.status is Status.FAILED else clean(root.message)
        name = clean(operation.name) if operation.name != operation.operation_id else ""
        parts = (
            clean(operation.operation_id),
            name,
            percentage(root.ratio),
            duration(operation.elapsed_seconds),
            text,
        )
        echo("  " + "  ".join(part for part in parts if part))
        if details and root.error is not None:
            for line in (root.error.details or "").splitlines():
                echo(f"      {escape_controls(line)}")
