"""Reader and Controller that merges the live store with the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from typing import TypeVar

from otel_progress.batches import create_cursor, cursor_sort_key, set_missing_total
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.live.store import LiveStore
from otel_progress.missed_ends import MissedEnds
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import (
    BatchController,
    BatchQuery,
    Controller,
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    Reader,
    ResourceQuery,
    SizedStorage,
)
from otel_progress.records import LogRecord, Preview, ResourceSample

T = TypeVar("T")


Numbered = TypeVar("Numbered", Event, LogRecord, Preview)


class CompositeReader:
    """Reads the live store and the optional journal, and returns each run once.

    For a run in both, the live store has the newer data. If the journal cannot be read, the error
    is reported and counted, and only live data is returned.
    """

    def __init__(self, store: LiveStore, journal: Reader | None) -> None:
        self._store = store
        self._journal = journal

    # --- operations ----------------------------------------------------------

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""
        live = self._store.reader.get(operation_id)
        if live is not None and not live.status.finished:
            return live
        stored = self._query_journal(lambda journal: journal.get(operation_id), None)
        if live is None or stored is None:
            return live or stored
        if stored.run != live.run:
            return max(live, stored, key=_get_start)
        if stored.root.sequence > live.root.sequence:
            return stored  # another process runs or has ended a later attempt
        # Why: the live store drops the levels of older ended operations, and the journal does not.
        is_complete = stored.root.sequence == live.root.sequence and len(stored.levels) > len(live.levels)
        return stored if is_complete else live

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return the active operations of all processes, newest first."""
        live = self._store.reader.active(levels=levels)
        stored: Sequence[OperationSnapshot] = self._query_journal(
            lambda journal: journal.active(levels=levels), ()
        )
        return sorted((*live, *self._select_other_processes(stored)), key=_get_start, reverse=True)

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        live = self._store.reader.history(query)
        stored: Sequence[OperationSnapshot] = self._query_journal(lambda journal: journal.history(query), ())
        by_run: dict[str, OperationSnapshot] = {}
        for operation in (*live, *stored):
            known = by_run.setdefault(operation.run, operation)
            if operation.root.sequence > known.root.sequence:
                by_run[operation.run] = operation
        for run in self._find_continued(live, {operation.run for operation in stored}):
            by_run.pop(run, None)
        return sorted(by_run.values(), key=_get_end, reverse=True)[: query.limit]

    def _find_continued(self, ended: Sequence[OperationSnapshot], stored: set[str]) -> list[str]:
        """Return the ended runs of this process that are active again (retried tasks)."""
        # Why the condition: the query costs time, and an attempt before a retry is cancelled.
        sequences = {
            operation.run: operation.root.sequence
            for operation in ended
            if operation.status is Status.CANCELLED and operation.run not in stored
        }
        active: Sequence[OperationSnapshot] = (
            self._query_journal(lambda journal: journal.active(levels=False), ()) if sequences else ()
        )
        return [
            each.run for each in active if each.root.sequence > sequences.get(each.run, each.root.sequence)
        ]

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield all active operations, then changed ones, every ``interval`` seconds."""
        live = self._store.reader.watch(interval, levels=levels)
        stored = self._watch_journal(levels=levels)
        try:
            for changed in live:
                yield [*changed, *self._select_other_processes(next(stored))]
        finally:
            # Both are generators.
            live.close()  # type: ignore[attr-defined]
            stored.close()  # type: ignore[attr-defined]

    def _watch_journal(self, *, levels: bool) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield changes of the journal indefinitely, and restart the watch after an error.

        It never sleeps, because the watch of the live store does.
        """
        missed = None if self._journal is None else MissedEnds(self._journal)
        is_restarted = False
        while self._journal is not None and missed is not None:
            try:
                missed.start()
                with closing(self._journal.watch(0.0, levels=levels)) as watch:  # type: ignore[type-var]
                    for changed in watch:
                        missed.add(changed)
                        yield [*changed, *missed.find()] if is_restarted else changed
                        is_restarted = False
            except ProgressError as error:
                report_internal_error("journal", "The journal cannot be watched", error=error)
            is_restarted = True
            yield ()
        while True:
            yield ()

    def _select_other_processes(self, stored: Sequence[OperationSnapshot]) -> list[OperationSnapshot]:
        """Return the operations of other processes.

        The live store has all of this process.
        """
        own = self._store.instance.id
        return [operation for operation in stored if operation.root.info.instance != own]

    # --- records of one operation --------------------------------------------

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        return self._merge_records(
            operation_id, lambda reader: reader.events(operation_id, query), query.limit
        )

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        return self._merge_records(operation_id, lambda reader: reader.logs(operation_id, query), query.limit)

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        return self._merge_records(
            operation_id, lambda reader: reader.previews(operation_id, query), query.limit
        )

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return samples that were made during the newest run, oldest first."""
        live = self._store.reader.resources(operation_id, query)
        stored: Sequence[ResourceSample] = self._query_journal(
            lambda journal: journal.resources(operation_id, query), ()
        )
        newest = self.get(operation_id) if stored else None
        if newest is None:
            return live
        # The newest run of the journal may be older than the live one. Then its samples are older
        # than the start of the live run.
        by_clock = {sample.clock: sample for sample in (*stored, *live) if sample.at >= _get_start(newest)}
        return [by_clock[clock] for clock in sorted(by_clock)][-query.limit :] if query.limit else []

    def _merge_records(
        self, operation_id: str, read: Callable[[Reader], Sequence[Numbered]], limit: int
    ) -> Sequence[Numbered]:
        """Merge the numbered records of the newest run.

        The journal has more records than the live store, which has the newest ones.
        """
        live = read(self._store.reader)
        stored: Sequence[Numbered] = self._query_journal(read, ())
        if not live and not stored:
            return ()
        newest = self.get(operation_id)
        by_number: dict[int, Numbered] = {}
        for records in (stored, live):
            by_number.update(
                {record.number: record for record in records if newest is None or record.run == newest.run}
            )
        return [by_number[number] for number in sorted(by_number)][-limit:] if limit else ()

    # --- batches -------------------------------------------------------------

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the current state of a batch, or None."""
        return _select_more_complete(
            self._store.reader.batch(batch_id),
            self._query_journal(lambda journal: journal.batch(batch_id), None),
        )

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""
        live = {batch.id: batch for batch in self._store.reader.batches(query)}
        listed: Sequence[BatchSnapshot] | None = self._query_journal(
            lambda journal: journal.batches(query), None
        )
        if listed is None:
            return list(live.values())
        stored = {batch.id: batch for batch in listed}
        merged = [self._merge_batch(id_, live.get(id_), stored.get(id_)) for id_ in {**live, **stored}]
        listed_at = None if query.after is None else query.after.listed_at
        ranked = [
            (cursor_sort_key(create_cursor(batch, listed_at)), batch) for batch in merged if batch is not None
        ]
        ranked.sort(key=itemgetter(0))
        if query.after is not None:
            last = cursor_sort_key(query.after)
            ranked = [(rank, batch) for rank, batch in ranked if rank > last]
        return [batch for _, batch in ranked[: query.limit]]

    def _merge_batch(
        self, batch_id: str, live: BatchSnapshot | None, stored: BatchSnapshot | None
    ) -> BatchSnapshot | None:
        """Return the more complete snapshot of a batch.

        A batch that only one source lists may have another position in the other, which may know
        more of its operations. So the other source is read too.
        """
        if stored is None:
            return self.batch(batch_id)
        return _select_more_complete(live or self._store.reader.batch(batch_id), stored)

    # --- requests ------------------------------------------------------------

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Request that the active run of an operation stops, in any process.

        Return False if no run is active.
        """
        if self._store.request_cancel(operation_id, reason):
            return True
        journal = self._journal
        return isinstance(journal, Controller) and journal.request_cancel(operation_id, reason)

    def delete(self, operation_id: str) -> int:
        """Delete the finished runs of an operation, and return their number."""
        live, journal = self._store.delete(operation_id), self._journal
        stored = journal.delete(operation_id) if isinstance(journal, Controller) else 0
        # Most runs are in both.
        return max(live, stored)

    def fail_abandoned(self, operation_id: str, reason: str) -> bool:
        """Mark the active run of an operation as failed.

        Its process must have certainly ended. Return False if no run is active, or if its process
        may still run.
        """
        journal = self._journal
        return isinstance(journal, Controller) and journal.fail_abandoned(operation_id, reason)

    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """
        is_closed = self._store.close_batch(batch_id)
        journal = self._journal
        # Why both: another process may have declared it.
        return (isinstance(journal, BatchController) and journal.close_batch(batch_id)) or is_closed

    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request that all active operations of a batch stop. Return their number."""
        live, journal = self._store.cancel_batch(batch_id, reason), self._journal
        stored = journal.cancel_batch(batch_id, reason) if isinstance(journal, BatchController) else 0
        # The journal includes those of this process, but may be a tick behind.
        return max(live, stored)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations.

        Return False, and delete nothing, if the batch is unknown or may have a running operation.
        """
        journal = self._journal
        live = self._store.reader.batch(batch_id)
        if live is not None and live.active:
            return False
        if isinstance(journal, BatchController):
            is_deleted = journal.delete_batch(batch_id)
            if not is_deleted and journal.batch(batch_id) is not None:
                return False
            return self._store.delete_batch(batch_id) or is_deleted
        return self._store.delete_batch(batch_id)

    def size_bytes(self) -> int | None:
        """Return the size of the journal's files in bytes, or None without a journal."""
        return self._journal.size_bytes() if isinstance(self._journal, SizedStorage) else None

    def _query_journal(self, read: Callable[[Reader], T], default: T) -> T:
        """Call ``read`` with the journal.

        Return ``default`` without a journal or after an error.
        """
        if self._journal is None:
            return default
        try:
            return read(self._journal)
        except ProgressError as error:
            report_internal_error("journal", "The journal cannot be read", error=error)
            return default


def _get_start(operation: OperationSnapshot) -> float:
    return operation.root.info.started_at or 0.0


def _get_end(operation: OperationSnapshot) -> tuple[float, str]:
    return operation.root.ended_at or 0.0, operation.run


def _select_more_complete(live: BatchSnapshot | None, stored: BatchSnapshot | None) -> BatchSnapshot | None:
    """Return the batch with more operations.

    The journal includes other processes, but the live store has the newest data of this one. A
    batch that another process closed is finished in the journal only.
    """
    if live is None or stored is None:
        return live or stored
    # Why: at the start of a new run of a batch, the journal is a tick behind.
    if stored.is_finished and stored.started_at < live.started_at >= (stored.ended_at or 0.0):
        return live
    numbers = sum(stored.counts.values()), sum(live.counts.values())
    is_closed = numbers[0] == numbers[1] and stored.is_finished and not live.is_finished
    if numbers[0] <= numbers[1] and not is_closed:
        return live
    # Why: the operations of other processes may be stored before the declaration of this one.
    return set_missing_total(stored, live.total)
