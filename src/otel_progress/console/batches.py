"""A batch in one line: where it stands, as people read it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from otel_progress.console.format import (
    cut_cells,
    format_count,
    format_duration,
    format_percentage,
    format_rate,
)
from otel_progress.console.glyphs import STATUS_STYLES, Glyphs
from otel_progress.console.rows import Part, clean_text
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery, Reader

MAX_BATCHES: Final = 3
"""Batches that a display shows at a time."""


_BAR_CELLS: Final = 20


_UNIT: Final = "operation"


class BatchWatch:
    """Looks at the batches of a Reader: those under way, and those that were and are over. Remembers at most a few."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._active_ids: set[str] = set()

    @property
    def has_active(self) -> bool:
        """True when the last look found a batch under way."""
        return bool(self._active_ids)

    def poll(self) -> tuple[Sequence[BatchSnapshot], Sequence[BatchSnapshot]]:
        """Return the first few batches under way, and those of the last look that are over by now.

        A batch that waits for its first operation says nothing yet. Nothing comes while a journal cannot be read.
        """
        try:
            at_work = [
                one
                for one in self._reader.batches(BatchQuery(MAX_BATCHES))
                if not one.is_finished and any(one.counts.values())
            ]
            gone = self._active_ids - {batch.id for batch in at_work}
            found = [self._reader.batch(id_) for id_ in sorted(gone)]
        except JournalError:
            return (), ()
        self._active_ids = {batch.id for batch in at_work}
        return at_work, [batch for batch in found if batch is not None and batch.is_finished]


def draw_bar(ratio: float | None, width: int, glyphs: Glyphs) -> str:
    """Return a bar of ``width`` cells; empty while the ratio is unknown, for no bar can be drawn of that."""
    if ratio is None:
        return ""
    halves = int(min(1.0, max(0.0, ratio)) * width * 2 + 1e-9)
    filled = glyphs.full * (halves // 2) + (glyphs.half if halves % 2 else "")
    return filled + glyphs.rest * (width - len(filled))


def format_batch_title(batch: BatchSnapshot) -> str:
    """Return what a batch is called: its type and its name, once when they are the same."""
    kind, name = clean_text(batch.type), clean_text(batch.name) or clean_text(batch.id)
    return name if name == kind else f"{kind} {name}"


def format_batch_figures(batch: BatchSnapshot) -> list[Part]:
    """Return percentage, what has ended of what, what runs and what failed, pace and remaining time, each with its style."""
    counts, elapsed = batch.counts, batch.elapsed_seconds
    parts = [
        (format_percentage(batch.ratio), "bold"),
        (format_count(batch.finished_count, batch.total, _UNIT), ""),
        (
            f"{counts[Status.RUNNING]} running" if counts[Status.RUNNING] else "",
            STATUS_STYLES[Status.RUNNING],
        ),
        (f"{counts[Status.FAILED]} failed" if counts[Status.FAILED] else "", "red"),
        (f"{counts[Status.CANCELLED]} cancelled" if counts[Status.CANCELLED] else "", "yellow"),
        (format_batch_rate(batch), "dim"),
        (
            f"in {format_duration(elapsed)}" if batch.is_finished else f"after {format_duration(elapsed)}",
            "dim",
        ),
        (
            f"{format_duration(batch.remaining_s)} left"
            if batch.remaining_s is not None and not batch.is_finished
            else "",
            "dim",
        ),
    ]
    return [part for part in parts if part[0]]


def format_batch_rate(batch: BatchSnapshot) -> str:
    """Return operations a second (or minute or hour) of late; empty while unknown."""
    return "" if batch.throughput is None else format_rate(batch.throughput * 1000.0, 1000.0, _UNIT)


def render_batch(batch: BatchSnapshot, width: int, glyphs: Glyphs) -> Text:
    """Return a batch as a line of at most ``width`` cells; what stands last gives way first."""
    style = STATUS_STYLES[batch.status]
    drawn = draw_bar(batch.ratio, _BAR_CELLS, glyphs) if width >= 4 * _BAR_CELLS else ""
    parts: list[Part] = [
        (glyphs.status(batch.status), style),
        (cut_cells(format_batch_title(batch), max(1, width // 3), glyphs.more), "bold"),
    ]
    line = Text(no_wrap=True, overflow="crop")
    for text, look in (*parts, (drawn, style), *format_batch_figures(batch)):
        room = width - line.cell_len - 1
        if text and room > 1:
            line.append(" " if line.cell_len else "").append(cut_cells(text, room, glyphs.more), look or None)
    return line


def format_batch(batch: BatchSnapshot) -> str:
    """Return a batch as plain text: its title, its id when that is another, its status and its figures."""
    id_ = clean_text(batch.id)
    named = f" ({id_})" if id_ != clean_text(batch.name) else ""
    return " ".join(
        (
            f"{format_batch_title(batch)}{named}",
            batch.status.value,
            *(text for text, _ in format_batch_figures(batch)),
        )
    )
