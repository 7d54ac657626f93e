"""Prometheus collector of all processes that share an address of ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.metrics.collector import ProgressCollector, Scrape
from otel_progress.metrics.shared_totals import ProcessGroup
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import BatchQuery, HistoryQuery, Reader

T = TypeVar("T")


class SharedCollector(ProgressCollector):
    """Exports the operations and totals of all processes of a group.

    ``reader`` has the operations of this process, and ``journal`` those of the others. While there
    are no others, a scrape reads from the journal only the totals. ``options`` are those of
    :class:`ProgressCollector`.
    """

    def __init__(self, reader: Reader, group: ProcessGroup, journal: Reader, **options: Any) -> None:
        super().__init__(reader, **options)
        self._group = group
        self._journal = journal

    def read(self) -> Scrape:
        """Read this process and the journal once. Never raises."""
        reading = self._group.read()
        others = reading.others
        reader = GroupReader(self._reader, self._journal, others) if others else self._reader
        return self._read(reader, reading.sum_totals)


class GroupReader:
    """Reads the operations of this process and of other ones, for one scrape.

    Those of other processes are in the journal. If it cannot be read, the error is reported and
    counted, and only the operations of this process are returned.
    """

    def __init__(self, live: Reader, journal: Reader, others: frozenset[str]) -> None:
        self._live = live
        self._journal = journal
        self._others = others
        self._batches: set[str] = set()

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended."""
        return [
            *self._live.active(levels=levels),
            *self._select(lambda: self._journal.active(levels=levels)),
        ]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        live = self._live.history(query)
        runs = {operation.run for operation in live}
        stored = self._select(lambda: self._journal.history(query))
        found = [*live, *(operation for operation in stored if operation.run not in runs)]
        found.sort(key=lambda operation: operation.root.ended_at or 0.0, reverse=True)
        return found[: query.limit]

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches of the operations that were read, and of this process."""
        found = {batch.id: batch for batch in self._live.batches(query)}
        for batch in self._query(lambda: self._journal.batches(query)):
            known = found.get(batch.id)
            if known is None and batch.id not in self._batches:
                continue
            if known is None or sum(batch.counts.values()) > sum(known.counts.values()):
                found[batch.id] = batch
        return list(found.values())

    def _select(self, read: Callable[[], Sequence[OperationSnapshot]]) -> list[OperationSnapshot]:
        found = [each for each in self._query(read) if each.root.info.instance in self._others]
        self._batches.update(each.root.info.batch for each in found if each.root.info.batch is not None)
        return found

    def _query(self, read: Callable[[], Sequence[T]]) -> Sequence[T]:
        try:
            return read()
        except Exception as error:
            report_internal_error("metrics", "The operations of other processes cannot be read", error=error)
            return ()
