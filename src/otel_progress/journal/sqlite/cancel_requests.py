"""Table ``requests``: cancel requests from this and other processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import isfinite
from typing import Final

from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import CancelRequest

_ACTIVE_RUN: Final = """SELECT o.key FROM operations o JOIN levels l ON l.operation = o.key AND l.path = ''
    WHERE o.operation_id = ? AND o.finished_at IS NULL ORDER BY o.key DESC LIMIT 1"""


_INSERT: Final = "INSERT OR IGNORE INTO requests (operation, reason, at) VALUES (?, ?, ?)"


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


_TOUCH: Final = "UPDATE operations SET revision = (SELECT revision FROM counters) WHERE key = ?"


# Why CROSS JOIN: SQLite then scans the few requests instead of the operations.
_SELECT_FOR_INSTANCE: Final = """SELECT o.run, o.operation_id, r.reason, r.at
    FROM requests r CROSS JOIN operations o ON o.key = r.operation
    WHERE o.instance = ? AND o.finished_at IS NULL"""


_SELECT_FOR_RUNS: Final = """SELECT o.run, o.operation_id, r.reason, r.at
    FROM requests r CROSS JOIN operations o ON o.key = r.operation WHERE o.finished_at IS NULL"""


_MAX_RUNS: Final = 500


_STORE: Final = """INSERT OR IGNORE INTO requests (operation, reason, at) SELECT ?, ?, ?
    WHERE EXISTS (SELECT 1 FROM operations WHERE key = ?)"""


def store_requests(connection: sqlite3.Connection, requests: Sequence[tuple[int, CancelRequest]]) -> None:
    """Store requests by the keys of their operations.

    The process of the operations has received them already. The first request of a run is kept.
    """
    connection.execute(_REVISE)
    for key, request in requests:
        connection.execute(_STORE, (key, request.reason, request.at, key))
        connection.execute(_TOUCH, (key,))


def insert_request(connection: sqlite3.Connection, operation_id: str, reason: str, at: float) -> bool:
    """Insert a request for the newest active run of an operation.

    Return False if no run is active.

    The first request of a run is kept.
    """
    found = connection.execute(_ACTIVE_RUN, (operation_id,)).fetchone()
    if found is None:
        return False
    if connection.execute(_INSERT, (found[0], reason, at)).rowcount > 0:
        # Watchers receive an operation when its revision changes.
        connection.execute(_REVISE)
        connection.execute(_TOUCH, found)
    return True


def read_run_requests(connection: sqlite3.Connection, runs: Sequence[str]) -> tuple[CancelRequest, ...]:
    """Return the requests for active runs of any process. At most 500 runs are read."""
    chosen = list(runs)[:_MAX_RUNS]
    query = f"{_SELECT_FOR_RUNS} AND o.run IN ({', '.join('?' * len(chosen))})"
    found = query_all(connection, query, chosen)
    return tuple(CancelRequest(*row) for row in found if type(row[3]) is float and isfinite(row[3]))


def read_requests(connection: sqlite3.Connection, instance: str) -> tuple[CancelRequest, ...]:
    """Return the requests for the active operations of a process."""
    found = query_all(connection, _SELECT_FOR_INSTANCE, (instance,))
    return tuple(CancelRequest(*row) for row in found if type(row[3]) is float and isfinite(row[3]))


class CancelRequestPoller:
    """Polls the requests of a process, but only after other connections have written."""

    def __init__(self) -> None:
        self._state_without_requests: tuple[int, int, str] | None = None

    def poll(self, connection: sqlite3.Connection, generation: int, instance: str) -> Sequence[CancelRequest]:
        """Return the requests for a process. ``generation`` identifies the connection."""
        # The version changes when another connection commits. The connection of the writer only
        # stores requests that this process has received already.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        state = (generation, version, instance)
        if state == self._state_without_requests:
            return ()
        requests = read_requests(connection, instance)
        self._state_without_requests = None if requests else state
        return requests
