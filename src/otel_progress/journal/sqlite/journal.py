"""Journal in an SQLite file that all processes of one host can write and read."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.sanitize import sanitize_text
from otel_progress.journal.spilled_ends import SpilledEnds
from otel_progress.journal.sqlite import batches
from otel_progress.journal.sqlite.abandonment import fail_abandoned_run
from otel_progress.journal.sqlite.cancel_requests import (
    CancelRequestPoller,
    insert_request,
    read_requests,
    read_run_requests,
)
from otel_progress.journal.sqlite.connection import ManagedConnection, read_free_bytes, repeat_after_fork
from otel_progress.journal.sqlite.contributions import delete_contributions, read_contributions
from otel_progress.journal.sqlite.diagnosis import diagnose_file
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.opening import DiskFullError, NothingRecordedError
from otel_progress.journal.sqlite.reader import (
    add_levels,
    read_active,
    read_events,
    read_heartbeats,
    read_history,
    read_logs,
    read_newest_run,
    read_previews,
    read_samples,
)
from otel_progress.journal.sqlite.resumption import claim_run
from otel_progress.journal.sqlite.retention import (
    Retention,
    delete_batch_rows,
    delete_finished_runs,
    vacuum_free_pages,
)
from otel_progress.journal.sqlite.totals import load_totals, replace_totals
from otel_progress.journal.sqlite.trajectories import load_trajectories
from otel_progress.journal.sqlite.watcher import Watcher
from otel_progress.journal.sqlite.writer import Writer
from otel_progress.model import Instance
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.processes import read_suspended_s
from otel_progress.protocols import (
    MAX_RECORD_NUMBER,
    BatchQuery,
    ChangeSet,
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    RenamedRun,
    RenameRun,
    ResourceQuery,
)
from otel_progress.records import (
    MAX_TRAJECTORIES_PER_KEY,
    CancelRequest,
    Contribution,
    LogRecord,
    Preview,
    ResourceSample,
    TotalsTable,
    Trajectory,
    TrajectoryKey,
)
from otel_progress.resumption import ResumedWork, RunClaim
from otel_progress.settings.defaults import DEFAULT_RETENTION_S
from otel_progress.text import truncate

T = TypeVar("T")


Q = TypeVar("Q", EventQuery, LogQuery, PreviewQuery)


DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
"""Size limit of the file.

Beyond it, the oldest ended operations are deleted early.

