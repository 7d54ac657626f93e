"""Deletes operations with everything of them, a bounded number of rows at a time.

What becomes of the batch of a deleted operation is told to its tally, so that the counts of the batch stay right, and where the
content of its previews is to whoever keeps that.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Final

from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite import batches, previews
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import heartbeats
from otel_progress.journal.sqlite.trajectories import delete_trajectories, limit_trajectories
from otel_progress.processes import UNVERIFIED_TIMEOUT_S

_SOME_LEVELS: Final = "SELECT key FROM levels WHERE operation = ? ORDER BY key LIMIT ?"


_END: Final = "SELECT batch, status, finished_at FROM operations WHERE key = ? AND batch IS NOT NULL AND finished_at IS NOT NULL"


_ENDED_RUNS: Final = (
    "SELECT key FROM operations WHERE operation_id = ? AND finished_at IS NOT NULL ORDER BY key LIMIT ?"
)


_OPEN_RUNS: Final = "SELECT key, instance, recorded_at FROM operations WHERE operation_id = ? AND finished_at IS NULL ORDER BY key"


class OperationDeleter:
    """Deletes within the caller's transaction, at most ``left`` rows. ``finish`` before the transaction ends."""

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self.left = left
        self._connection = connection
        self._gone: list[tuple[str, str, float]] = []
        self._locations: list[str] = []

    def operation(self, key: int) -> bool:
        """Delete an operation, or as much of it as is allowed; return True when all of it is gone."""
        if not (self.numbered("events", key) and self.numbered("logs", key) and self._previews(key)):
            return False
        self._connection.execute(f"DELETE FROM states WHERE level IN ({_SOME_LEVELS})", (key, self.left))
        self._delete(f"levels WHERE key IN ({_SOME_LEVELS})", key, self.left)
        if self.left <= 0:
            return False
        self._gone += query_all(self._connection, _END, (key,))
        for table in ("uses", "requests"):
            self._connection.execute(f"DELETE FROM {table} WHERE operation = ?", (key,))
        self._delete("operations WHERE key = ?", key)
        return True

    def _previews(self, key: int) -> bool:
        self._locations += previews.read_locations(self._connection, key, self.left)
        return self.numbered("previews", key)

    def numbered(self, table: str, key: int, up_to: int | None = None) -> bool:
        """Delete numbered rows of an operation, all or those up to a number; return True when it got to their end."""
        first = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"
        split = self._connection.execute(first, (key, self.left)).fetchone()
        bounds = [number for number in (up_to, split and split[0]) if number is not None]
        if bounds:
            self._delete(f"{table} WHERE operation = ? AND number <= ?", key, min(bounds))
        else:
            self._delete(f"{table} WHERE operation = ?", key)
        return split is None

    def instance(self, instance: str) -> bool:
        """Delete a process with its samples; return True when all of it is gone."""
        query = (
            "samples WHERE instance = ? AND clock IN (SELECT clock FROM samples WHERE instance = ? LIMIT ?)"
        )
        self._delete(query, instance, instance, max(0, self.left))
        if self.left <= 0:
            return False
        self._delete("instances WHERE id = ?", instance)
        return True

    def finish(self) -> list[str]:
        """Count what is gone in the tallies of the batches; return the locations of previews that nothing refers to any more."""
        batches.fold(self._connection, self._gone)
        self._gone.clear()
        return previews.find_unreferenced(self._connection, self._locations)

    def _delete(self, what: str, *bound: object) -> None:
        self.left -= self._connection.execute(f"DELETE FROM {what}", bound).rowcount


def delete_finished_runs(
    connection: sqlite3.Connection, operation_id: str, moment: ReadTime, rows: int
) -> tuple[int, bool, list[str]]:
    """Delete runs of an operation that are over, at most so many rows, with what they taught: ended ones, and those of gone processes.

    Return how many are gone, True when none is left, and the locations of previews that nothing refers to any more.
    """
    deletion, count = OperationDeleter(connection, rows), 0
    ended = [key for (key,) in connection.execute(_ENDED_RUNS, (operation_id, rows))]
    keys = [*ended, *_orphans(connection, operation_id, moment)]
    for key in keys:
        if deletion.left <= 0 or not deletion.operation(key):
            break
        count += 1
    delete_trajectories(connection, operation_id)
    return count, count == len(keys) and len(ended) < rows, deletion.finish()


def _orphans(connection: sqlite3.Connection, operation_id: str, moment: ReadTime) -> list[int]:
    """Return the runs that have not ended although nobody works on them any more: their processes are gone for certain."""
    runs = query_all(connection, _OPEN_RUNS, (operation_id,))
    pulses = heartbeats(connection, {instance for _, instance, _ in runs})
    found = []
    for key, instance, recorded_at in runs:
        pulse = pulses.get(instance)
        if moment.now - recorded_at > UNVERIFIED_TIMEOUT_S if pulse is None else moment.is_gone(pulse):
            found.append(key)
    return found


IDLE_INTERVAL_S: Final = 60.0
"""Time to the next pass when the last one deleted everything due, in seconds."""


BUSY_INTERVAL_S: Final = 1.0
"""Time to the next pass when the last one reached its row limit, in seconds."""


PAGES_PER_PASS: Final = 4_000
"""Maximum number of pages that one pass returns to the file system; the next pass continues."""


KEPT_RECORDS_PER_OPERATION: Final = 1_000
"""Newest events, and newest log records, of an active operation that the size limit never deletes."""


BYTES_PER_TRAJECTORY: Final = 16 * 1024
"""The size limit divided by this is the maximum number of trajectories.

A trajectory mostly needs 1 KiB, so all of them need less than a tenth of the file.
"""


