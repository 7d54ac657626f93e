"""Journal in a Redis or Valkey server, for the processes of all machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.redis import batches, contributions, control, reader, totals
from otel_progress.journal.redis.address import RedisAddress
from otel_progress.journal.redis.client import Command, RedisClient
from otel_progress.journal.redis.diagnosis import diagnose_server
from otel_progress.journal.redis.feed import FeedWatcher
from otel_progress.journal.redis.keys import JournalKeys
from otel_progress.journal.redis.limits import RedisLimits
from otel_progress.journal.redis.queries import InfoCache, Queries
from otel_progress.journal.redis.resumption import claim_run
from otel_progress.journal.redis.retention import Retention
from otel_progress.journal.redis.schema import migrate
from otel_progress.journal.redis.writer import Writer
from otel_progress.journal.sanitize import sanitize_text
from otel_progress.journal.spilled_ends import SpilledEnds
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

_Query = TypeVar("_Query", EventQuery, LogQuery, PreviewQuery)


class RedisJournal:
    """Journal in one Redis server, in the master of Sentinels, or in a cluster.

    The first use connects, and so does the first use after an error. Every method may raise
    JournalError, whose message says how to fix the problem. Methods may be called from any thread,
    and wait at most some seconds.

    - ``retention_s``: time that ended operations are stored, in seconds.
    - ``read_only``: reject changes.
    - ``now``, ``clock``: functions that return Unix seconds and monotonic seconds. With another
      ``now`` than ``time.time``, it replaces the clock of the server too.
    - ``sleep``: replaces waiting for changes in ``watch``.
    - ``spill_base``: path next to which ended operations wait in files. None for memory only.
    - ``on_deleted``: called with the locations of previews that nothing refers to any more, after
      their deletion.
    - ``rename_run``: renames a run of this process whose id another live process uses. None if
      this process has no operations of its own.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        read_only: bool = False,
        limits: RedisLimits = RedisLimits(),
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        on_deleted: Callable[[Sequence[str]], object] | None = None,
        spill_base: Path | None = None,
        rename_run: RenameRun | None = None,
    ) -> None:
        self.address = address
        self._spill_base = spill_base
        self._read_only = read_only
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._on_deleted = on_deleted
        self._client = RedisClient(address)
        self._keys = JournalKeys(address.name)
        self._queries = Queries(
            self._client, self._keys, self._get_read_time, self._read_server_time, InfoCache()
        )
        self._writer = Writer(
            self._client,
            self._keys,
            limits,
            retention_s,
            read_clock=clock,
            read_server_time=self._read_server_time,
            queries=self._queries,
            rename_run=rename_run,
        )
        self._retention = Retention(retention_s, limits, self._writer.ttl_ms)
        self._spilled_ends = (
            None
            if spill_base is None or read_only
            else SpilledEnds(spill_base, store=self._writer.write_ends, find_heartbeat=self._find_heartbeat)
        )
        self._checked: object = None

    def __repr__(self) -> str:
        return f"RedisJournal({self.address})"

    def __reduce__(self) -> NoReturn:
        msg = "A Redis journal has credentials and cannot be pickled. Open it again by its URL."
        raise TypeError(msg)

    @property
    def dropped(self) -> int:
        """Number of operations, events and contributions that a limit deleted early."""
        writer = self._writer
        return self._retention.dropped + writer.dropped_events + writer.dropped_contributions

    @property
    def needs_resend(self) -> bool:
        """True if the server lost changes, so that the sink writes all live state."""
        return self._writer.needs_resend

    @needs_resend.setter
    def needs_resend(self, value: bool) -> None:
        self._writer.needs_resend = value

    @property
    def location(self) -> Path | None:
        """None: the journal is not in a file."""
        return None

    @property
    def spill_base(self) -> Path | None:
        """Path on this machine, next to which ended operations wait in an outage."""
        return None if self._spilled_ends is None else self._spill_base

    def check(self) -> None:
        """Connect, and check the version of the journal. Raises JournalError."""
        server = self._client.get_server()
        if server is not self._checked:
            migrate(self._client, self._keys)
            self._checked = server

    def prepare(self) -> None:
        """Connect for writing. Raises JournalError."""
        self.check()

    def diagnose(self) -> Iterator[JournalFinding]:
        """Check the server without changing it. Never raises."""
        return diagnose_server(self._client, self._keys)

    def write(self, change_set: ChangeSet) -> None:
        """Store a change set.

        Raises JournalError if it may be incomplete. Writing it again is harmless.
        """
        self._check_writable()
        self.check()
        try:
            self._writer.write(change_set)
        except JournalError:
            # Why: another process may migrate the journal, or it may have been replaced.
            self._checked = None
            raise
        if self._spilled_ends is not None:
            self._spilled_ends.recover_if_due_safely(self._get_read_time())
        self._notify_deleted(self._writer.unreferenced)
        self._delete_expired()

    def _find_heartbeat(self, instance: Instance) -> Heartbeat | None:
        return self._queries.read_heartbeats((instance.id,)).get(instance.id)

    def _delete_expired(self) -> None:
        """Run a retention pass if due.

        Errors are only reported, because the write has succeeded.
        """
        if not self._retention.is_due(self._clock()):
            return
        try:
            self._notify_deleted(self._retention.run(self._queries, self._read_server_now()))
        except JournalError as error:
            report_internal_error("journal", f"Expired operations could not be deleted: {error}", error=error)

    def close(self) -> None:
        """Close all connections.

        Before that, store the ended operations that dead processes left in files.
        """
        if self._spilled_ends is not None:
            self._spilled_ends.recover_at_close(self._get_read_time)
        self._client.close()

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""
        return reader.read_newest_run(self._open(), sanitize_text(operation_id))

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first."""
        return reader.read_active(self._open(), levels=levels)

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""
        if query.operation_type is not None:
            query = replace(query, operation_type=sanitize_text(query.operation_type))
        if query.before is not None:
            query = replace(query, before=(query.before[0], sanitize_text(query.before[1])))
        return reader.read_history(self._open(), query)

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""
        return reader.read_events(self._open(), sanitize_text(operation_id), _sanitize_path(query))

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""
        return reader.read_logs(self._open(), sanitize_text(operation_id), _sanitize_path(query))

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return samples that were made during the newest run, oldest first."""
        return reader.read_samples(self._open(), sanitize_text(operation_id), query)

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""
        return reader.read_previews(self._open(), sanitize_text(operation_id), _sanitize_path(query))

    def trajectories(self, key: TrajectoryKey, limit: int = MAX_TRAJECTORIES_PER_KEY) -> Sequence[Trajectory]:
        """Return the newest trajectories with this key, oldest first.

        If fewer than three are from this class of host, trajectories of other classes come first.
        """
        texts = (key.operation_type, key.level, key.host_class, key.eta_key)
        known = TrajectoryKey(*map(sanitize_text, texts))
        return reader.read_trajectories(self._open(), known, max(0, min(limit, MAX_RECORD_NUMBER)))

    def read_totals(self, group: str) -> TotalsTable:
        """Return the totals of all processes of a group."""
        self.check()
        return totals.read_totals(self._client, self._keys, group)

    def merge_totals(
        self, group: str, processes: Sequence[str], merged: Mapping[str, str], version: str
    ) -> bool:
        """Replace processes that have ended by the new sums ``merged``.

        Return False if another process has changed them.
        """
        self._check_writable()
        self.check()
        ttl_ms = self._writer.ttl_ms
        return totals.merge_totals(self._client, self._keys, group, processes, merged, version, ttl_ms)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the current state of a batch, or None."""
        return batches.read_batch(self._open(), sanitize_text(batch_id))

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""
        return batches.read_batches(self._open(), query)

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield active operations, then changed ones, at most every ``interval`` seconds.

        A condition that changes by time alone (stalled, abandoned) is a change, and so is a cancel
        request. A new ``resources`` value alone is not a change. After a pause, a change is yielded
        within milliseconds.
        """
        return FeedWatcher(self._queries, levels=levels).follow(interval, self._sleep)

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Request that the newest active run of an operation stops.

        Return False if no run is active. The first request of a run is kept.
        """
        self._check_writable()
        text = truncate(reason)
        return control.request_cancel(
            self._open(), sanitize_text(operation_id), text, self._now(), self._read_server_time()
        )

    def fail_abandoned(self, operation_id: str, reason: str) -> bool:
        """Mark the newest active run of an operation as failed.

        Its process must have certainly ended. Return False if no run is active, or if its process
        may still run.
        """
        self._check_writable()
        text = truncate(reason)
        return control.fail_abandoned_run(
            self._open(), sanitize_text(operation_id), text, self._read_server_time()
        )

    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """
        self._check_writable()
        return batches.close_batch(self._open(), sanitize_text(batch_id))

    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request that all active operations of a batch stop. Return their number."""
        self._check_writable()
        queries, now = self._open(), self._read_server_time()
        text, at = truncate(reason), self._now()
        return control.cancel_batch(queries, sanitize_text(batch_id), text, at, now)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations.

        Return False, and delete nothing, if the batch is unknown or may have a running operation.
        """
        self._check_writable()
        is_deleted, unreferenced = control.delete_batch(self._open(), sanitize_text(batch_id))
        self._notify_deleted(unreferenced)
        return is_deleted

    def delete(self, operation_id: str) -> int:
        """Delete the finished runs of an operation, and return their number.

        A run whose process has certainly ended is finished too.
        """
        self._check_writable()
        count, unreferenced = control.delete_finished_runs(self._open(), sanitize_text(operation_id))
        self._notify_deleted(unreferenced)
        return count

    def cancel_requests(self, instance_id: str) -> Sequence[CancelRequest]:
        """Return the requests to cancel active operations of a process.

        While the server is not reachable the result is empty. The next call reads them.
        """
        try:
            return reader.read_requests(self._open(), sanitize_text(instance_id))
        except JournalError as error:
            # Why: the next write reports the outage, so it is not reported twice.
            if not error.is_temporary:
                raise
            return ()

    def claim_run(self, claim: RunClaim) -> ResumedWork | None:
        """Continue the newest run of an operation, atomically.

        Return None if there is no run to continue. Raises OperationRunningError if the process of
        the newest run is alive.
        """
        self._check_writable()
        return claim_run(self._open(), claim, self._writer.ttl_ms, self._read_server_time())

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
        return contributions.read_contributions(self._open(), [sanitize_text(run) for run in runs])

    def drop_contributions(self, included: Sequence[Contribution]) -> None:
        """Delete contributions unless newer ones have replaced them."""
        self._check_writable()
        contributions.delete_contributions(self._open(), included)

    def find_gone_instances(self, instances: Sequence[str]) -> Sequence[str]:
        """Return the processes among ``instances`` that have certainly ended."""
        return contributions.find_gone_instances(self._open(), instances)

    def find_cancel_requests(self, runs: Sequence[str]) -> Sequence[CancelRequest]:
        """Return the requests to cancel runs of any process."""
        return contributions.read_run_requests(self._open(), [sanitize_text(run) for run in runs])

    def size_bytes(self) -> int | None:
        """None: the journal is not in a file."""
        return None

    def _open(self) -> Queries:
        """Return the queries after the version of the journal was checked."""
        self.check()
        return self._queries

    def _notify_deleted(self, locations: Sequence[str]) -> None:
        """Call ``on_deleted``.

        Its errors are only reported, because the change has succeeded.
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
            fix = "Open the journal without read_only to change it."
            msg = f"{self.address} was opened for reading only. {fix}"
            raise JournalError(msg)

    def _get_read_time(self) -> ReadTime:
        suspended_s = read_suspended_s() if self._clock is time.monotonic else 0.0
        return ReadTime(self._now(), self._clock(), suspended_s)

    def _read_server_time(self) -> str:
        """Return the time for the server in microseconds, empty for its own clock."""
        return "" if self._now is time.time else f"{max(0, int(self._now() * 1e6)):016d}"

    def _read_server_now(self) -> float:
        if self._now is not time.time:
            return self._now()
        seconds, microseconds = self._client.execute([Command(self._keys.meta, ("TIME",))])[0]
        return float(seconds) + float(microseconds) / 1e6


def _sanitize_path(query: _Query) -> _Query:
    """Return the query with a path of valid Unicode."""
    return query if query.path is None else replace(query, path=sanitize_text(query.path))
