"""The journal of one machine: an SQLite file that any number of processes write and read at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from otel_progress.batches import BatchCursor
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sanitize import sanitize_text
from otel_progress.journal.sqlite import batches
from otel_progress.journal.sqlite.cancel_requests import CancelRequestPoller, insert_request, requests_of
from otel_progress.journal.sqlite.connection import ManagedConnection, repeat_after_fork
from otel_progress.journal.sqlite.reader import (
    active,
    events,
    history,
    logs,
    newest_run,
    previews,
    samples,
    with_levels,
)
from otel_progress.journal.sqlite.retention import (
    ROWS_A_PASS,
    Retention,
    delete_finished_runs,
    vacuum_free_pages,
)
from otel_progress.journal.sqlite.trajectories import newest
from otel_progress.journal.sqlite.watcher import Watcher
from otel_progress.journal.sqlite.writer import Writer
from otel_progress.model import Outcome
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import ChangeSet
from otel_progress.records import CancelRequest, LogRecord, Preview, ResourceSample, Trajectory, TrajectoryKey
from otel_progress.text import truncate

DEFAULT_RETENTION_S: Final = 86_400.0
"""How long ended operations are kept, in seconds."""


DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
"""Size of the file from which the oldest ended operations go early; the write-ahead log beside it takes some 8 MiB more."""


class SqliteJournal:
    """A Journal over one file in write-ahead mode: readers never wait, writers take turns for milliseconds.

    The file is opened at the first use, and again after anything that went wrong. Every method raises JournalError
    with what is wrong and what to do. ``now`` gives Unix seconds, ``clock`` monotonic ones. ``on_deleted`` is called, once it cannot be
    undone, with the locations of previews that no row tells of any more.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        read_only: bool = False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_deleted: Callable[[Sequence[str]], object] | None = None,
    ) -> None:
        self.path = path
        self._on_deleted = on_deleted
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._read_only = read_only
        self._writing = ManagedConnection(path, tells_loss=True)
        self._reading = ManagedConnection(path, read_only=read_only)
        self._writer = Writer()
        self._generation = 0
        self._retention = Retention(retention_s, max_bytes)
        self._listener = CancelRequestPoller()

    @property
    def dropped(self) -> int:
        """Operations, events and log records deleted before their time because the file had grown too large."""
        return self._retention.dropped

    @repeat_after_fork
    def check(self) -> None:
        """Open the file for reading. Raises JournalError when that is not possible, so that a command can say so at once."""
        with self._reading.acquire():
            pass

    def write(self, batch: ChangeSet) -> None:
        """Keep a batch, in one transaction: all of it, or nothing and a JournalError."""
        self._refuse_read_only()
        self._tell_deleted(self._write(batch))
        self._tell_deleted(self._clean_up())

    @repeat_after_fork
    def _write(self, batch: ChangeSet) -> Sequence[str]:
        """Write a batch; return the locations of previews that are not needed any more."""
        with self._writing.transaction("IMMEDIATE") as connection:
            if self._generation != self._writing.generation:
                self._writer.reset_cache()
                self._generation = self._writing.generation
            self._writer.write(connection, batch)
        return self._writer.unreferenced

    @repeat_after_fork
    def _clean_up(self) -> Sequence[str]:
        """Delete what is old when it is time; return the locations of previews that are not needed any more."""
        with self._writing.acquire() as connection:
            moment = self._moment()
            return (
                self._retention.run(connection, moment)
                if self._retention.is_due(connection, moment.clock)
                else ()
            )

    def close(self) -> None:
        """Close the file; the last process to do so folds the write-ahead log into it."""
        self._writing.close()
        self._reading.close()

    @repeat_after_fork
    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        with self._reading.transaction("DEFERRED") as connection:
            return newest_run(connection, sanitize_text(operation_id), self._moment())

    @repeat_after_fork
    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first; without their levels when ``levels`` is False."""
        with self._reading.transaction("DEFERRED") as connection:
            found = active(connection, self._moment())
            return with_levels(connection, found) if levels else [operation for _, operation in found]

    @repeat_after_fork
    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels: those after ``before`` (end, run) in this order.

        ``since`` is the earliest end, in Unix seconds.
        """
        type_ = None if operation_type is None else sanitize_text(operation_type)
        start = None if before is None else (before[0], sanitize_text(before[1]))
        with self._reading.transaction("DEFERRED") as connection:
            return history(connection, type_, _count(limit), start, since, self._moment())

    @repeat_after_fork
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
        """Return the newest ``limit`` events of the newest run, oldest first; ``level`` is a path and includes what is below.

        ``upto`` is the highest number.
        """
        path, last = None if level is None else sanitize_text(level), None if upto is None else _count(upto)
        with self._reading.transaction("DEFERRED") as connection:
            return events(connection, sanitize_text(operation_id), path, outcome, since, last, _count(limit))

    @repeat_after_fork
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
        """Return log records of the newest run, oldest first: the newest ``limit`` of those whose number is above ``after``.

        ``path`` takes in what is below it; ``severity`` is the least number of ``logging``; ``since`` in Unix seconds; ``upto`` is the
        highest number.
        """
        where = None if path is None else sanitize_text(path)
        numbers = (
            _count(severity),
            since,
            _count(after),
            None if upto is None else _count(upto),
            _count(limit),
        )
        with self._reading.transaction("DEFERRED") as connection:
            return logs(connection, sanitize_text(operation_id), where, *numbers)

    @repeat_after_fork
    def resources(
        self, operation_id: str, *, since: float | None = None, upto: float | None = None, limit: int = 600
    ) -> Sequence[ResourceSample]:
        """Return samples of the newest run's process taken while the run lasted, oldest first, the newest ``limit``.

        ``since`` in Unix seconds; ``upto`` is the latest ``clock``.
        """
        with self._reading.transaction("DEFERRED") as connection:
            return samples(
                connection, sanitize_text(operation_id), since, upto, _count(limit), self._moment()
            )

    @repeat_after_fork
    def previews(
        self, operation_id: str, *, path: str | None = None, upto: int | None = None, limit: int = 100
    ) -> Sequence[Preview]:
        """Return the stored previews of the newest run, oldest first, the newest ``limit``; ``path`` takes in what is below it.

        ``upto`` is the highest number.
        """
        where, last = None if path is None else sanitize_text(path), None if upto is None else _count(upto)
        with self._reading.transaction("DEFERRED") as connection:
            return previews(connection, sanitize_text(operation_id), where, last, _count(limit))

    @repeat_after_fork
    def trajectories(self, key: TrajectoryKey, limit: int = 20) -> Sequence[Trajectory]:
        """Return what the newest ``limit`` runs under this key left, oldest first; after those of other hosts, if they are fewer than 3."""
        with self._reading.transaction("DEFERRED") as connection:
            return newest(connection, key, _count(limit))

    @repeat_after_fork
    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as it is now, or None."""
        with self._reading.transaction("DEFERRED") as connection:
            return batches.get(connection, sanitize_text(batch_id), self._moment())

    @repeat_after_fork
    def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> Sequence[BatchSnapshot]:
        """Return the batches, those that are not over first, then the newest first, then by id; only those ``after`` a place."""
        with self._reading.transaction("DEFERRED") as connection:
            return batches.newest(connection, _count(limit), self._moment(), after)

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield what is active, then at most every ``interval`` seconds what changed, also by time alone (stalled, abandoned).

        A request to cancel is a change; a new ``resources`` alone is none, and comes along with the next change.
        """
        return Watcher(self.path, self._moment, read_only=self._read_only, levels=levels).follow(
            interval, self._sleep
        )

    @repeat_after_fork
    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Ask the worker of the newest active run of this id to stop; False when there is none. The first request stays."""
        self._refuse_read_only()
        with self._reading.transaction("IMMEDIATE") as connection:  # never on the writer's own, see Listener
            return insert_request(connection, sanitize_text(operation_id), truncate(reason), self._now())

    def delete(self, operation_id: str) -> int:
        """Delete the runs of this id that are over with everything of them, some rows at a time; return how many there were.

        Over is what has ended, and what never will because its process is gone for certain.
        """
        self._refuse_read_only()
        identity, count, is_done = sanitize_text(operation_id), 0, False
        while not is_done:  # in transactions of a bounded size, so that workers get their turns
            deleted, is_done, unreferenced = self._delete_some(identity)
            count += deleted
            self._tell_deleted(unreferenced)
        if count:
            self._give_back()
        return count

    @repeat_after_fork
    def _delete_some(self, identity: str) -> tuple[int, bool, Sequence[str]]:
        with self._reading.transaction("IMMEDIATE") as connection:
            return delete_finished_runs(connection, identity, self._moment(), ROWS_A_PASS)

    @repeat_after_fork
    def _give_back(self) -> None:
        with self._reading.acquire() as connection:
            vacuum_free_pages(connection)

    @repeat_after_fork
    def cancel_requests(self, instance_id: str) -> Sequence[CancelRequest]:
        """Return the requests to cancel operations of a process that are still active; takes microseconds when there are none."""
        identity = sanitize_text(instance_id)
        with self._writing.acquire_if_open() as connection:
            if connection is not None:
                return self._listener.poll(connection, self._writing.generation, identity)
        with self._reading.transaction("DEFERRED") as connection:
            return requests_of(connection, identity)

    def size_bytes(self) -> int | None:
        """Return the size of the file with its write-ahead log and the log's index, in bytes; None when there is no file."""
        found = [_size(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal", "-shm")]
        return None if found[0] is None else sum(size or 0 for size in found)

    def _tell_deleted(self, locations: Sequence[str]) -> None:
        """Tell which content is not needed any more. What is written is written, whatever becomes of that."""
        if not locations or self._on_deleted is None:
            return
        try:
            self._on_deleted(locations)
        except Exception as error:
            report_internal_error(
                "previews", f"the content of deleted previews may stay: {error}", error=error
            )

    def _refuse_read_only(self) -> None:
        if self._read_only:
            msg = f"{self.path} was opened for reading only. Open the journal without read_only to change anything in it."
            raise JournalError(msg)

    def _moment(self) -> ReadTime:
        return ReadTime(self._now(), self._clock())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _count(number: int) -> int:
    """Return a count from a caller as SQLite can take it."""
    return max(0, min(number, 2**63 - 1))
