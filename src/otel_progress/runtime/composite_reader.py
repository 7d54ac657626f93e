"""The live store first, the journal for the rest: one Reader and Controller over what this process does and what the machine keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from typing import TypeVar

from otel_progress.batches import cursor_of, cursor_sort_key
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.live.store import LiveStore
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import (
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
    """Answers from the live store and, where there is one, the journal, without doubles: the live run is the newer of the same one.

    A journal that cannot be read is trouble, counted, and leaves what is live.
    """

    def __init__(self, store: LiveStore, journal: Reader | None) -> None:
        self._store = store
        self._journal = journal

    # --- operations --------------------------------------------------------------------------------------------

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        live = self._store.get(operation_id)
        if live is not None and not live.status.finished:
            return live
        kept = self._query_journal(lambda journal: journal.get(operation_id), None)
        if live is None or kept is None or kept.run == live.run:
            return live or kept
        return max(live, kept, key=_start)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first: those of this process, and those of the others."""
        live = self._store.active(levels=levels)
        kept: Sequence[OperationSnapshot] = self._query_journal(
            lambda journal: journal.active(levels=levels), ()
        )
        return sorted((*live, *self._from_other_processes(kept)), key=_start, reverse=True)

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        live = self._store.history(query)
        stored: Sequence[OperationSnapshot] = self._query_journal(lambda journal: journal.history(query), ())
        by_run = {operation.run: operation for operation in (*stored, *live)}
        return sorted(by_run.values(), key=_end, reverse=True)[: query.limit]

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations: first all active ones, then whatever changed, every ``interval`` seconds."""
        live = self._store.watch(interval, levels=levels)
        kept = self._watched(levels=levels)
        try:
            for changed in live:
                yield [*changed, *self._from_other_processes(next(kept))]
        finally:
            live.close()  # type: ignore[attr-defined]  # both are generators
            kept.close()  # type: ignore[attr-defined]

    def _watched(self, *, levels: bool) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield for ever what the journal has to tell, without a pause: the live store's watch has one. Begin again after trouble."""
        while self._journal is not None:
            try:
                with closing(self._journal.watch(0.0, levels=levels)) as watch:  # type: ignore[type-var]  # a generator
                    yield from watch
            except ProgressError as error:
                report_internal_error("journal", f"the journal cannot be watched: {error}", error=error)
            yield ()
        while True:
            yield ()

    def _from_other_processes(self, kept: Sequence[OperationSnapshot]) -> list[OperationSnapshot]:
        """Return the operations of other processes: the live store has all of this one's, and has them first."""
        own = self._store.instance.id
        return [operation for operation in kept if operation.root.info.instance != own]

    # --- what belongs to one operation -------------------------------------------------------------------------

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
        """Return samples of the process that were made during the newest run, oldest first."""
        live = self._store.resources(operation_id, query)
        stored: Sequence[ResourceSample] = self._query_journal(
            lambda journal: journal.resources(operation_id, query), ()
        )
        newest = self.get(operation_id) if stored else None
        if newest is None:
            return live
        # The journal's newest run may precede the live one. Its samples are older than the live run's start.
        by_clock = {sample.clock: sample for sample in (*stored, *live) if sample.at >= _start(newest)}
        return [by_clock[clock] for clock in sorted(by_clock)][-query.limit :] if query.limit else []

    def _merge_records(
        self, operation_id: str, read: Callable[[Reader], Sequence[Numbered]], limit: int
    ) -> Sequence[Numbered]:
        """Merge the numbered records of the newest run.

        The journal has more records than the live store, which has the newest ones.
        """
        live = read(self._store)
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

    # --- batches -----------------------------------------------------------------------------------------------

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as it is now, or None."""
        return _more_complete(
            self._store.batch(batch_id), self._query_journal(lambda journal: journal.batch(batch_id), None)
        )

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""
        live = {batch.id: batch for batch in self._store.batches(query)}
        listed: Sequence[BatchSnapshot] | None = self._query_journal(
            lambda journal: journal.batches(query), None
        )
        if listed is None:
            return list(live.values())
        stored = {batch.id: batch for batch in listed}
        merged = [self._merge_batch(id_, live.get(id_), stored.get(id_)) for id_ in {**live, **stored}]
        listed_at = None if query.after is None else query.after.listed_at
        ranked = [
            (cursor_sort_key(cursor_of(batch, listed_at)), batch) for batch in merged if batch is not None
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
        return _more_complete(live or self._store.batch(batch_id), stored)

    # --- requests ----------------------------------------------------------------------------------------------

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Ask the worker of the active run of this id to stop, in this process or another; False when there is none."""
        if self._store.request_cancel(operation_id, reason):
            return True
        journal = self._journal
        return isinstance(journal, Controller) and journal.request_cancel(operation_id, reason)

    def delete(self, operation_id: str) -> int:
        """Forget the runs of this id that are over; return how many there were."""
        live, journal = self._store.delete(operation_id), self._journal
        kept = journal.delete(operation_id) if isinstance(journal, Controller) else 0
        return max(live, kept)  # most of them are in both

    def size_bytes(self) -> int | None:
        """Return the size of the journal's files in bytes; None without one."""
        return self._journal.size_bytes() if isinstance(self._journal, SizedStorage) else None

    def _query_journal(self, ask: Callable[[Reader], T], otherwise: T) -> T:
        if self._journal is None:
            return otherwise
        try:
            return ask(self._journal)
        except ProgressError as error:
            report_internal_error("journal", f"the journal cannot be read: {error}", error=error)
            return otherwise


def _start(operation: OperationSnapshot) -> float:
    return operation.root.info.started_at or 0.0


def _end(operation: OperationSnapshot) -> tuple[float, str]:
    return operation.root.ended_at or 0.0, operation.run


def _more_complete(live: BatchSnapshot | None, kept: BatchSnapshot | None) -> BatchSnapshot | None:
    """Return the batch that knows of more operations: the journal has those of other processes, the live store is the faster one."""
    if live is None or kept is None:
        return live or kept
    return kept if sum(kept.counts.values()) > sum(live.counts.values()) else live
