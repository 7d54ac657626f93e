"""Keeps the journal small: what ended long ago goes, and when the file is too large the oldest ends go first.

A pass deletes a bounded number of rows, so that no tick is late because of it; what is left is done by the next one.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Final

from otel_progress.instances import UNVERIFIED_TIMEOUT_S
from otel_progress.journal import batches, lessons, queries
from otel_progress.journal.deleting import Deletion
from otel_progress.journal.fetching import fetch
from otel_progress.journal.liveness import Moment

EVERY_S: Final = 60.0
"""Time between two passes that have nothing left to do, in seconds."""
AGAIN_S: Final = 1.0
"""Time to the next pass when one did not finish, in seconds."""
ROWS_A_PASS: Final = 10_000
"""Rows deleted in one pass at most."""
PAGES_A_PASS: Final = 4_000
"""Pages given back to the file system in one pass at most."""
KEPT_EVENTS: Final = 1_000
"""Events, and as many log records, that an active operation keeps in any case, its newest."""
BYTES_A_LESSON: Final = 16 * 1024
"""There may be as many lessons as the bound of the file has times this: they mostly have 1 KiB, and so take a tenth of it."""
ROOM: Final = 0.9
"""A file that was too large is brought down to this fraction of the bound, so that the next tick does not start over."""


_ACTIVE: Final = "SELECT key, instance, recorded_at FROM operations WHERE finished_at IS NULL ORDER BY key"
_FINISHED: Final = """SELECT key FROM operations WHERE finished_at IS NOT NULL AND finished_at < ?
    ORDER BY finished_at LIMIT ?"""
_UNUSED: Final = """SELECT id FROM instances WHERE heartbeat_at < ?
    AND id NOT IN (SELECT instance FROM operations) ORDER BY heartbeat_at LIMIT ?"""


class Retention:
    """When to clean up, and how. ``dropped`` counts operations, events and log records that had to go before their time."""

    def __init__(self, retention_s: float, max_bytes: int) -> None:
        self.dropped = 0
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._next: float | None = None
        self._last = -math.inf

    def is_due(self, connection: sqlite3.Connection, clock: float) -> bool:
        """Return True when it is time for a pass (``clock`` in monotonic seconds), or when the file is too large."""
        if self._next is None:
            self._next = clock + AGAIN_S  # not within the first tick: a short run need not pay for it
        return clock >= self._next or (clock - self._last >= AGAIN_S and _file_bytes(connection) > self._max_bytes)

    def run(self, connection: sqlite3.Connection, moment: Moment) -> list[str]:
        """Do one pass, in a transaction of its own; return the locations of previews that nothing refers to any more."""
        connection.execute("BEGIN IMMEDIATE")
        deletion = Deletion(connection, ROWS_A_PASS)
        abandoned = _abandoned(connection, moment)
        horizon = moment.now - self._retention_s
        _delete_all(deletion, _finished(connection, horizon))
        _delete_all(deletion, [key for key, last in abandoned if last < horizon])
        _forget_instances(deletion, connection, horizon)
        batches.expire(connection, horizon)
        lessons.bound(connection, self._max_bytes // BYTES_A_LESSON)
        if _used_bytes(connection) > self._max_bytes:
            self._shrink(deletion, connection, [key for key, _ in abandoned], moment)
        unreferenced = deletion.finish()
        connection.execute("COMMIT")
        give_back(connection)
        self._last = moment.clock
        self._next = moment.clock + (EVERY_S if deletion.left > 0 else AGAIN_S)
        return unreferenced

    def _shrink(self, deletion: Deletion, connection: sqlite3.Connection, abandoned: list[int], moment: Moment) -> None:
        """Delete whole operations, those that ended first before others; only when none is left, what is old of running ones."""
        for key in (*_finished(connection, math.inf), *abandoned):
            if deletion.left <= 0 or self._is_small(connection):
                return
            self.dropped += deletion.operation(key)
        _forget_instances(deletion, connection, moment.now - UNVERIFIED_TIMEOUT_S)
        for key, *_ in connection.execute("SELECT key FROM operations WHERE finished_at IS NULL ORDER BY key").fetchall():
            for table in ("events", "logs"):
                if deletion.left <= 0 or self._is_small(connection):
                    return
                self._trim(deletion, connection, table, key)

    def _is_small(self, connection: sqlite3.Connection) -> bool:
        return _used_bytes(connection) <= ROOM * self._max_bytes

    def _trim(self, deletion: Deletion, connection: sqlite3.Connection, table: str, key: int) -> None:
        before = deletion.left
        newest = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
        for (number,) in connection.execute(newest, (key, KEPT_EVENTS)).fetchall():
            deletion.numbered(table, key, number)
        self.dropped += before - deletion.left


def _delete_all(deletion: Deletion, keys: Sequence[int]) -> None:
    for key in keys:
        if deletion.left <= 0:
            return
        deletion.operation(key)


def _forget_instances(deletion: Deletion, connection: sqlite3.Connection, before: float) -> None:
    """Delete processes of which there is no operation and no newer sign of life, with their samples."""
    for (instance,) in fetch(connection, _UNUSED, (before, ROWS_A_PASS)):
        if deletion.left <= 0:
            return
        deletion.instance(instance)


def _finished(connection: sqlite3.Connection, before: float) -> list[int]:
    return [key for (key,) in connection.execute(_FINISHED, (before, ROWS_A_PASS))]


def _abandoned(connection: sqlite3.Connection, moment: Moment) -> list[tuple[int, float]]:
    """Return the active operations of dead processes, with the last sign of life of those."""
    active = fetch(connection, _ACTIVE)
    pulses = queries.pulses(connection, {instance for _, instance, _ in active})
    found = []
    for key, instance, recorded_at in active:
        pulse = pulses.get(instance)
        if pulse is None:
            found.append((key, recorded_at))
        elif not moment.of(pulse)[0]:
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


def give_back(connection: sqlite3.Connection) -> None:
    """Shorten the file by what is free in it. That happens in the log first, so the log is written back as well."""
    if _pragma(connection, "freelist_count"):
        # As a script, because ``execute`` stops after the first page: the statement gives rows that have no columns.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_A_PASS})")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
