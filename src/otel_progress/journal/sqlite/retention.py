"""Deletes expired operations with all their records in bounded passes.

Deleting an operation updates the tally of its batch, and returns the locations of its previews for
deleter.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Final

from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite import batches, previews
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import read_heartbeats
from otel_progress.journal.sqlite.trajectories import delete_trajectories, limit_trajectories
from otel_progress.processes import UNVERIFIED_TIMEOUT_S

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
        self._deleted_runs += query_all(self._connection, _END, (key,))
        for table in ("uses", "requests", "path_prefixes"):
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


_ACTIVE: Final = "SELECT key, instance, recorded_at FROM operations WHERE finished_at IS NULL ORDER BY key"


_FINISHED: Final = """SELECT key FROM operations WHERE finished_at IS NOT NULL AND finished_at < ?
    ORDER BY finished_at LIMIT ?"""


_UNUSED: Final = """SELECT id FROM instances WHERE heartbeat_at < ?
    AND id NOT IN (SELECT instance FROM operations) ORDER BY heartbeat_at LIMIT ?"""


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
        horizon = moment.now - self._retention_s
        _delete_operations(deleter, _find_finished(connection, horizon, self._rows_per_pass))
        _delete_operations(deleter, [key for key, last in abandoned if last < horizon])
        _delete_unused_instances(deleter, connection, horizon, self._rows_per_pass)
        batches.delete_expired(connection, horizon)
        limit_trajectories(connection, self._max_bytes // BYTES_PER_TRAJECTORY)
        if _get_used_bytes(connection) > self._max_bytes:
            self._shrink(deleter, connection, [key for key, _ in abandoned], moment)
        unreferenced = deleter.finish()
        connection.execute("COMMIT")
        vacuum_free_pages(connection)
        self._last = moment.clock
        self._next = moment.clock + (IDLE_INTERVAL_S if deleter.left > 0 else BUSY_INTERVAL_S)
        return unreferenced

    def _shrink(
        self,
        deleter: OperationDeleter,
        connection: sqlite3.Connection,
        abandoned: list[int],
        moment: ReadTime,
    ) -> None:
        """Delete operations, the oldest ended ones first, until the file is small enough.

        If no such operation is left, delete old records of active ones.
        """
        for key in (*_find_finished(connection, math.inf, self._rows_per_pass), *abandoned):
            if deleter.left <= 0 or self._is_small(connection):
                return
            self.dropped += deleter.delete_operation(key)
        _delete_unused_instances(deleter, connection, moment.now - UNVERIFIED_TIMEOUT_S, self._rows_per_pass)
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
    deleter: OperationDeleter, connection: sqlite3.Connection, before: float, rows: int
) -> None:
    """Delete processes without operations and newer heartbeats, with their samples."""
    for (instance,) in query_all(connection, _UNUSED, (before, rows)):
        if deleter.left <= 0:
            return
        deleter.delete_instance(instance)


def _find_finished(connection: sqlite3.Connection, before: float, rows: int) -> list[int]:
    return [key for (key,) in connection.execute(_FINISHED, (before, rows))]


def _find_abandoned(connection: sqlite3.Connection, moment: ReadTime) -> list[tuple[int, float]]:
    """Return the active operations of dead processes with their last heartbeats."""
    active = query_all(connection, _ACTIVE)
    heartbeats = read_heartbeats(connection, {instance for _, instance, _ in active})
    abandoned = []
    for key, instance, recorded_at in active:
        heartbeat = heartbeats.get(instance)
        if heartbeat is None:
            abandoned.append((key, recorded_at))
        elif not moment.get_liveness(heartbeat)[0]:
            abandoned.append((key, heartbeat.heartbeat_at))
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
