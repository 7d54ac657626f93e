"""Reader for users: keyword arguments instead of query objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from otel_progress.batches import BatchCursor
from otel_progress.model import Outcome
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import (
    BatchQuery,
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    ResourceQuery,
)
from otel_progress.records import LogRecord, Preview, ResourceSample
from otel_progress.runtime.composite_reader import CompositeReader

Q = TypeVar("Q", HistoryQuery, EventQuery, LogQuery, ResourceQuery, PreviewQuery, BatchQuery)


class ReaderFacade:
    """Reader and Controller whose methods accept keyword arguments.

    The keyword arguments are the fields of the query objects in `otel_progress.protocols`. Each
    method accepts a query object too, so the facade can be passed to everything that takes a
    Reader. Raises TypeError if a method receives both.
    """

    def __init__(self, reader: CompositeReader) -> None:
        self._reader = reader

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""
        return self._reader.get(operation_id)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first."""
        return self._reader.active(levels=levels)

    def history(
        self,
        query: HistoryQuery | None = None,
        *,
        operation_type: str | None = None,
        limit: int = 100,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        return self._reader.history(
            _choose_query(query, HistoryQuery(operation_type, limit, before, since), HistoryQuery())
        )

    def events(
        self,
        operation_id: str,
        query: EventQuery | None = None,
        *,
        path: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        max_number: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        keywords = EventQuery(path, outcome, since, max_number, limit)
        return self._reader.events(operation_id, _choose_query(query, keywords, EventQuery()))

    def logs(
        self,
        operation_id: str,
        query: LogQuery | None = None,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        after: int = 0,
        max_number: int | None = None,
        limit: int = 1000,
    ) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        keywords = LogQuery(path, severity, since, after, max_number, limit)
        return self._reader.logs(operation_id, _choose_query(query, keywords, LogQuery()))

    def resources(
        self,
        operation_id: str,
        query: ResourceQuery | None = None,
        *,
        since: float | None = None,
        max_clock: float | None = None,
        limit: int = 600,
    ) -> Sequence[ResourceSample]:
        """Return samples that were made during the newest run, oldest first."""
        keywords = ResourceQuery(since, max_clock, limit)
        return self._reader.resources(operation_id, _choose_query(query, keywords, ResourceQuery()))

    def previews(
        self,
        operation_id: str,
        query: PreviewQuery | None = None,
        *,
        path: str | None = None,
        max_number: int | None = None,
        limit: int = 100,
    ) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        keywords = PreviewQuery(path, max_number, limit)
        return self._reader.previews(operation_id, _choose_query(query, keywords, PreviewQuery()))

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the current state of a batch, or None."""
        return self._reader.batch(batch_id)

    def batches(
        self, query: BatchQuery | None = None, *, limit: int = 100, after: BatchCursor | None = None
    ) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""
        return self._reader.batches(_choose_query(query, BatchQuery(limit, after), BatchQuery()))

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield all active operations, then changed ones, every ``interval`` seconds."""
        return self._reader.watch(interval, levels=levels)

    def request_cancel(self, operation_id: str, reason: str = "") -> bool:
        """Request that the active run of an operation stops.

        Return False if no run is active.
        """
        return self._reader.request_cancel(operation_id, reason)

    def delete(self, operation_id: str) -> int:
        """Delete the finished runs of an operation, and return their number."""
        return self._reader.delete(operation_id)

    def fail_abandoned(self, operation_id: str, reason: str = "") -> bool:
        """Mark the active run of an operation as failed.

        Its process must have certainly ended. Return False if no run is active, or if its process
        may still run.
        """
        return self._reader.fail_abandoned(operation_id, reason)

    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """
        return self._reader.close_batch(batch_id)

    def cancel_batch(self, batch_id: str, reason: str = "") -> int:
        """Request that all active operations of a batch stop. Return their number."""
        return self._reader.cancel_batch(batch_id, reason)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations.

        Return False, and delete nothing, if the batch is unknown or may have a running operation.
        """
        return self._reader.delete_batch(batch_id)

    def size_bytes(self) -> int | None:
        """Return the size of the journal's files in bytes, or None without a journal."""
        return self._reader.size_bytes()


def _choose_query(query: Q | None, keywords: Q, defaults: Q) -> Q:
    """Return the query object if given, else the query of the keyword arguments."""
    if query is None:
        return keywords
    if keywords != defaults:
        msg = "Invalid arguments: expected a query object or keyword arguments, not both."
        raise TypeError(msg)
    return query
