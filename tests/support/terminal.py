"""A terminal for tests: the written text as shown by a VT100 (pyte)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyte

from otel_progress.model import LevelSnapshot
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import BatchQuery, ChangeSet, EventQuery, HistoryQuery, LogQuery, ResourceQuery
from otel_progress.records import LogRecord, ResourceSample
from tests.support.factories import CLOCK, WALL, instance


class Terminal:
    """A text stream of a terminal of a given size that records the frames."""

    encoding = "utf-8"
    closed = False

    def __init__(self, columns: int = 60, rows: int = 20) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.Stream(self.screen)
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        """Show text like a terminal driver: a line feed also returns the carriage."""
        self.writes.append(text)
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        """Do nothing, because all text is shown at once."""

    def isatty(self) -> bool:
        """Return True."""
        return True

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.screen.columns, self.screen.lines

    def lines(self) -> list[str]:
        """The lines on the screen, without empty ones at the end."""
        shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown


class Shelf:
    """A Reader with the content of a test."""

    def __init__(self, *operations: OperationSnapshot) -> None:
        self.operations: Sequence[OperationSnapshot] = operations
        self.groups: Sequence[BatchSnapshot] = ()
        self.asked = 0

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the operation of this id."""
        return next(
            (operation for operation in self.operations if operation.operation_id == operation_id), None
        )

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:  # noqa: ARG002
        """Return the running operations and count the call."""
        self.asked += 1
        return [operation for operation in self.operations if not operation.status.finished]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations."""
        return [operation for operation in self.operations if operation.status.finished][: query.limit]

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return nothing: the display asks for no events."""
        del operation_id, query
        return ()

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return nothing: the display asks for no logs."""
        del operation_id, query
        return ()

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return nothing: the display asks for no samples."""
        del operation_id, query
        return ()

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the batch of this id."""
        return next((one for one in self.groups if one.id == batch_id), None)

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches."""
        return self.groups[: query.limit] if query.after is None else []

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield all operations once."""
        del interval, levels
        yield self.operations


class Clock:
    """A monotonic clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


def tick(*snapshots: LevelSnapshot, seconds: float = 0.0) -> ChangeSet:
    """Return the change set of a tick so long after the start."""
    return ChangeSet(instance(), WALL + seconds, CLOCK + seconds, snapshots)
