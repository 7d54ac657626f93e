"""Marks abandoned runs as failed, whose processes cannot report an end any more."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Final

from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite import rows
from otel_progress.journal.sqlite.paths import read_level_keys
from otel_progress.journal.sqlite.reader import add_levels, read_heartbeats, select_operations
from otel_progress.journal.sqlite.rows import STATE
from otel_progress.model import Failure, LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S

ERROR_TYPE: Final = "Abandoned"
"""Type of the error of a run that was marked as failed."""


_DEFAULT_REASON: Final = "its process exited without an end"


_PARENT_ENDED: Final = "ended with its parent"


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
            if level.status is Status.RUNNING:
                ended = _end_level(level, operation, reason, moment)
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


def _end_level(
    level: LevelSnapshot, operation: OperationSnapshot, reason: str, moment: ReadTime
) -> LevelSnapshot:
    started_at = level.info.started_at
    ended = replace(
        level,
        sequence=level.sequence + 1,
        observed_at=moment.now,
        observed_clock=operation.clock,
        ended_at=moment.now if started_at is None else max(moment.now, started_at),
        duration_s=level.elapsed(operation.clock),
        eta=None,
        stage=None,
    )
    if level.paused_clock is not None:
        paused_s = level.paused_s + max(0.0, operation.clock - level.paused_clock)
        ended = replace(ended, paused_s=paused_s, paused_clock=None)
    if level.path:
        return replace(ended, status=Status.CANCELLED, message=_PARENT_ENDED)
    return replace(ended, status=Status.FAILED, error=Failure(ERROR_TYPE, reason or _DEFAULT_REASON))
