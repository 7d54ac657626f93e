"""Claims of runs: continues the newest run of an operation within one transaction."""

from __future__ import annotations

import sqlite3
from typing import Final

from otel_progress.errors import OperationRunningError
from otel_progress.journal import rows
from otel_progress.journal.claims import (
    build_running_error,
    get_attempt,
    list_level_keys,
    select_runs,
    supersede_level,
)
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.rows import STATE
from otel_progress.journal.sqlite.completed_keys import (
    find_lineage,
    has_work,
    insert_keys,
    read_checkpoint,
    read_keys,
    store_checkpoints,
)
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.paths import read_level_keys
from otel_progress.journal.sqlite.reader import add_levels, read_heartbeats, select_operations
from otel_progress.journal.sqlite.writer import Writer
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet
from otel_progress.resumption import MAX_EMPTY_RUNS, ResumedWork, RunClaim, build_resumed_root

_NEWEST: Final = "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT ?"


_UPDATE_STATE: Final = f"UPDATE states SET {', '.join(f'{column} = ?' for column in STATE)} WHERE level = ?"


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


# Why without the batch: the batch counts the run that continues this one.
_SUPERSEDE: Final = """UPDATE operations SET superseded_by = ?, batch = NULL,
    finished_at = coalesce(finished_at, ?), status = coalesce(status, ?),
    revision = (SELECT revision FROM counters) WHERE key = ?"""


_CONTINUE: Final = "UPDATE operations SET lineage = ? WHERE key = ?"


_FIND_KEY: Final = "SELECT key FROM operations WHERE run = ?"


def claim_run(
    connection: sqlite3.Connection, claim: RunClaim, moment: ReadTime, limits: JournalLimits
) -> ResumedWork | None:
    """Continue the newest run of an operation. See :class:`ResumableStorage`."""
    bound = (claim.root.info.operation_id, MAX_EMPTY_RUNS + 2)
    found = select_operations(connection, _NEWEST, bound, moment)
    keys = {operation.run: key for key, operation in found}

    def build_error(operation: OperationSnapshot) -> OperationRunningError:
        instance = operation.root.info.instance
        heartbeat = read_heartbeats(connection, [instance]).get(instance)
        return build_running_error(operation, heartbeat, moment)

    dead, chosen = select_runs(
        [operation for _, operation in found],
        claim,
        lambda run: has_work(connection, keys[run]),
        build_error,
    )
    if chosen is None:
        new_key = _write_root(connection, claim, None, limits)
        # Why: it marks a run that records its completed keys.
        connection.execute(_CONTINUE, (new_key, new_key))
        return None
    lineage = _adopt_lineage(connection, keys[chosen.run], chosen)
    checkpoint = read_checkpoint(connection, keys[chosen.run])
    work = ResumedWork(chosen.root, get_attempt(dead), checkpoint, read_keys(connection, lineage))
    new_key = _write_root(connection, claim, work, limits)
    connection.execute(_CONTINUE, (lineage, new_key))
    if checkpoint is not None:
        store_checkpoints(connection, [(new_key, checkpoint)])
    connection.execute(_REVISE)
    for operation in dead:
        _supersede(connection, keys[operation.run], operation, claim.root.info.run, moment)
    return work


def _write_root(
    connection: sqlite3.Connection, claim: RunClaim, work: ResumedWork | None, limits: JournalLimits
) -> int:
    """Write the new run, and a heartbeat of its process. Return the key of the run."""
    root = claim.root if work is None else build_resumed_root(claim, work)
    # Why an own writer: that of the journal belongs to another connection.
    Writer(limits).write(connection, ChangeSet(claim.instance, claim.at, claim.clock, [root]))
    (key,) = connection.execute(_FIND_KEY, (root.info.run,)).fetchone()
    return int(key)


def _adopt_lineage(connection: sqlite3.Connection, key: int, operation: OperationSnapshot) -> int:
    """Return the lineage of a run.

    A run that was started without ``resume`` recorded no keys. Its stored levels become keys.
    """
    lineage = find_lineage(connection, key)
    if lineage is None:
        lineage = key
        (complete,) = add_levels(connection, [(key, operation)])
        insert_keys(connection, [(key, entry) for entry in list_level_keys(complete)])
    return lineage


def _supersede(
    connection: sqlite3.Connection, key: int, operation: OperationSnapshot, run: str, moment: ReadTime
) -> None:
    """End a run that ``run`` continues."""
    (complete,) = add_levels(connection, [(key, operation)])
    keys = read_level_keys(connection, key)
    for level in (complete.root, *complete.levels):
        if (not level.path or not level.status.finished) and level.path in keys:
            ended = supersede_level(level, complete, run, moment)
            values = (*rows.get_advance(ended), *rows.encode_rest(rows.get_rest(ended)))
            connection.execute(_UPDATE_STATE, (*values, keys[level.path]))
    connection.execute(_SUPERSEDE, (run, moment.now, Status.CANCELLED.value, key))
