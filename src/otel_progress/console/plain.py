"""Which operations ended in a batch, and how they stood then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TextIO

from otel_progress.console.batches import BatchWatch, format_batch
from otel_progress.console.format import format_duration, format_moment, format_time_left
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
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet, Reader


def find_finished_roots(batch: ChangeSet) -> list[LevelSnapshot]:
    """Return the operations that ended, as their own levels; one that ended twice under an id counts twice."""
    return [snapshot for snapshot in batch.snapshots if not snapshot.info.path and snapshot.status.finished]


def load_finished_operation(
    reader: Reader, batch: ChangeSet, root: LevelSnapshot, *, levels: bool = True
) -> OperationSnapshot:
    """Return an ended operation with its levels as the reader still has them; without, when it has a newer run of that id."""
    if levels:
        found = reader.get(root.info.operation_id)
        if found is not None and found.run == root.info.run:
            return found
    return OperationSnapshot(root, (), batch.at, batch.clock, batch.instance)


INTERVAL_S: Final = 5.0
"""Seconds between two lines of one operation."""


MAX_OPERATIONS: Final = 20
"""Operations that get a line at one interval; the others are counted."""


_MAX_LINE_CHARS: Final = 1000


class PlainConsole:
    """A Sink that writes plain lines to ``stream`` (default: stderr). Also takes operations directly, see ``show``.

    No escapes, no carriage returns; a line stands for itself. Starts, ends and failed levels beyond the allowance are counted in
    one line. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        reader: Reader,
        stream: TextIO | None = None,
        *,
        interval: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        batches: bool = True,
    ) -> None:
        self._reader = reader
        self._batches = BatchWatch(reader) if batches else None
        self._stream = stream if stream is not None else sys.stderr
        self._interval = interval
        self._clock = clock
        self._allowance = RateLimiter(clock)
        self._known: dict[str, Status] = {}
        self._due: float | None = None

    def write(self, batch: ChangeSet) -> None:
        """Write what one tick brought: starts, ends, failed levels, and the state of all when the interval is over."""
        for snapshot in batch.snapshots:
            if snapshot.info.path and snapshot.status is Status.FAILED:
                self._failed_level(snapshot, batch.at)
        for root in _select_roots(batch.snapshots):
            if not root.status.finished and root.info.run not in self._known:
                self._started(OperationSnapshot(root, (), batch.at, batch.clock, batch.instance))
        for root in find_finished_roots(batch):
            self._ended(load_finished_operation(self._reader, batch, root, levels=False))
        if self._known:
            self._state(lambda: self._reader.active(levels=False))
        self._count_refused(batch.at)

    def show_operations(
        self, active: Sequence[OperationSnapshot], ended: Sequence[OperationSnapshot] = ()
    ) -> None:
        """Write what changed since the last call: operations that are new, those that ended, the state of all when it is time."""
        for operation in active:
            if operation.run not in self._known:
                self._started(operation)
        for operation in ended:
            self._ended(operation)
        if active:
            self._state(lambda: active)
            self._count_refused(active[0].read_at)

    def close(self) -> None:
        """Say what has not been said; the stream stays open, it belongs to somebody else."""
        self._groups(under_way=False)
        self._count_refused(time.time())

    def _started(self, operation: OperationSnapshot) -> None:
        self._known[operation.run] = operation.status
        if self._due is None:
            self._due = self._clock() + self._interval
        if self._allowance.allow():
            self._put(format_operation(operation))

    def _ended(self, operation: OperationSnapshot) -> None:
        self._known.pop(operation.run, None)
        if not self._known:
            self._due = None
            self._groups()
        if self._allowance.allow():
            self._put(format_operation(operation))

    def _failed_level(self, level: LevelSnapshot, at: float) -> None:
        if self._allowance.allow():
            parts = (
                format_moment(at),
                clean_text(level.info.operation_id),
                format_title(level),
                Status.FAILED.value,
                format_failure(level),
            )
            self._put(" ".join(part for part in parts if part))

    def _state(self, active: Callable[[], Sequence[OperationSnapshot]]) -> None:
        now = self._clock()
        if self._due is None or now < self._due:
            return
        self._due = now + self._interval
        operations = active()
        for operation in operations[:MAX_OPERATIONS]:
            self._put(format_operation(operation))
        if len(operations) > MAX_OPERATIONS:
            self._put(
                f"{format_moment(operations[0].read_at)} and {len(operations) - MAX_OPERATIONS} more operations"
            )
        self._groups()

    def _groups(self, *, under_way: bool = True) -> None:
        """Write the batches under way and those that are over since."""
        at_work, over = ((), ()) if self._batches is None else self._batches.poll()
        for batch in (*(at_work if under_way else ()), *over):
            self._put(f"{format_moment(batch.read_at)} {format_batch(batch)}")

    def _count_refused(self, at: float) -> None:
        if self._allowance.suppressed and (not self._known or self._allowance.allow()):
            self._put(f"{format_moment(at)} {self._allowance.take_suppressed()} more changes not shown")

    def _put(self, line: str) -> None:
        line = line if len(line) <= _MAX_LINE_CHARS else line[: _MAX_LINE_CHARS - 1] + "…"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._stream.flush()


def format_operation(operation: OperationSnapshot) -> str:
    """Return an operation in one line: time, type, name, id, status, figures, condition, error or message."""
    root = operation.root
    elapsed = operation.elapsed_seconds
    shown, amount, speed = format_figures(root, operation.active_seconds_of(root))
    name = clean_text(operation.operation_id)
    note, asked = format_condition(operation, operation.condition), format_cancelling(operation)
    parts = [
        format_moment(operation.read_at),
        format_title(root),
        f"({name})" if name != clean_text(root.info.name) else "",
        root.status.value,
        note[0] if note else "",
        asked[0] if asked else "",
        shown,
        amount,
        speed,
        *(text for text, _ in format_state_notes(root)),
        f"in {format_duration(elapsed)}" if root.status.finished else f"after {format_duration(elapsed)}",
        format_time_left(operation.eta),
    ]
    text = format_failure(root) if root.status is Status.FAILED else clean_text(root.message)
    return " ".join(part for part in parts if part) + (f": {text}" if text else "")


def _select_roots(snapshots: Iterable[LevelSnapshot]) -> Iterable[LevelSnapshot]:
    return (snapshot for snapshot in snapshots if not snapshot.info.path)
