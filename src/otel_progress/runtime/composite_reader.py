"""The live store first, the journal for the rest: one Reader and Controller over what this process does and what the machine keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from typing import TypeVar

from otel_progress.batches import BatchCursor, cursor_of, cursor_sort_key
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.live.store import LiveStore
from otel_progress.model import Outcome
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import Controller, Reader, SizedStorage
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
        live = self._store.reader.get(operation_id)
        if live is not None and not live.status.finished:
            return live
        kept = self._query_journal(lambda journal: journal.get(operation_id), None)
        if live is None or kept is None or kept.run == live.run:
            return live or kept
        return max(live, kept, key=_start)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first: those of this process, and those of the others."""
        live = self._store.reader.active(levels=levels)
        kept: Sequence[OperationSnapshot] = self._query_journal(
            lambda journal: journal.active(levels=levels), ()
        )
        return sorted((*live, *self._from_other_processes(kept)), key=_start, reverse=True)

    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels."""
        live = self._store.reader.history(operation_type, limit, before=before, since=since)
        kept: Sequence[OperationSnapshot] = self._query_journal(
            lambda journal: journal.history(operation_type, limit, before=before, since=since), ()
        )
        by_run = {operation.run: operation for operation in (*kept, *live)}
        return sorted(by_run.values(), key=_end, reverse=True)[: max(0, limit)]

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations: first all active ones, then whatever changed, every ``interval`` seconds."""
        live = self._store.reader.watch(interval, levels=levels)
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

    def events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest ``limit`` events of the newest run, oldest first."""

        def ask(reader: Reader) -> Sequence[Event]:
            return reader.events(
                operation_id, level=level, outcome=outcome, since=since, upto=upto, limit=limit
            )

        return self._numbered(operation_id, ask, limit)

    def logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[LogRecord]:
        """Return log records of the newest run, oldest first."""

        def ask(reader: Reader) -> Sequence[LogRecord]:
            return reader.logs(
                operation_id, path=path, severity=severity, since=since, after=after, upto=upto, limit=limit
            )

        return self._numbered(operation_id, ask, limit)

    def _numbered(
        self, operation_id: str, ask: Callable[[Reader], Sequence[Numbered]], limit: int
    ) -> Sequence[Numbered]:
        """Return numbered records of the newest run: the journal keeps more of them, the live store has the last ones."""
        live: Sequence[Numbered] = ask(self._store.reader)
        kept: Sequence[Numbered] = self._query_journal(ask, ())
        if not live and not kept:
            return ()
        newest = self.get(operation_id)
        by_number: dict[int, Numbered] = {}
        for records in (kept, live):
            by_number.update(
                {record.number: record for record in records if newest is None or record.run == newest.run}
            )
        return [by_number[number] for number in sorted(by_number)][-limit:] if limit > 0 else ()

    def resources(
        self, operation_id: str, *, since: float | None = None, upto: float | None = None, limit: int = 600
    ) -> Sequence[ResourceSample]:
        """Return samples of the newest run's process taken while the run lasted, oldest first."""

        def ask(reader: Reader) -> Sequence[ResourceSample]:
            return reader.resources(operation_id, since=since, upto=upto, limit=limit)

        live: Sequence[ResourceSample] = ask(self._store.reader)
        kept: Sequence[ResourceSample] = self._query_journal(ask, ())
        newest = self.get(operation_id) if kept else None
        if newest is None:
            return live
        # The journal's newest run may be an earlier one than the live one: its samples are older than that one's start.
        by_clock = {sample.clock: sample for sample in (*kept, *live) if sample.at >= _start(newest)}
        return [by_clock[clock] for clock in sorted(by_clock)][-limit:] if limit > 0 else []

    def previews(
        self, operation_id: str, *, path: str | None = None, upto: int | None = None, limit: int = 100
    ) -> Sequence[Preview]:
        """Return the stored previews of the newest run, oldest first."""

        def ask(reader: Reader) -> Sequence[Preview]:
            return reader.previews(operation_id, path=path, upto=upto, limit=limit)

        return self._numbered(operation_id, ask, limit)

    # --- batches -----------------------------------------------------------------------------------------------

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as it is now, or None."""
        return _more_complete(
            self._store.reader.batch(batch_id),
            self._query_journal(lambda journal: journal.batch(batch_id), None),
        )

    def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> Sequence[BatchSnapshot]:
        """Return the batches, those that are not over first, then the newest first, then by id; only those ``after`` a place."""
        live = {batch.id: batch for batch in self._store.reader.batches(limit, after=after)}
        listed: Sequence[BatchSnapshot] | None = self._query_journal(
            lambda journal: journal.batches(limit, after=after), None
        )
        if listed is None:
            return list(live.values())
        kept = {batch.id: batch for batch in listed}
        found = []
        for id_ in {
            **live,
            **kept,
        }:  # what only one of them has here may stand elsewhere in the other, which may know more of it
            known = kept.get(id_)
            batch = (
                self.batch(id_)
                if known is None
                else _more_complete(live.get(id_) or self._store.reader.batch(id_), known)
            )
            if batch is not None:
                found.append(
                    (cursor_sort_key(cursor_of(batch, None if after is None else after.listed_at)), batch)
                )
        found.sort(key=itemgetter(0))
        return [batch for rank, batch in found if after is None or rank > cursor_sort_key(after)][
            : max(0, limit)
        ]

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
