"""Deletes expired operations with all their records in bounded passes.

Deleting an operation updates the tally of its batch, and returns the locations of its previews for
deleter.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Final, TypeAlias

from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite import batches, previews, totals
from otel_progress.journal.sqlite.completed_keys import delete_keys
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import read_heartbeats
from otel_progress.journal.sqlite.trajectories import delete_trajectories, limit_trajectories
from otel_progress.processes import UNVERIFIED_TIMEOUT_S, get_boot_id, is_same_boot

_SOME_LEVELS: Final = "SELECT key FROM levels WHERE operation = ? ORDER BY key LIMIT ?"


_END: Final = """SELECT batch, status, finished_at FROM operations
    WHERE key = ? AND batch IS NOT NULL AND finished_at IS NOT NULL"""


_ENDED_RUNS: Final = (
    "SELECT key FROM operations WHERE operation_id = ? AND finished_at IS NOT NULL ORDER BY key LIMIT ?"
)


_OPEN_RUNS: Final = """SELECT key, instance, recorded_at FROM operations
    WHERE operation_id = ? AND finished_at IS NULL ORDER BY key"""


class OperationDeleter:
    """Deletes at most ``left`` rows within the caller's transaction.

    Call ``finish`` before the transaction ends.
    """

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self.left = left
        self._connection = connection
        self._deleted_runs: list[tuple[str, str, float]] = []
        self._locations: list[str] = []

    def delete_operation(self, key: int) -> bool:
        """Delete an operation as far as rows are left.

        Return True if it is deleted completely.
        """
        if not (
            self.delete_records("events", key)
            and self.delete_records("logs", key)
            and self._delete_previews(key)
        ):
            return False
        self._connection.execute(f"DELETE FROM states WHERE level IN ({_SOME_LEVELS})", (key, self.left))
        self._delete(f"levels WHERE key IN ({_SOME_LEVELS})", key, self.left)
        if self.left <= 0:
            return False
        deleted, is_complete = delete_keys(self._connection, key, self.left)
        self.left -= deleted
        if not is_complete or self.left <= 0:
            return False
        self._deleted_runs += query_all(self._connection, _END, (key,))
        for table in ("uses", "requests", "path_prefixes", "checkpoints", "contributions"):
            self._connection.execute(f"DELETE FROM {table} WHERE operation = ?", (key,))
        self._delete("operations WHERE key = ?", key)
        return True

    def _delete_previews(self, key: int) -> bool:
        self._locations += previews.read_locations(self._connection, key, self.left)
        return self.delete_records("previews", key)

    def delete_records(self, table: str, key: int, max_number: int | None = None) -> bool:
        """Delete numbered rows of an operation, all or those up to ``max_number``.

        Return True if enough rows were left.
        """
        query = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"
        first_kept = self._connection.execute(query, (key, self.left)).fetchone()
        limits = [number for number in (max_number, first_kept and first_kept[0]) if number is not None]
        if limits:
            self._delete(f"{table} WHERE operation = ? AND number <= ?", key, min(limits))
        else:
            self._delete(f"{table} WHERE operation = ?", key)
        return first_kept is None

    def delete_instance(self, instance: str) -> bool:
        """Delete a process with its samples. Return True if it is deleted completely."""
        query = (
            "samples WHERE instance = ? AND clock IN (SELECT clock FROM samples WHERE instance = ? LIMIT ?)"
        )
        self._delete(query, instance, instance, max(0, self.left))
        if self.left <= 0:
            return False
        self._delete("instances WHERE id = ?", instance)
        return True

    def finish(self) -> list[str]:
        """Update the batch tallies.

        Return the locations of previews that are unreferenced now.
        """
        batches.add_deleted_runs(self._connection, self._deleted_runs)
        self._deleted_runs.clear()
        return previews.find_unreferenced(self._connection, self._locations)

    def _delete(self, table_and_condition: str, *values: object) -> None:
        self.left -= self._connection.execute(f"DELETE FROM {table_and_condition}", values).rowcount


def delete_finished_runs(
    connection: sqlite3.Connection, operation_id: str, moment: ReadTime, rows: int
) -> tuple[int, bool, list[str]]:
    """Delete finished runs of an operation with their trajectories.

    Finished runs are ended ones and those whose processes have certainly ended. At most ``rows``
    rows are deleted. Return the number of deleted runs, True if no such run is left, and the
    locations of previews that are unreferenced now.
    """
    deleter, count = OperationDeleter(connection, rows), 0
    ended = [key for (key,) in connection.execute(_ENDED_RUNS, (operation_id, rows))]
    keys = [*ended, *_find_orphans(connection, operation_id, moment)]
    for key in keys:
        if deleter.left <= 0 or not deleter.delete_operation(key):
            break
        count += 1
    delete_trajectories(connection, operation_id)
    return count, count == len(keys) and len(ended) < rows, deleter.finish()


def delete_batch_rows(
    connection: sqlite3.Connection, batch_id: str, moment: ReadTime, rows: int
) -> tuple[bool | None, list[str]]:
    """Delete at most ``rows`` rows of a batch's operations, and at last the batch.

    The earlier sessions of resumed operations are deleted, too.

    Return True if the batch is deleted, None if operations are left, and False if the batch is
    unknown or may have a running operation. The second value is as in ``delete_finished_runs``.
    """
    if batches.may_have_running(connection, batch_id, moment):
        return False, []
    deleter, found = OperationDeleter(connection, rows), batches.list_keys(connection, batch_id, rows)
    if not found:
        return batches.delete_declaration(connection, batch_id), []
    for key, operation_id in found:
        # Why the sessions first: they are found through the run that continues them.
        sessions = (*batches.list_earlier_sessions(connection, key), key)
        if not all(deleter.left > 0 and deleter.delete_operation(each) for each in sessions):
            break
        delete_trajectories(connection, operation_id)
    # Another pass finds further operations, and deletes the batch.
    return None, deleter.finish()


def _find_orphans(connection: sqlite3.Connection, operation_id: str, moment: ReadTime) -> list[int]:
    """Return the active runs whose processes have certainly ended."""
    runs = query_all(connection, _OPEN_RUNS, (operation_id,))
    heartbeats = read_heartbeats(connection, {instance for _, instance, _ in runs})
    orphans = []
    for key, instance, recorded_at in runs:
        heartbeat = heartbeats.get(instance)
        if heartbeat is None:
            is_orphan = moment.now - recorded_at > UNVERIFIED_TIMEOUT_S
        else:
            is_orphan = moment.is_gone(heartbeat)
        if is_orphan:
            orphans.append(key)
    return orphans


IDLE_INTERVAL_S: Final = 60.0
"""Time to the next pass if the previous one deleted everything due, in seconds."""


BUSY_INTERVAL_S: Final = 1.0
"""Time to the next pass if the previous one reached its row limit, in seconds."""


PAGES_PER_PASS: Final = 4_000
"""Maximum pages that a pass returns to the file system. The next pass continues."""


KEPT_RECORDS_PER_OPERATION: Final = 1_000
"""Newest events and log records of an active operation that are always kept."""


BYTES_PER_TRAJECTORY: Final = 16 * 1024
"""Size limit per trajectory: the number of trajectories is the size limit by this. A trajectory
mostly needs 1 KiB, so all of them need less than a tenth of the file.
"""


TARGET_RATIO: Final = 0.9
"""Fraction of the size limit to which a larger file is reduced. The rest lets the next writes fit.
"""


MIN_TOTALS_RETENTION_S: Final = 86_400.0
"""Minimum time that totals of processes are stored after their last change, in seconds."""


_LastSeen: TypeAlias = "tuple[float, str | None, float | None]"
"""Unix seconds, host and monotonic seconds of the last sign of a process."""


_ACTIVE: Final = "SELECT key, instance, recorded_at FROM operations WHERE finished_at IS NULL ORDER BY key"


_FINISHED: Final = """SELECT o.key, o.finished_at, i.host, s.observed_clock FROM operations o
    LEFT JOIN instances i ON i.id = o.instance
    LEFT JOIN levels l ON l.operation = o.key AND l.path = '' LEFT JOIN states s ON s.level = l.key
    WHERE o.finished_at IS NOT NULL AND o.finished_at < ? ORDER BY o.finished_at"""


# Why by revision: it is the order of the ends, independent of the clocks of processes.
_OLDEST: Final = "SELECT key FROM operations WHERE finished_at IS NOT NULL ORDER BY revision LIMIT ?"


_UNUSED: Final = """SELECT id, heartbeat_at, host, heartbeat_clock FROM instances WHERE heartbeat_at < ?
    AND id NOT IN (SELECT instance FROM operations) ORDER BY heartbeat_at"""


_EARLIEST_OFFSET: Final = "SELECT min(heartbeat_at - heartbeat_clock) FROM instances WHERE instr(host, ?) > 0"


class Ages:
    """Ages of records by the clock that can be trusted.

    The wall clock of this process may be wrong by days, and so may that of another process. The
    monotonic clock is common to all processes since the boot. So a record of this boot is older
    than a limit only if both clocks agree. Other records are compared with the earliest time that
    a process of this boot assumes.
    """

    def __init__(self, connection: sqlite3.Connection, moment: ReadTime, latest_now: float) -> None:
        """``latest_now`` is the time in Unix seconds that follows from an earlier pass."""
        self._moment = moment
        self._clock = moment.clock + moment.suspended_s
        self.earliest_now = min(moment.now, latest_now)
        boot = get_boot_id()
        if boot:
            (offset,) = connection.execute(_EARLIEST_OFFSET, (f"/{boot}/",)).fetchone()
            self.earliest_now = min(self.earliest_now, math.inf if offset is None else offset + self._clock)

    def is_older(self, age_s: float, at: float, host: str | None, clock: float | None) -> bool:
        """Return True if a record is older than ``age_s`` seconds.

        ``at`` is its time in Unix seconds. ``host`` is that of the process that wrote it at
        ``clock`` of its monotonic clock.
        """
        if host is not None and clock is not None and is_same_boot(host):
            return self._moment.now - at > age_s and self._clock - clock > age_s
        return self.earliest_now - at > age_s


class Retention:
    """Schedules and runs passes that delete expired data.

    ``dropped`` counts operations, events and log records that the size limit deleted early.
    """

    def __init__(self, retention_s: float, max_bytes: int, rows_per_pass: int) -> None:
        self.dropped = 0
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._rows_per_pass = rows_per_pass
        self._next: float | None = None
        self._first: ReadTime | None = None
        self._last = -math.inf

    def is_due(self, connection: sqlite3.Connection, clock: float) -> bool:
        """Return True if a pass is due at ``clock`` or the file is too large."""
        if self._next is None:
            # Why not in the first tick: a short run should not pay for a pass.
            self._next = clock + BUSY_INTERVAL_S
        return clock >= self._next or (
            clock - self._last >= BUSY_INTERVAL_S and _get_file_bytes(connection) > self._max_bytes
        )

    def run(self, connection: sqlite3.Connection, moment: ReadTime) -> list[str]:
        """Run one pass in its own transaction.

        Return the locations of previews that are unreferenced now.
        """
        connection.execute("BEGIN IMMEDIATE")
        deleter = OperationDeleter(connection, self._rows_per_pass)
        abandoned = _find_abandoned(connection, moment)
        ages, retention_s = Ages(connection, moment, self._predict_now(moment)), self._retention_s
        horizon = moment.now - retention_s
        _delete_operations(deleter, _find_expired(connection, ages, horizon, retention_s, deleter.left))
        _delete_operations(deleter, [key for key, last in abandoned if ages.is_older(retention_s, *last)])
        _delete_unused_instances(deleter, connection, ages, horizon, retention_s)
        batches.delete_expired(connection, ages.earliest_now - retention_s)
        totals.delete_expired(connection, ages.earliest_now - max(retention_s, MIN_TOTALS_RETENTION_S))
        limit_trajectories(connection, self._max_bytes // BYTES_PER_TRAJECTORY)
        if _get_used_bytes(connection) > self._max_bytes:
            self._shrink(deleter, connection, [key for key, _ in abandoned], ages)
        unreferenced = deleter.finish()
        connection.execute("COMMIT")
        vacuum_free_pages(connection)
        self._last = moment.clock
        self._next = moment.clock + (IDLE_INTERVAL_S if deleter.left > 0 else BUSY_INTERVAL_S)
        return unreferenced

    def _predict_now(self, moment: ReadTime) -> float:
        """Return the Unix seconds that follow from the first pass and the monotonic clock."""
        first = self._first
        # Why renewed: records of that time are expired by now, and the wall clock may be correct.
        if first is None or moment.clock - first.clock > self._retention_s:
            first = self._first = moment
        return first.now + moment.clock - first.clock + moment.suspended_s - first.suspended_s

    def _shrink(
        self, deleter: OperationDeleter, connection: sqlite3.Connection, abandoned: list[int], ages: Ages
    ) -> None:
        """Delete operations, the oldest ended ones first, until the file is small enough.

        If no such operation is left, delete old records of active ones.
        """
        oldest = [key for (key,) in connection.execute(_OLDEST, (self._rows_per_pass,))]
        for key in (*oldest, *abandoned):
            if deleter.left <= 0 or self._is_small(connection):
                return
            self.dropped += deleter.delete_operation(key)
        before = ages.earliest_now - UNVERIFIED_TIMEOUT_S
        _delete_unused_instances(deleter, connection, ages, before, UNVERIFIED_TIMEOUT_S)
        for key, *_ in connection.execute(
            "SELECT key FROM operations WHERE finished_at IS NULL ORDER BY key"
        ).fetchall():
            for table in ("events", "logs"):
                if deleter.left <= 0 or self._is_small(connection):
                    return
                self._delete_old_records(deleter, connection, table, key)

    def _is_small(self, connection: sqlite3.Connection) -> bool:
        return _get_used_bytes(connection) <= TARGET_RATIO * self._max_bytes

    def _delete_old_records(
        self, deleter: OperationDeleter, connection: sqlite3.Connection, table: str, key: int
    ) -> None:
        left = deleter.left
        newest = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
        for (number,) in connection.execute(newest, (key, KEPT_RECORDS_PER_OPERATION)).fetchall():
            deleter.delete_records(table, key, number)
        self.dropped += left - deleter.left


def _delete_operations(deleter: OperationDeleter, keys: Sequence[int]) -> None:
    for key in keys:
        if deleter.left <= 0:
            return
        deleter.delete_operation(key)


def _delete_unused_instances(
    deleter: OperationDeleter, connection: sqlite3.Connection, ages: Ages, before: float, age_s: float
) -> None:
    """Delete processes without operations and newer heartbeats, with their samples.

    ``before`` is in Unix seconds of this process. It limits the search.
    """
    for instance, *last in query_all(connection, _UNUSED, (before,)):
        if deleter.left <= 0:
            return
        if ages.is_older(age_s, *last):
            deleter.delete_instance(instance)


def _find_expired(
    connection: sqlite3.Connection, ages: Ages, before: float, age_s: float, rows: int
) -> list[int]:
    """Return at most ``rows`` ended operations that are older than ``age_s`` seconds.

    ``before`` is in Unix seconds of this process. It limits the search.
    """
    ended = connection.execute(_FINISHED, (before,))
    return list(islice((key for key, *end in ended if ages.is_older(age_s, *end)), rows))


def _find_abandoned(connection: sqlite3.Connection, moment: ReadTime) -> list[tuple[int, _LastSeen]]:
    """Return the active operations of dead processes with their last heartbeats.

    Processes without heartbeats that have not reported for long are included.
    """
    active = query_all(connection, _ACTIVE)
    heartbeats = read_heartbeats(connection, {instance for _, instance, _ in active})
    abandoned: list[tuple[int, _LastSeen]] = []
    for key, instance, recorded_at in active:
        heartbeat = heartbeats.get(instance)
        if heartbeat is None:
            abandoned.append((key, (recorded_at, None, None)))
            continue
        liveness = moment.get_liveness(heartbeat)
        if not liveness.alive or liveness.not_reporting_since is not None:
            last = heartbeat.heartbeat_at, heartbeat.instance.host, heartbeat.heartbeat_clock
            abandoned.append((key, last))
    return abandoned


def _get_file_bytes(connection: sqlite3.Connection) -> int:
    return _read_pragma(connection, "page_count") * _read_pragma(connection, "page_size")


def _get_used_bytes(connection: sqlite3.Connection) -> int:
    pages = _read_pragma(connection, "page_count") - _read_pragma(connection, "freelist_count")
    return pages * _read_pragma(connection, "page_size")


def _read_pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def vacuum_free_pages(connection: sqlite3.Connection) -> None:
    """Return free pages to the file system, and checkpoint the write-ahead log.

    Why: the file shrinks only when the log is written back.
    """
    if _read_pragma(connection, "freelist_count"):
        # Why a script: ``execute`` stops after the first page, since the rows have no columns.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_PER_PASS})")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
