"""Keeps the journal small: what ended long ago goes, and when the file is too large the oldest ends go first.

A pass deletes a bounded number of rows, so that no tick is late because of it; what is left is done by the next one.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Final

from otel_progress.journal import queries
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
"""Events that an active operation keeps in any case, its newest."""
ROOM: Final = 0.9
"""A file that was too large is brought down to this fraction of the bound, so that the next tick does not start over."""


_SPLIT: Final = """SELECT number FROM events WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"""
_NEWEST: Final = """SELECT number FROM events WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?"""
_SOME_LEVELS: Final = "SELECT key FROM levels WHERE operation = ? ORDER BY key LIMIT ?"
_ACTIVE: Final = "SELECT key, instance, recorded_at FROM operations WHERE finished_at IS NULL ORDER BY key"
_FINISHED: Final = """SELECT key FROM operations WHERE finished_at IS NOT NULL AND finished_at < ?
    ORDER BY finished_at LIMIT ?"""
_FORGET_INSTANCES: Final = """DELETE FROM instances WHERE heartbeat_at < ?
    AND id NOT IN (SELECT instance FROM operations)"""


class Retention:
    """When to clean up, and how. ``dropped`` counts operations and events that had to go before their time."""

    def __init__(self, retention_s: float, max_bytes: int) -> None:
        self.dropped = 0
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._next: float | None = None
        self._last = -math.inf
        self._left = 0

    def is_due(self, connection: sqlite3.Connection, clock: float) -> bool:
        """Return True when it is time for a pass (``clock`` in monotonic seconds), or when the file is too large."""
        if self._next is None:
            self._next = clock + AGAIN_S  # not within the first tick: a short run need not pay for it
        return clock >= self._next or (clock - self._last >= AGAIN_S and _file_bytes(connection) > self._max_bytes)

    def run(self, connection: sqlite3.Connection, moment: Moment) -> None:
        """Do one pass, in a transaction of its own."""
        self._left = ROWS_A_PASS
        connection.execute("BEGIN IMMEDIATE")
        abandoned = _abandoned(connection, moment)
        horizon = moment.now - self._retention_s
        self._delete_all(connection, _finished(connection, horizon))
        self._delete_all(connection, [key for key, last in abandoned if last < horizon])
        connection.execute(_FORGET_INSTANCES, (horizon,))
        if _used_bytes(connection) > self._max_bytes:
            self._shrink(connection, [key for key, _ in abandoned])
        connection.execute("COMMIT")
        _give_back(connection)
        self._last = moment.clock
        self._next = moment.clock + (EVERY_S if self._left > 0 else AGAIN_S)

    def _shrink(self, connection: sqlite3.Connection, abandoned: list[int]) -> None:
        """Delete whole operations, those that ended first before others; only when none is left, old events of running ones."""
        for key in (*_finished(connection, math.inf), *abandoned):
            if self._left <= 0 or self._is_small(connection):
                return
            self.dropped += self._delete(connection, key)
        for key, *_ in connection.execute(_ACTIVE).fetchall():
            if self._left <= 0 or self._is_small(connection):
                return
            self._trim(connection, key)

    def _is_small(self, connection: sqlite3.Connection) -> bool:
        return _used_bytes(connection) <= ROOM * self._max_bytes

    def _delete_all(self, connection: sqlite3.Connection, keys: Sequence[int]) -> None:
        for key in keys:
            if self._left <= 0:
                return
            self._delete(connection, key)

    def _delete(self, connection: sqlite3.Connection, key: int) -> bool:
        """Delete an operation, or as much of it as this pass may; return True when all of it is gone."""
        if not self._delete_events(connection, key, None):
            return False
        connection.execute(f"DELETE FROM states WHERE level IN ({_SOME_LEVELS})", (key, self._left))
        some = connection.execute(f"DELETE FROM levels WHERE key IN ({_SOME_LEVELS})", (key, self._left))
        self._left -= some.rowcount
        if self._left <= 0:
            return False
        connection.execute("DELETE FROM operations WHERE key = ?", (key,))
        self._left -= 1
        return True

    def _trim(self, connection: sqlite3.Connection, key: int) -> None:
        before = self._left
        newest = connection.execute(_NEWEST, (key, KEPT_EVENTS)).fetchone()
        if newest is not None:
            self._delete_events(connection, key, newest[0])
        self.dropped += before - self._left

    def _delete_events(self, connection: sqlite3.Connection, key: int, up_to: int | None) -> bool:
        """Delete events of an operation, all or those up to a number; return True when this pass got to the end of them."""
        split = connection.execute(_SPLIT, (key, self._left)).fetchone()
        bounds = [number for number in (up_to, split and split[0]) if number is not None]
        where, bound = ("operation = ? AND number <= ?", (key, min(bounds))) if bounds else ("operation = ?", (key,))
        self._left -= connection.execute(f"DELETE FROM events WHERE {where}", bound).rowcount
        return split is None


def _finished(connection: sqlite3.Connection, before: float) -> list[int]:
    return [key for (key,) in connection.execute(_FINISHED, (before, ROWS_A_PASS))]


def _abandoned(connection: sqlite3.Connection, moment: Moment) -> list[tuple[int, float]]:
    """Return the active operations of dead processes, with the last sign of life of those."""
    pulses = queries.pulses(connection)
    found = []
    for key, instance, recorded_at in connection.execute(_ACTIVE):
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


def _give_back(connection: sqlite3.Connection) -> None:
    """Shorten the file by what is free in it. That happens in the log first, so the log is written back as well."""
    if _pragma(connection, "freelist_count"):
        # As a script, because ``execute`` stops after the first page: the statement gives rows that have no columns.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_A_PASS})")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
