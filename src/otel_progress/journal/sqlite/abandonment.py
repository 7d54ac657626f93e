"""Marks abandoned runs as failed, whose processes cannot report an end any more."""

from __future__ import annotations

import sqlite3
from typing import Final

from otel_progress.journal import rows
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.rows import STATE
from otel_progress.journal.snapshots import end_abandoned_level
from otel_progress.journal.sqlite.paths import read_level_keys
from otel_progress.journal.sqlite.reader import add_levels, read_heartbeats, select_operations
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S

_NEWEST_ACTIVE: Final = "WHERE o.operation_id = ? AND o.finished_at IS NULL ORDER BY o.key DESC LIMIT 1"


_UPDATE_STATE: Final = f"UPDATE states SET {', '.join(f'{column} = ?' for column in STATE)} WHERE level = ?"


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


_FINISH: Final = """UPDATE operations
    SET finished_at = ?, status = ?, revision = (SELECT revision FROM counters) WHERE key = ?"""


def fail_abandoned_run(
    connection: sqlite3.Connection, operation_id: str, reason: str, moment: ReadTime
) -> bool:
    """Mark the newest active run of an operation as failed.

    Its process must have certainly ended. The duration ends with the last heartbeat. Running levels
    are cancelled. Return False if no such run exists, or if its process may still run.
    """
    for key, root in select_operations(connection, _NEWEST_ACTIVE, (operation_id,), moment):
        if not _is_gone(connection, key, root, moment):
            return False
        (operation,) = add_levels(connection, [(key, root)])
        connection.execute(_REVISE)
        keys = read_level_keys(connection, key)
        for level in (operation.root, *operation.levels):
            if level.status is Status.RUNNING or not level.path:
                ended = end_abandoned_level(level, operation, reason, moment)
                values = (*rows.get_advance(ended), *rows.encode_rest(rows.get_rest(ended)))
                connection.execute(_UPDATE_STATE, (*values, keys[level.path]))
        connection.execute(_FINISH, (moment.now, Status.FAILED.value, key))
        return True
    return False


def _is_gone(
    connection: sqlite3.Connection, key: int, operation: OperationSnapshot, moment: ReadTime
) -> bool:
    instance = operation.root.info.instance
    heartbeat = read_heartbeats(connection, [instance]).get(instance)
    if heartbeat is not None:
        return moment.is_gone(heartbeat)
    (recorded_at,) = connection.execute("SELECT recorded_at FROM operations WHERE key = ?", (key,)).fetchone()
    return moment.now - float(recorded_at) > UNVERIFIED_TIMEOUT_S
