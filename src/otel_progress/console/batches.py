"""Batches as single lines, and a poller that finds active and finished batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from otel_progress.console.cells import cut_cells
from otel_progress.console.glyphs import STATUS_STYLES, Glyphs
from otel_progress.console.rows import Part, clean_text
from otel_progress.errors import JournalError
from otel_progress.formats import format_count, format_duration, format_percentage, format_rate
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery, Reader
from otel_progress.text import join_title

MAX_SHOWN_BATCHES: Final = 3
"""Batches that a display shows at a time, the newest."""


_BAR_CELLS: Final = 20


_UNIT: Final = "operation"


class BatchWatch:
    """Polls a Reader for active batches and for recently finished ones.

    With ``ids`` only these are polled.
    """

    def __init__(self, reader: Reader, ids: Sequence[str] | None = None) -> None:
        self._reader = reader
        self._ids = ids
        # Why the ids: those that have finished before are shown once.
        self._active_ids: set[str] = set(ids or ())

    @property
    def has_active(self) -> bool:
        """True if the last poll found an active batch."""
        return bool(self._active_ids)

    def poll(self) -> tuple[Sequence[BatchSnapshot], Sequence[BatchSnapshot]]:
        """Return the newest active batches, and those that finished since the last poll.

        A batch without operations is omitted. Both are empty while the journal is unreadable.
        """
        try:
            active = [
                batch for batch in self._read_newest() if not batch.is_finished and any(batch.counts.values())
            ]
            inactive_ids = self._active_ids - {batch.id for batch in active}
            inactive = [self._reader.batch(id_) for id_ in sorted(inactive_ids)]
        except JournalError:
            return (), ()
        self._active_ids = {batch.id for batch in active}
        return active, [batch for batch in inactive if batch is not None and batch.is_finished]

    def _read_newest(self) -> Sequence[BatchSnapshot]:
        if self._ids is None:
            return self._reader.batches(BatchQuery(MAX_SHOWN_BATCHES))
        found = (self._reader.batch(id_) for id_ in self._ids)
        return [batch for batch in found if batch is not None]


def make_batch_watch(reader: Reader, batches: bool | Sequence[str]) -> BatchWatch | None:
    """Return a poller of all batches, of those with the given ids, or None for False."""
    if batches is False:
        return None
    return BatchWatch(reader, None if batches is True else batches)


def draw_bar(ratio: float | None, width: int, glyphs: Glyphs) -> str:
    """Return a bar of ``width`` cells, empty while the ratio is unknown."""
    return "" if ratio is None else "".join(glyphs.draw_bar(ratio, width))


def format_batch_title(batch: BatchSnapshot) -> str:
    """Return the type and name of a batch. The type is not repeated."""
    kind, name = clean_text(batch.type), clean_text(batch.name) or clean_text(batch.id)
    return join_title(kind, name)


def format_batch_figures(batch: BatchSnapshot) -> list[Part]:
    """Return the figures of a batch with styles: percentage, counts, rate and times."""
    counts, elapsed = batch.counts, batch.elapsed_seconds
    parts = [
        (format_percentage(batch.ratio), "bold"),
        (format_count(batch.finished_count, batch.total, _UNIT), ""),
        (
            f"{running} running" if (running := counts[Status.RUNNING] - batch.abandoned) > 0 else "",
            STATUS_STYLES[Status.RUNNING],
        ),
        (f"{batch.abandoned} abandoned" if batch.abandoned else "", "red"),
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
    """Return the recent rate in operations per second, minute or hour.

    Empty while unknown.
    """
    return "" if batch.throughput is None else format_rate(batch.throughput * 1000.0, 1000.0, _UNIT)


def render_batch(batch: BatchSnapshot, width: int, glyphs: Glyphs) -> Text:
    """Return a batch as a line of at most ``width`` cells.

    The last parts are cut first.
    """
    style = STATUS_STYLES[batch.status]
    bar = draw_bar(batch.ratio, _BAR_CELLS, glyphs) if width >= 4 * _BAR_CELLS else ""
    parts: list[Part] = [
        (glyphs.status(batch.status), style),
        (cut_cells(format_batch_title(batch), max(1, width // 3), glyphs.more), "bold"),
    ]
    line = Text(no_wrap=True, overflow="crop")
    for text, part_style in (*parts, (bar, style), *format_batch_figures(batch)):
        free_cells = width - line.cell_len - 1
        if text and free_cells > 1:
            line.append(" " if line.cell_len else "").append(
                cut_cells(text, free_cells, glyphs.more), part_style or None
            )
    return line


def format_batch(batch: BatchSnapshot) -> str:
    """Return a batch as plain text: title, ID, status and figures.

    An ID equal to the name is omitted.
    """
    id_ = clean_text(batch.id)
    id_note = f" ({id_})" if id_ != clean_text(batch.name) else ""
    return " ".join(
        (
            f"{format_batch_title(batch)}{id_note}",
            batch.status.value,
            *(text for text, _ in format_batch_figures(batch)),
        )
    )