The write-ahead log needs up to 8 MiB more.
"""


SMALL_DISK_BYTES: Final = 32 * 1024 * 1024
"""Free space below which large change sets are written in several transactions."""


_MAX_SNAPSHOTS_ON_SMALL_DISK: Final = 50
"""Levels per transaction on a small disk."""


class SqliteJournal:
    """Journal in one SQLite file with a write-ahead log.

    Readers never wait, and writers wait for each other for milliseconds. The first use opens the
    file, and so does the first use after an error. Every method may raise JournalError, whose
    message says how to fix the problem. Methods may be called from any thread.

    - ``retention_s``: time that ended operations are stored, in seconds.
    - ``max_bytes``: size limit of the file.
    - ``read_only``: never create the file, and reject changes.
    - ``missing_ok``: read a missing file as an empty journal until a process creates it.
    - ``now``, ``clock``: functions that return Unix seconds and monotonic seconds.
    - ``on_deleted``: called with the locations of previews that nothing refers to any more, after
      their deletion was committed.
    - ``rename_run``: renames a run of this process whose id another live process uses. None if
      this process has no operations of its own.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        read_only: bool = False,
        missing_ok: bool = False,
        limits: JournalLimits = JournalLimits(),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_deleted: Callable[[Sequence[str]], object] | None = None,
        rename_run: RenameRun | None = None,
    ) -> None:
        self.path = path
        self._on_deleted = on_deleted
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._read_only = read_only
        self._missing_ok = missing_ok
        self._limits = limits
        self._writing = ManagedConnection(path, detect_replacement=True, busy_timeout_s=limits.busy_timeout_s)
        self._reading = ManagedConnection(path, read_only=read_only, busy_timeout_s=limits.busy_timeout_s)
        self._writer = Writer(limits, rename_run)
        self._generation = 0
        self._retention = Retention(retention_s, max_bytes, limits.rows_per_pass)
        self._cancel_request_poller = CancelRequestPoller()
        self._spilled_ends = SpilledEnds(
            path, store=self._store_recovered, find_heartbeat=self._find_heartbeat
        )

    @property
    def dropped(self) -> int:
        """Number of operations, events and log records that the size limit deleted early."""
        return self._retention.dropped + self._writer.dropped_contributions

    @property
    def location(self) -> Path | None:
        """File of the journal. Folders that belong to the journal are created next to it."""
        return self.path

    @property
    def spill_base(self) -> Path | None:
        """The file of the journal."""
        return self.path

    @repeat_after_fork
    def check(self) -> None:
        """Open the file for reading. Raises JournalError if that is not possible."""
        try:
            with self._reading.acquire():
                pass
        except NothingRecordedError:
            if not self._missing_ok:
                raise

    @repeat_after_fork
    def prepare(self) -> None:
        """Create the file if necessary and open it for writing. Raises JournalError."""
        with self._writing.acquire():
            pass

    def diagnose(self) -> Iterator[JournalFinding]:
        """Check permissions and integrity of the file without changing it. Never raises."""
        return diagnose_file(self.path)

    def write(self, change_set: ChangeSet) -> None:
        """Store a change set in one transaction.

        Raises JournalError if nothing was stored.
        """
        self._check_writable()
        try:
            for part in self._split_for_small_disk(change_set):
                self._notify_deleted(self._write(part))
        except DiskFullError:
            self._write_essentials(change_set)
            raise
        self._spilled_ends.recover_if_due_safely(self._get_read_time())
        self._notify_deleted(self._delete_expired())

    def _split_for_small_disk(self, change_set: ChangeSet) -> Sequence[ChangeSet]:
        """Split a large change set if the disk has little space.

        Why: a transaction needs its space twice, in the write-ahead log and in the file.
        """
        snapshots = change_set.snapshots
        if len(snapshots) <= _MAX_SNAPSHOTS_ON_SMALL_DISK:
            return (change_set,)
        free_bytes = read_free_bytes(self.path.parent)
        if free_bytes is None or free_bytes >= SMALL_DISK_BYTES:
            return (change_set,)
        last = [item for item in snapshots if not item.info.path and item.status.finished]
        earlier = [item for item in snapshots if item.info.path or not item.status.finished]
        parts = [
            ChangeSet(
                change_set.instance,
                change_set.at,
                change_set.clock,
                earlier[start : start + _MAX_SNAPSHOTS_ON_SMALL_DISK],
                evicted=change_set.evicted if start == 0 else (),
            )
            for start in range(0, len(earlier), _MAX_SNAPSHOTS_ON_SMALL_DISK)
        ]
        # Why first: after a crash between two parts, no level counts without its key.
        keys = replace(
            ChangeSet(change_set.instance, change_set.at, change_set.clock),
            completed_keys=change_set.completed_keys,
        )
        # Why at the end: a finished operation then has all its levels and records.
        return [keys, *parts, replace(change_set, snapshots=last, evicted=(), completed_keys=())]

    def _write_essentials(self, change_set: ChangeSet) -> None:
        """Write only the operations, which may still fit on a full disk.

        Everything is written again with the next change set.
        """
        roots = [snapshot for snapshot in change_set.snapshots if not snapshot.info.path]
        if roots and len(roots) < len(change_set.snapshots):
            with suppress(JournalError):
                essentials = ChangeSet(change_set.instance, change_set.at, change_set.clock, roots)
                self._notify_deleted(self._write(essentials))

    def _store_recovered(self, change_set: ChangeSet) -> None:
        self._write(change_set, is_heartbeat=False)

    @repeat_after_fork
    def _find_heartbeat(self, instance: Instance) -> Heartbeat | None:
        with self._writing.acquire() as connection:
            return read_heartbeats(connection, (instance.id,)).get(instance.id)

    @repeat_after_fork
    def _write(self, change_set: ChangeSet, *, is_heartbeat: bool = True) -> Sequence[str]:
        """Store a change set. Return the locations of previews that are unreferenced now."""
        with self._writing.transaction("IMMEDIATE") as connection:
            if self._generation != self._writing.generation:
                self._writer.reset_cache()
                self._generation = self._writing.generation
            if is_heartbeat:
                self._writer.write(connection, change_set)
            else:
                self._writer.write_recovered(connection, change_set)
        return self._writer.unreferenced

    @repeat_after_fork
    def _delete_expired(self) -> Sequence[str]:
        """Run a retention pass if due.

        Return the locations of previews that are unreferenced now.
        """
        with self._writing.acquire() as connection:
            moment = self._get_read_time()
            if not self._retention.is_due(connection, moment.clock):
                return ()
            return self._retention.run(connection, moment)

    def close(self) -> None:
        """Close the file. The last process that closes it merges the write-ahead log.

        Before that, store the ended operations that dead processes left in files.
        """
        if not self._read_only:
            self._spilled_ends.recover_at_close(self._get_read_time)
        self._writing.close()
        self._reading.close()

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""
        return self._read(
            lambda db: read_newest_run(db, sanitize_text(operation_id), self._get_read_time()), None
        )

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first."""

        def read(connection: sqlite3.Connection) -> Sequence[OperationSnapshot]:
            found = read_active(connection, self._get_read_time())
            return add_levels(connection, found) if levels else [operation for _, operation in found]

        return self._read(read, ())

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        if query.operation_type is not None:
            query = replace(query, operation_type=sanitize_text(query.operation_type))
        if query.before is not None:
            query = replace(query, before=(query.before[0], sanitize_text(query.before[1])))
        return self._read(lambda db: read_history(db, query, self._get_read_time()), ())

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        return self._read(lambda db: read_events(db, sanitize_text(operation_id), _sanitize_path(query)), ())

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        return self._read(lambda db: read_logs(db, sanitize_text(operation_id), _sanitize_path(query)), ())

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return samples that were made during the newest run, oldest first."""
        return self._read(
            lambda db: read_samples(db, sanitize_text(operation_id), query, self._get_read_time()), ()
        )

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        return self._read(
            lambda db: read_previews(db, sanitize_text(operation_id), _sanitize_path(query)), ()
        )

    def trajectories(self, key: TrajectoryKey, limit: int = MAX_TRAJECTORIES_PER_KEY) -> Sequence[Trajectory]:
        """Return the newest trajectories with this key, oldest first.

        If fewer than three are from this class of host, trajectories of other classes come first.
        """
        limit = max(0, min(limit, MAX_RECORD_NUMBER))
        return self._read(lambda db: load_trajectories(db, key, limit), ())

    def read_totals(self, group: str) -> TotalsTable:
        """Return the totals of all processes of a group."""
        return self._read(lambda db: load_totals(db, group), {})

    @repeat_after_fork
    def merge_totals(
        self, group: str, processes: Sequence[str], merged: Mapping[str, str], version: str
    ) -> bool:
        """Replace processes that have ended by the new sums ``merged``.

        Return False if another process has changed them.
        """
        self._check_writable()
        with self._reading.transaction("IMMEDIATE") as connection:
            return replace_totals(connection, group, processes, merged, version, self._now())

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the current state of a batch, or None."""
        return self._read(
            lambda db: batches.read_batch(db, sanitize_text(batch_id), self._get_read_time()), None
        )

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""
        return self._read(lambda db: batches.read_batches(db, query, self._get_read_time()), ())

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield active operations, then changed ones, at most every ``interval`` seconds.

        A condition that changes by time alone (stalled, abandoned) is a change, and so is a cancel
        request. A new ``resources`` value alone is not a change.
        """
        watcher = Watcher(
            self.path,
            self._get_read_time,
            read_only=self._read_only,
            missing_ok=self._missing_ok,
            levels=levels,
            busy_timeout_s=self._limits.busy_timeout_s,
        )
        return watcher.follow(interval, self._sleep)

    @repeat_after_fork
    def _read(self, read: Callable[[sqlite3.Connection], T], missing: T) -> T:
        """Call ``read`` within one read transaction.

        Return ``missing`` if there is no journal yet and ``missing_ok`` is set.
        """
        try:
            with self._reading.transaction("DEFERRED") as connection:
                return read(connection)
        except NothingRecordedError:
            if not self._missing_ok:
                raise
            return missing

    @repeat_after_fork
    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Request that the newest active run of an operation stops.

        Return False if no run is active. The first request of a run is kept.
        """
        self._check_writable()
        # Why not the writer's connection: CancelRequestPoller detects changes by other connections.
        with self._reading.transaction("IMMEDIATE") as connection:
            return insert_request(connection, sanitize_text(operation_id), truncate(reason), self._now())

    @repeat_after_fork
    def fail_abandoned(self, operation_id: str, reason: str) -> bool:
        """Mark the newest active run of an operation as failed.

        Its process must have certainly ended. Return False if no run is active, or if its process
        may still run.
        """
        self._check_writable()
        with self._reading.transaction("IMMEDIATE") as connection:
            return fail_abandoned_run(
                connection, sanitize_text(operation_id), truncate(reason), self._get_read_time()
            )

    @repeat_after_fork
    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """
        self._check_writable()
        with self._reading.transaction("IMMEDIATE") as connection:
            return batches.close_batch(connection, sanitize_text(batch_id), self._get_read_time())

    @repeat_after_fork
    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request that all active operations of a batch stop. Return their number."""
        self._check_writable()
        with self._reading.transaction("IMMEDIATE") as connection:
            ids = batches.list_running_ids(connection, sanitize_text(batch_id))
            at = self._now()
            return sum(insert_request(connection, id_, truncate(reason), at) for id_ in ids)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations.

        Return False, and delete nothing, if the batch is unknown or may have a running operation.
        """
        self._check_writable()
        identity, result = sanitize_text(batch_id), None
        while result is None:
            result, unreferenced = self._delete_batch_rows(identity)
            self._notify_deleted(unreferenced)
        if result:
            self._vacuum()
        return result

    @repeat_after_fork
    def _delete_batch_rows(self, identity: str) -> tuple[bool | None, Sequence[str]]:
        """Delete some operations of a batch, then the batch. Return None if some are left."""
        with self._reading.transaction("IMMEDIATE") as connection:
            return delete_batch_rows(connection, identity, self._get_read_time(), self._limits.rows_per_pass)

    def delete(self, operation_id: str) -> int:
        """Delete the finished runs of an operation, and return their number.

        A run whose process has certainly ended is finished too. Rows are deleted in transactions
        of limited size, so that other processes can write in between.
        """
        self._check_writable()
        identity, count, is_done = sanitize_text(operation_id), 0, False
        while not is_done:
            deleted, is_done, unreferenced = self._delete_rows(identity)
            count += deleted
            self._notify_deleted(unreferenced)
        if count:
            try:
                self._vacuum()
            except JournalError as error:
                # The rows are deleted, and the retention returns the pages later.
                if not error.is_temporary:
                    raise
        return count

    @repeat_after_fork
    def _delete_rows(self, identity: str) -> tuple[int, bool, Sequence[str]]:
        with self._reading.transaction("IMMEDIATE") as connection:
            return delete_finished_runs(
                connection, identity, self._get_read_time(), self._limits.rows_per_pass
            )

    @repeat_after_fork
    def _vacuum(self) -> None:
        with self._reading.acquire() as connection:
            vacuum_free_pages(connection)

    @repeat_after_fork
    def cancel_requests(self, instance_id: str) -> Sequence[CancelRequest]:
        """Return the requests to cancel active operations of a process.

        Without requests it takes microseconds.
        """
        identity = sanitize_text(instance_id)
        with self._writing.acquire_if_open() as connection:
            if connection is not None:
                return self._cancel_request_poller.poll(connection, self._writing.generation, identity)
        return self._read(lambda db: read_requests(db, identity), ())

    def claim_run(self, claim: RunClaim) -> ResumedWork | None:
        """Continue the newest run of an operation in one transaction.

        Return None if there is no run to continue. Raises OperationRunningError if the process of
        the newest run is alive.
        """
        self._check_writable()
        # Why first: the end of the newest run may wait in a file of its process.
        self._spilled_ends.recover_at_close(self._get_read_time)
        return self._claim_run(claim)

    @repeat_after_fork
    def _claim_run(self, claim: RunClaim) -> ResumedWork | None:
        with self._reading.transaction("IMMEDIATE") as connection:
            return claim_run(connection, claim, self._get_read_time(), self._limits)

    def take_superseded_runs(self) -> Mapping[str, str]:
        """Return the runs whose changes were left out since the last call.

        The value is the run that has continued it.
        """
        superseded = self._writer.superseded
        return dict(superseded.popitem() for _ in range(len(superseded)))

    def take_renamed_runs(self) -> Sequence[RenamedRun]:
        """Return the runs of this process that were renamed since the last call."""
        return self._writer.duplicate_ids.take_renamed_runs()

    def contributions(self, runs: Sequence[str]) -> Sequence[Contribution]:
        """Return the stored contributions to runs, parents before their children."""
        return self._read(lambda db: read_contributions(db, [sanitize_text(run) for run in runs]), ())

    @repeat_after_fork
    def drop_contributions(self, included: Sequence[Contribution]) -> None:
        """Delete contributions unless newer ones have replaced them."""
        self._check_writable()
        with self._reading.transaction("IMMEDIATE") as connection:
            delete_contributions(connection, included)

    def find_gone_instances(self, instances: Sequence[str]) -> Sequence[str]:
        """Return the processes among ``instances`` that have certainly ended."""
        moment = self._get_read_time()
        beats: dict[str, Heartbeat] = self._read(lambda db: read_heartbeats(db, instances), {})
        return [identity for identity, beat in beats.items() if moment.is_gone(beat)]

    def find_cancel_requests(self, runs: Sequence[str]) -> Sequence[CancelRequest]:
        """Return the requests to cancel active runs of any process."""
        return self._read(lambda db: read_run_requests(db, [sanitize_text(run) for run in runs]), ())

    def size_bytes(self) -> int | None:
        """Return the size of the file, its write-ahead log and their index in bytes.

        Return None if there is no file.
        """
        sizes = [_read_size(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal", "-shm")]
        return None if sizes[0] is None else sum(size or 0 for size in sizes)

    def _notify_deleted(self, locations: Sequence[str]) -> None:
        """Call ``on_deleted``.

        Its errors are only reported, because the write has succeeded.
        """
        if not locations or self._on_deleted is None:
            return
        try:
            self._on_deleted(locations)
        except Exception as error:
            msg = f"The content of deleted previews may not have been deleted: {error}"
            report_internal_error("previews", msg, error=error)

    def _check_writable(self) -> None:
        if self._read_only:
            msg = f"{self.path} was opened for reading only. Open the journal without read_only to change it."
            raise JournalError(msg)

    def _get_read_time(self) -> ReadTime:
        suspended_s = read_suspended_s() if self._clock is time.monotonic else 0.0
        return ReadTime(self._now(), self._clock(), suspended_s)


def _read_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sanitize_path(query: Q) -> Q:
    """Return the query with a path of valid Unicode."""
    return query if query.path is None else replace(query, path=sanitize_text(query.path))
