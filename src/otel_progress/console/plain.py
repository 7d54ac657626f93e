"""Plain display for files and pipes: one line per change, no escape sequences."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TextIO

from otel_progress.console.batches import format_batch, make_batch_watch
from otel_progress.console.rate_limit import RateLimiter
from otel_progress.console.rows import (
    clean_text,
    format_cancelling,
    format_condition,
    format_failure,
    format_figures,
    format_state_notes,
    format_title,
)
from otel_progress.console.streams import get_encoding, write_stream
from otel_progress.formats import format_duration, format_moment, format_time_left
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet, Reader


def find_finished_roots(change_set: ChangeSet) -> list[LevelSnapshot]:
    """Return the root levels of the operations that finished.

    Two runs of one ID are both returned.
    """
    return [root for root in _select_roots(change_set.snapshots) if root.status.finished]


def load_finished_operation(
    reader: Reader, change_set: ChangeSet, root: LevelSnapshot, *, levels: bool = True
) -> OperationSnapshot:
    """Return a finished operation with its levels.

    Without levels if the reader has a newer run of the ID.
    """
    if levels:
        operation = reader.get(root.info.operation_id)
        if operation is not None and operation.run == root.info.run:
            return operation
    return wrap_root(root, change_set)


def wrap_root(root: LevelSnapshot, change_set: ChangeSet) -> OperationSnapshot:
    """Return an operation without levels below its root."""
    return OperationSnapshot(root, (), change_set.at, change_set.clock, change_set.instance)


INTERVAL_S: Final = 5.0
"""Seconds between two status lines of an operation."""


MAX_OPERATIONS: Final = 20
"""Operations with a status line per interval. The others are counted."""


_MAX_LINE_CHARS: Final = 1000
"""Longest line. Longer ones are cut."""


class PlainConsole:
    """Sink that writes plain lines to ``stream`` (default: stderr).

    It writes no escape sequences.

    ``show_operations`` accepts operations directly. Lines for starts, ends and failed levels beyond
    the rate limit are only counted. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        reader: Reader,
        stream: TextIO | None = None,
        *,
        interval: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        batches: bool | Sequence[str] = True,
    ) -> None:
        self._reader = reader
        self._batches = make_batch_watch(reader, batches)
        self._stream = stream if stream is not None else sys.stderr
        self._interval = interval
        self._clock = clock
        self._rate_limiter = RateLimiter(clock)
        self._running: dict[str, Status] = {}
        self._next_status_at: float | None = None

    def write(self, change_set: ChangeSet) -> None:
        """Write the changes of one tick, and all operations once per interval."""
        for snapshot in change_set.snapshots:
            if snapshot.info.path and snapshot.status is Status.FAILED:
                self._write_failed_level(snapshot, change_set.at)
        for root in _select_roots(change_set.snapshots):
            if not root.status.finished and root.info.run not in self._running:
                self._write_start(wrap_root(root, change_set))
        for root in find_finished_roots(change_set):
            self._write_end(load_finished_operation(self._reader, change_set, root, levels=False))
        if self._running:
            self._write_status(lambda: self._reader.active(levels=False))
        self._write_suppressed_count(change_set.at)

    def show_operations(
        self, active: Sequence[OperationSnapshot], finished: Sequence[OperationSnapshot] = ()
    ) -> None:
        """Write new and finished operations, and the status of all once per interval."""
        for operation in active:
            if operation.run not in self._running:
                self._write_start(operation)
        for operation in finished:
            self._write_end(operation)
        if active:
            self._write_status(lambda: active)
            self._write_suppressed_count(active[0].read_at)

    def close(self) -> None:
        """Write finished batches and the suppressed count. The stream remains open."""
        self._write_batches(include_active=False)
        self._write_suppressed_count(time.time())

    def _write_start(self, operation: OperationSnapshot) -> None:
        self._running[operation.run] = operation.status
        if self._next_status_at is None:
            self._next_status_at = self._clock() + self._interval
        if self._rate_limiter.allow():
            self._write_line(format_operation(operation))

    def _write_end(self, operation: OperationSnapshot) -> None:
        self._running.pop(operation.run, None)
        if not self._running:
            self._next_status_at = None
            self._write_batches()
        if self._rate_limiter.allow():
            self._write_line(format_operation(operation))

    def _write_failed_level(self, level: LevelSnapshot, at: float) -> None:
        if self._rate_limiter.allow():
            parts = (
                format_moment(at),
                clean_text(level.info.operation_id),
                format_title(level),
                Status.FAILED.value,
                format_failure(level),
            )
            self._write_line(" ".join(part for part in parts if part))

    def _write_status(self, active: Callable[[], Sequence[OperationSnapshot]]) -> None:
        now = self._clock()
        if self._next_status_at is None or now < self._next_status_at:
            return
        self._next_status_at = now + self._interval
        operations = active()
        for operation in operations[:MAX_OPERATIONS]:
            self._write_line(format_operation(operation))
        if len(operations) > MAX_OPERATIONS:
            omitted = len(operations) - MAX_OPERATIONS
            self._write_line(f"{format_moment(operations[0].read_at)} and {omitted} more operations")
        self._write_batches()

    def _write_batches(self, *, include_active: bool = True) -> None:
        """Write active batches and the ones that finished since the last call."""
        active, finished = ((), ()) if self._batches is None else self._batches.poll()
        for batch in (*(active if include_active else ()), *finished):
            self._write_line(f"{format_moment(batch.read_at)} {format_batch(batch)}")

    def _write_suppressed_count(self, at: float) -> None:
        if self._rate_limiter.suppressed and (not self._running or self._rate_limiter.allow()):
            count = self._rate_limiter.take_suppressed()
            self._write_line(f"{format_moment(at)} {count} more changes not shown")

    def _write_line(self, line: str) -> None:
        line = line if len(line) <= _MAX_LINE_CHARS else line[: _MAX_LINE_CHARS - 1] + "…"
        encoding = get_encoding(self._stream) or "utf-8"
        write_stream(self._stream, line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def format_operation(operation: OperationSnapshot) -> str:
    """Return an operation as one line: time, title, status, figures, message."""
    root = operation.root
    duration = format_duration(operation.elapsed_seconds)
    percentage, count, rate = format_figures(root, operation.rate_seconds_of(root))
    name = clean_text(operation.operation_id)
    condition = format_condition(operation, operation.condition)
    cancelling = format_cancelling(operation)
    parts = [
        format_moment(operation.read_at),
        format_title(root),
        f"({name})" if name != clean_text(root.info.name) else "",
        root.status.value,
        condition[0] if condition else "",
        cancelling[0] if cancelling else "",
        percentage,
        count,
        rate,
        *(text for text, _ in format_state_notes(root)),
        f"in {duration}" if root.status.finished else f"after {duration}",
        format_time_left(operation.eta),
    ]
    text = format_failure(root) if root.status is Status.FAILED else clean_text(root.message)
    return " ".join(part for part in parts if part) + (f": {text}" if text else "")


def _select_roots(snapshots: Iterable[LevelSnapshot]) -> Iterable[LevelSnapshot]:
    return (snapshot for snapshot in snapshots if not snapshot.info.path)
