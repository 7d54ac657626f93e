"""Requests to cancel: how they are left in the journal, and how a worker hears of them after each of its writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import isfinite
from typing import Final

from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import CancelRequest

_ACTIVE_RUN: Final = """SELECT o.key FROM operations o JOIN levels l ON l.operation = o.key AND l.path = ''
    WHERE o.operation_id = ? AND o.finished_at IS NULL ORDER BY o.key DESC LIMIT 1"""


_ADD: Final = "INSERT OR IGNORE INTO requests (operation, reason, at) VALUES (?, ?, ?)"


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


_TOUCH: Final = "UPDATE operations SET revision = (SELECT revision FROM counters) WHERE key = ?"


# CROSS keeps SQLite from walking over the operations: there are few requests, mostly none.
_OF: Final = """SELECT o.run, o.operation_id, r.reason, r.at FROM requests r CROSS JOIN operations o ON o.key = r.operation
    WHERE o.instance = ? AND o.finished_at IS NULL"""


def insert_request(connection: sqlite3.Connection, operation_id: str, reason: str, at: float) -> bool:
    """Leave a request for the newest active run of this id; False when there is none. The first request of a run stays."""
    found = connection.execute(_ACTIVE_RUN, (operation_id,)).fetchone()
    if found is None:
        return False
    if connection.execute(_ADD, (found[0], reason, at)).rowcount > 0:  # and whoever watches is told
        connection.execute(_REVISE)
        connection.execute(_TOUCH, found)
    return True


def requests_of(connection: sqlite3.Connection, instance: str) -> tuple[CancelRequest, ...]:
    """Return the requests for active operations of a process."""
    found = query_all(connection, _OF, (instance,))
    return tuple(CancelRequest(*row) for row in found if type(row[3]) is float and isfinite(row[3]))


class CancelRequestPoller:
    """Remembers that there is nothing to hear for as long as nobody else has written: then hearing costs microseconds."""

    def __init__(self) -> None:
        self._silent: tuple[int, int, str] | None = None

    def poll(self, connection: sqlite3.Connection, generation: int, instance: str) -> Sequence[CancelRequest]:
        """Return the requests for a process. ``generation`` tells one connection from another."""
        # The version moves when another connection commits, and requests always come by another than the writer's.
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        state = (generation, version, instance)
        if state == self._silent:
            return ()
        heard = requests_of(connection, instance)
        self._silent = None if heard else state
        return heard