TARGET_RATIO: Final = 0.9
"""A file that is too large is reduced to this fraction of the limit, so that the next write fits."""


_ACTIVE: Final = "SELECT key, instance, recorded_at FROM operations WHERE finished_at IS NULL ORDER BY key"


_FINISHED: Final = """SELECT key FROM operations WHERE finished_at IS NOT NULL AND finished_at < ?
    ORDER BY finished_at LIMIT ?"""


_UNUSED: Final = """SELECT id FROM instances WHERE heartbeat_at < ?
    AND id NOT IN (SELECT instance FROM operations) ORDER BY heartbeat_at LIMIT ?"""


class Retention:
    """When to clean up, and how. ``dropped`` counts operations, events and log records that had to go before their time."""

    def __init__(self, retention_s: float, max_bytes: int, rows_per_pass: int) -> None:
        self.dropped = 0
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._rows_per_pass = rows_per_pass
        self._next: float | None = None
        self._last = -math.inf

    def is_due(self, connection: sqlite3.Connection, clock: float) -> bool:
        """Return True when it is time for a pass (``clock`` in monotonic seconds), or when the file is too large."""
        if self._next is None:
            self._next = clock + BUSY_INTERVAL_S  # not within the first tick: a short run need not pay for it
        return clock >= self._next or (
            clock - self._last >= BUSY_INTERVAL_S and _file_bytes(connection) > self._max_bytes
        )

    def run(self, connection: sqlite3.Connection, moment: ReadTime) -> list[str]:
        """Do one pass, in a transaction of its own; return the locations of previews that nothing refers to any more."""
        connection.execute("BEGIN IMMEDIATE")
        deletion = OperationDeleter(connection, self._rows_per_pass)
        abandoned = _abandoned(connection, moment)
        horizon = moment.now - self._retention_s
        _delete_all(deletion, _find_finished(connection, horizon, self._rows_per_pass))
        _delete_all(deletion, [key for key, last in abandoned if last < horizon])
        _delete_unused_instances(deletion, connection, horizon, self._rows_per_pass)
        batches.expire(connection, horizon)
        limit_trajectories(connection, self._max_bytes // BYTES_PER_TRAJECTORY)
        if _used_bytes(connection) > self._max_bytes:
            self._shrink(deletion, connection, [key for key, _ in abandoned], moment)
        unreferenced = deletion.finish()
        connection.execute("COMMIT")
        vacuum_free_pages(connection)
        self._last = moment.clock
        self._next = moment.clock + (IDLE_INTERVAL_S if deletion.left > 0 else BUSY_INTERVAL_S)
        return unreferenced

    def _shrink(
        self,
        deletion: OperationDeleter,
        connection: sqlite3.Connection,
        abandoned: list[int],
        moment: ReadTime,
    ) -> None:
        """Delete whole operations, those that ended first before others; only when none is left, what is old of running ones."""
        for key in (*_find_finished(connection, math.inf, self._rows_per_pass), *abandoned):
            if deletion.left <= 0 or self._is_small(connection):
                return
            self.dropped += deletion.operation(key)
        _delete_unused_instances(deletion, connection, moment.now - UNVERIFIED_TIMEOUT_S, self._rows_per_pass)
        for key, *_ in connection.execute(
            "SELECT key FROM operations WHERE finished_at IS NULL ORDER BY key"
        ).fetchall():
            for table in ("events", "logs"):
                if deletion.left <= 0 or self._is_small(connection):
                    return
                self._trim(deletion, connection, table, key)

    def _is_small(self, connection: sqlite3.Connection) -> bool:
        return _used_bytes(connection) <= TARGET_RATIO * self._max_bytes

    def _trim(self, deletion: OperationDeleter, connection: sqlite3.Connection, table: str, key: int) -> None:
        before = deletion.left
        newest = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
        for (number,) in connection.execute(newest, (key, KEPT_RECORDS_PER_OPERATION)).fetchall():
            deletion.numbered(table, key, number)
        self.dropped += before - deletion.left


def _delete_all(deletion: OperationDeleter, keys: Sequence[int]) -> None:
    for key in keys:
        if deletion.left <= 0:
            return
        deletion.operation(key)


def _delete_unused_instances(
    deletion: OperationDeleter, connection: sqlite3.Connection, before: float, rows: int
) -> None:
    """Delete processes of which there is no operation and no newer sign of life, with their samples."""
    for (instance,) in query_all(connection, _UNUSED, (before, rows)):
        if deletion.left <= 0:
            return
        deletion.instance(instance)


def _find_finished(connection: sqlite3.Connection, before: float, rows: int) -> list[int]:
    return [key for (key,) in connection.execute(_FINISHED, (before, rows))]


def _abandoned(connection: sqlite3.Connection, moment: ReadTime) -> list[tuple[int, float]]:
    """Return the active operations of dead processes, with the last sign of life of those."""
    active = query_all(connection, _ACTIVE)
    pulses = heartbeats(connection, {instance for _, instance, _ in active})
    found = []
    for key, instance, recorded_at in active:
        pulse = pulses.get(instance)
        if pulse is None:
            found.append((key, recorded_at))
        elif not moment.liveness_of(pulse)[0]:
            found.append((key, pulse.heartbeat_at))
    return found


def _file_bytes(connection: sqlite3.Connection) -> int:
    return _pragma(connection, "page_count") * _pragma(connection, "page_size")


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def vacuum_free_pages(connection: sqlite3.Connection) -> None:
    """Shorten the file by what is free in it. That happens in the log first, so the log is written back as well."""
    if _pragma(connection, "freelist_count"):
        # As a script, because ``execute`` stops after the first page: the statement gives rows that have no columns.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_PER_PASS})")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
