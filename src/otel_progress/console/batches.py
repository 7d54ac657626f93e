"""A batch in one line: where it stands, as people read it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from otel_progress.console.format import count, cut_cells, duration, percentage, rate
from otel_progress.console.glyphs import STATUS_STYLES, Glyphs
from otel_progress.console.rows import Part, clean
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery, Reader

MAX_BATCHES: Final = 3
"""Batches that a display shows at a time."""


_BAR: Final = 20


_UNIT: Final = "operation"


class BatchWatch:
    """Looks at the batches of a Reader: those under way, and those that were and are over. Remembers at most a few."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._shown: set[str] = set()

    @property
    def shown(self) -> bool:
        """True when the last look found a batch under way."""
        return bool(self._shown)

    def look(self) -> tuple[Sequence[BatchSnapshot], Sequence[BatchSnapshot]]:
        """Return the first few batches under way, and those of the last look that are over by now.

        A batch that waits for its first operation says nothing yet. Nothing comes while a journal cannot be read.
        """
        try:
            at_work = [
                one
                for one in self._reader.batches(BatchQuery(MAX_BATCHES))
                if not one.is_finished and any(one.counts.values())
            ]
            gone = self._shown - {batch.id for batch in at_work}
            found = [self._reader.batch(id_) for id_ in sorted(gone)]
        except JournalError:
            return (), ()
        self._shown = {batch.id for batch in at_work}
        return at_work, [batch for batch in found if batch is not None and batch.is_finished]


def bar(ratio: float | None, width: int, glyphs: Glyphs) -> str:
    """Return a bar of ``width`` cells; empty while the ratio is unknown, for no bar can be drawn of that."""
    if ratio is None:
        return ""
    halves = int(min(1.0, max(0.0, ratio)) * width * 2 + 1e-9)
    filled = glyphs.full * (halves // 2) + (glyphs.half if halves % 2 else "")
    return filled + glyphs.rest * (width - len(filled))


def batch_title(batch: BatchSnapshot) -> str:
    """Return what a batch is called: its type and its name, once when they are the same."""
    kind, name = clean(batch.type), clean(batch.name) or clean(batch.id)
    return name if name == kind else f"{kind} {name}"


def batch_figures(batch: BatchSnapshot) -> list[Part]:
    """Return percentage, what has ended of what, what runs and what failed, pace and remaining time, each with its style."""
    counts, elapsed = batch.counts, batch.elapsed_seconds
    parts = [
        (percentage(batch.ratio), "bold"),
        (count(batch.finished_count, batch.total, _UNIT), ""),
        (
            f"{counts[Status.RUNNING]} running" if counts[Status.RUNNING] else "",
            STATUS_STYLES[Status.RUNNING],
        ),
        (f"{counts[Status.FAILED]} failed" if counts[Status.FAILED] else "", "red"),
        (f"{counts[Status.CANCELLED]} cancelled" if counts[Status.CANCELLED] else "", "yellow"),
        (batch_pace(batch), "dim"),
        (f"in {duration(elapsed)}" if batch.is_finished else f"after {duration(elapsed)}", "dim"),
        (
            f"{duration(batch.remaining_s)} left"
            if batch.remaining_s is not None and not batch.is_finished
            else "",
            "dim",
        ),
    ]
    return [part for part in parts if part[0]]


def batch_pace(batch: BatchSnapshot) -> str:
    """Return operations a second (or minute or hour) of late; empty while unknown."""
    return "" if batch.throughput is None else rate(batch.throughput * 1000.0, 1000.0, _UNIT)


def batch_line(batch: BatchSnapshot, width: int, glyphs: Glyphs) -> Text:
    """Return a batch as a line of at most ``width`` cells; what stands last gives way first."""
    style = STATUS_STYLES[batch.status]
    drawn = bar(batch.ratio, _BAR, glyphs) if width >= 4 * _BAR else ""
    parts: list[Part] = [
        (glyphs.status(batch.status), style),
        (cut_cells(batch_title(batch), max(1, width // 3), glyphs.more), "bold"),
    ]
    line = Text(no_wrap=True, overflow="crop")
    for text, look in (*parts, (drawn, style), *batch_figures(batch)):
        room = width - line.cell_len - 1
        if text and room > 1:
            line.append(" " if line.cell_len else "").append(cut_cells(text, room, glyphs.more), look or None)
    return line


def batch_text(batch: BatchSnapshot) -> str:
    """Return a batch as plain text: its title, its id when that is another, its status and its figures."""
    id_ = clean(batch.id)
    named = f" ({id_})" if id_ != clean(batch.name) else ""
    return " ".join(
        (f"{batch_title(batch)}{named}", batch.status.value, *(text for text, _ in batch_figures(batch)))
    )
