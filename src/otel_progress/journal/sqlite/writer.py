"""Writes what is observed beside the levels into an open journal: log records, samples of a process, what operations used.

Each of them is bounded here, where it grows. Every function runs within the writer's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from otel_progress.batches import BatchDeclaration
from otel_progress.journal.decoding import SAMPLE
from otel_progress.journal.sanitize import sanitize_change_set
from otel_progress.journal.sqlite import batches, previews, rows
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.rows import ADVANCE, EVENT, LOG, STATE
from otel_progress.journal.sqlite.trajectories import insert_trajectories
from otel_progress.model import LevelInfo, LevelSnapshot
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse

MAX_LOGS_PER_LEVEL: Final = 1_000
"""Log records kept of a level, its newest."""


MAX_LOGS_PER_OPERATION: Final = 10_000
"""Log records kept of an operation with all its levels, the newest."""


MAX_SAMPLES_PER_INSTANCE: Final = 3_600
"""Samples kept of a process, the newest."""


_MARKS: Final = ", ".join("?" * (len(LOG) + 2))


_ADD_LOG: Final = f"INSERT OR IGNORE INTO logs (operation, writer, {', '.join(LOG)}) VALUES ({_MARKS})"


# Walks over as many entries of a narrow index as are kept, which takes some 100 us at the most.
_TRIM_LEVEL: Final = """DELETE FROM logs WHERE operation = ? AND path = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? AND path = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_TRIM_OPERATION: Final = """DELETE FROM logs WHERE operation = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_ADD_SAMPLE: Final = (
    f"INSERT OR IGNORE INTO samples (instance, {', '.join(SAMPLE)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


_TRIM_SAMPLES: Final = """DELETE FROM samples WHERE instance = ? AND clock <=
    (SELECT clock FROM samples WHERE instance = ? ORDER BY clock DESC LIMIT 1 OFFSET ?)"""


_USE: Final = """INSERT INTO uses (operation, use) SELECT ?, ? WHERE EXISTS (SELECT 1 FROM operations WHERE key = ?)
    ON CONFLICT (operation) DO UPDATE SET use = excluded.use"""


def insert_logs(
    connection: sqlite3.Connection, writer: str, records: Sequence[tuple[int, LogRecord]]
) -> None:
    """Keep log records, each with the key of its operation; the oldest ones make room. A number that is there already stays."""
    connection.executemany(_ADD_LOG, [(key, writer, *rows.log_row(record)) for key, record in records])
    levels = {(key, record.path) for key, record in records}
    connection.executemany(_TRIM_LEVEL, [(key, path, key, path, MAX_LOGS_PER_LEVEL) for key, path in levels])
    connection.executemany(
        _TRIM_OPERATION, [(key, key, MAX_LOGS_PER_OPERATION) for key in {key for key, _ in levels}]
    )


def insert_sample(connection: sqlite3.Connection, instance: str, sample: ResourceSample) -> None:
    """Keep what a process used at one moment."""
    connection.execute(_ADD_SAMPLE, (instance, *rows.sample_row(sample)))
    connection.execute(_TRIM_SAMPLES, (instance, instance, MAX_SAMPLES_PER_INSTANCE))


def upsert_resource_use(connection: sqlite3.Connection, uses: Sequence[tuple[int, ResourceUse]]) -> None:
    """Keep what the process of each operation used so far, by the operation's key."""
    connection.executemany(_USE, [(key, rows.use_text(use), key) for key, use in uses])


_Record = TypeVar("_Record", Event, LogRecord, Preview)


MAX_SNAPSHOTS_PER_CHUNK: Final = 1_000
"""Levels written at a time, all in one transaction."""


MAX_REMEMBERED: Final = 250_000
"""Levels remembered at most; past that all are forgotten, which costs one slower tick."""


def _assign(columns: Sequence[str]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


_HEARTBEAT: Final = f"""INSERT INTO instances VALUES ({_marks(8)}) ON CONFLICT (id) DO UPDATE
    SET heartbeat_at = excluded.heartbeat_at, heartbeat_clock = excluded.heartbeat_clock"""


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


_RESERVE: Final = "UPDATE counters SET level_key = ?"


_REVISION: Final = "SELECT revision FROM counters"


_LAST_KEY: Final = "SELECT level_key FROM counters"


_ADD_OPERATION: Final = f"""INSERT INTO operations (revision, run, operation_id, operation_type, instance, recorded_at)
    VALUES (0, {_marks(5)}) ON CONFLICT (run) DO NOTHING"""


_FIND_OPERATION: Final = "SELECT key FROM operations WHERE run = ?"


_IS_THERE: Final = "SELECT 1 FROM operations WHERE key = ?"


_FIND_LEVEL: Final = """SELECT l.key, s.sequence FROM levels l JOIN states s ON s.level = l.key
    WHERE l.operation = ? AND l.path = ?"""


_ADD_LEVEL: Final = "INSERT INTO levels (key, operation, path, info) VALUES (?, ?, ?, ?)"


_ADD_STATE: Final = (
    f"INSERT INTO states ({', '.join(STATE)}, level, longest_gap_s) VALUES ({_marks(len(STATE) + 1)}, 0.0)"
)


_REPLACE_INFO: Final = "UPDATE levels SET info = ? WHERE key = ?"


_TAKE_OVER: Final = "UPDATE operations SET instance = ?, batch = ? WHERE key = ?"


_CHANGE: Final = f"UPDATE states SET {_assign(STATE)} WHERE level = ? AND sequence < ?"


_MOVE_ON: Final = f"UPDATE states SET {_assign(ADVANCE)} WHERE level = ? AND sequence < ?"


_TOUCH: Final = "UPDATE operations SET revision = ? WHERE key = ?"


_FINISH: Final = "UPDATE operations SET finished_at = ?, status = ? WHERE key = ?"


_ADD_EVENT: Final = (
    f"INSERT OR IGNORE INTO events (operation, writer, {', '.join(EVENT)}) VALUES ({_marks(len(EVENT) + 2)})"
)


_ONE: Final = "operation = ? AND path = ?"


_BELOW: Final = "operation = ? AND path > ? AND path < ?"


_REFUSED: Final = (OverflowError, ValueError, TypeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


@dataclass(slots=True)
class _RowState:
    """What the file holds of a level."""

    key: int
    sequence: int
    info: LevelInfo | None = None
    rest: tuple[Any, ...] | None = None


class _WritePlan:
    """Rows of one batch, one list a statement."""

    def __init__(self, last_key: int) -> None:
        self._last_key = last_key
        self._levels: list[tuple[Any, ...]] = []
        self._states: list[tuple[Any, ...]] = []
        self._infos: list[tuple[str, int]] = []
        self._owners: list[tuple[str, str | None, int]] = []
        self._batches: dict[str, BatchDeclaration] = {}
        self._changed: list[tuple[Any, ...]] = []
        self._moved: list[tuple[Any, ...]] = []
        self._finished: list[tuple[float, str, int]] = []
        self._touched: set[int] = set()

    def add(self, operation: int, snapshot: LevelSnapshot) -> _RowState:
        """Plan the rows of a level that the file does not have."""
        self._last_key += 1
        info, rest = snapshot.info, rows.rest_of(snapshot)
        self._levels.append((self._last_key, operation, info.path, rows.info_text(info)))
        self._states.append((*rows.advance_of(snapshot), *rows.rest_row(rest), self._last_key))
        self._root(operation, snapshot, new=True)
        return _RowState(self._last_key, snapshot.sequence, info, rest)

    def change(self, operation: int, written: _RowState, snapshot: LevelSnapshot) -> None:
        """Plan the update of a level's row to a newer snapshot."""
        rest = rows.rest_of(snapshot)
        if rest == written.rest:
            self._moved.append((*rows.advance_of(snapshot), written.key, snapshot.sequence))
        else:
            self._changed.append(
                (*rows.advance_of(snapshot), *rows.rest_row(rest), written.key, snapshot.sequence)
            )
            written.rest = rest
        new = written.info is not snapshot.info
        if new:
            self._infos.append((rows.info_text(snapshot.info), written.key))
            written.info = snapshot.info
        written.sequence = snapshot.sequence
        self._root(operation, snapshot, new=new)

    def run(self, connection: sqlite3.Connection, revision: int, at: float) -> bool:
        """Execute the plan at ``at`` (Unix seconds); return False when a row to update was not there (or was newer)."""
        connection.execute(_RESERVE, (self._last_key,))
        connection.executemany(_ADD_LEVEL, self._levels)
        connection.executemany(_ADD_STATE, self._states)
        found = connection.executemany(_CHANGE, self._changed).rowcount if self._changed else 0
        found += connection.executemany(_MOVE_ON, self._moved).rowcount if self._moved else 0
        connection.executemany(_REPLACE_INFO, self._infos)
        connection.executemany(_TAKE_OVER, self._owners)
        connection.executemany(_FINISH, self._finished)
        batches.declare(connection, self._batches.values(), at)
        connection.executemany(_TOUCH, [(revision, operation) for operation in self._touched])
        return found == len(self._changed) + len(self._moved)

    def _root(self, operation: int, snapshot: LevelSnapshot, *, new: bool) -> None:
        self._touched.add(operation)
        if snapshot.info.path:
            return
        if new:
            self._owners.append((snapshot.info.instance, snapshot.info.batch, operation))
            if snapshot.info.batch is not None:
                self._group(snapshot.info.batch, snapshot)
        if snapshot.status.finished:
            end = snapshot.observed_at if snapshot.ended_at is None else snapshot.ended_at
            self._finished.append((end, snapshot.status.value, operation))

    def _group(self, batch: str, snapshot: LevelSnapshot) -> None:
        """Plan that the batch is known, from its first operation's start on, also when nobody declares it."""
        started = snapshot.info.started_at
        found = batches.undeclared(batch, snapshot.observed_at if started is None else started)
        known = self._batches.get(batch)
        self._batches[batch] = found if known is None or found.started_at < known.started_at else known


class Writer:
    """Knows what one connection has written. ``forget`` after anything that may have made that untrue."""

    def __init__(self, limits: JournalLimits) -> None:
        self._limits = limits
        self._operations: dict[str, int] = {}
        self._levels: dict[int, dict[str, _RowState]] = {}
        self._remembered = 0
        self._revision = 0
        self.unreferenced: list[str] = []
        """Locations of previews that the last batch made room for, and that no row tells of any more."""

    def reset_cache(self) -> None:
        """Trust nothing but the file."""
        self._operations.clear()
        self._levels.clear()
        self._remembered = 0

    def write(self, connection: sqlite3.Connection, batch: ChangeSet) -> None:
        """Write a batch within the caller's transaction."""
        if self._remembered > MAX_REMEMBERED:
            self.reset_cache()
        self.unreferenced = []
        try:
            self._write(connection, batch)
        except _REFUSED:  # looking for values that cannot be stored takes time, so it is done only now
            self.reset_cache()
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            self.unreferenced = []
            self._write(connection, sanitize_change_set(batch))

    def _write(self, connection: sqlite3.Connection, batch: ChangeSet) -> None:
        one = batch.instance
        heartbeat = (one.id, one.pid, one.host, one.service, one.started_at, one.start, batch.at, batch.clock)
        connection.execute(_HEARTBEAT, heartbeat)
        if batch.snapshots or batch.evicted:
            connection.execute(_REVISE)
            (self._revision,) = connection.execute(_REVISION).fetchone()
        if (
            batch.evicted
        ):  # before the snapshots: a level that was folded and entered again within one tick is there
            self._evict(connection, batch)
        if not self._in_parts(connection, batch):
            self.reset_cache()
            self._in_parts(connection, batch)
        if batch.events:
            writer, keyed = batch.instance.id, self._with_operation_keys(connection, batch, batch.events)
            connection.executemany(
                _ADD_EVENT, [(key, writer, *rows.event_row(event)) for key, event in keyed]
            )
        self._observed(connection, batch)
        for snapshot in batch.snapshots:
            if snapshot.status.finished:
                self._drop_from_cache(snapshot.info)

    def _in_parts(self, connection: sqlite3.Connection, batch: ChangeSet) -> bool:
        """Write the snapshots some at a time, so that a large batch needs no large memory."""
        parts = range(0, len(batch.snapshots), MAX_SNAPSHOTS_PER_CHUNK)
        return all(
            self._snapshots(
                connection, replace(batch, snapshots=batch.snapshots[at : at + MAX_SNAPSHOTS_PER_CHUNK])
            )
            for at in parts
        )

    def _snapshots(self, connection: sqlite3.Connection, batch: ChangeSet) -> bool:
        """Write the snapshots; return False when a row that should be there was not."""
        (last_key,) = connection.execute(_LAST_KEY).fetchone()
        plan = _WritePlan(last_key)
        for snapshot in batch.snapshots:
            info = snapshot.info
            operation = self._operations.get(info.run)
            if operation is None:
                names = (info.run, info.operation_id, info.operation_type, info.instance, batch.at)
                operation = self._operation(connection, *names)
            levels = self._levels[operation]
            written = levels.get(info.path)
            if written is None:
                written = levels[info.path] = self._find(connection, operation, info.path) or plan.add(
                    operation, snapshot
                )
                self._remembered += 1
            if snapshot.sequence > written.sequence:
                plan.change(operation, written, snapshot)
        return plan.run(connection, self._revision, batch.at)

    def _operation(
        self,
        connection: sqlite3.Connection,
        run: str,
        operation_id: str,
        operation_type: str,
        instance: str,
        at: float,
    ) -> int:
        """Return the key of a run. A process that has only levels of it makes the row too; the root's own completes it."""
        connection.execute(_ADD_OPERATION, (run, operation_id, operation_type, instance, at))
        (key,) = connection.execute(_FIND_OPERATION, (run,)).fetchone()
        self._operations[run] = key
        self._levels.setdefault(key, {})
        return int(key)

    def _find(self, connection: sqlite3.Connection, operation: int, path: str) -> _RowState | None:
        found = connection.execute(_FIND_LEVEL, (operation, path)).fetchone()
        return None if found is None else _RowState(*found)

    def _observed(self, connection: sqlite3.Connection, batch: ChangeSet) -> None:
        """Write what is there beside the levels; on most ticks there is nothing."""
        if batch.logs:
            insert_logs(
                connection, batch.instance.id, self._with_operation_keys(connection, batch, batch.logs)
            )
        if batch.sample is not None:
            insert_sample(connection, batch.instance.id, batch.sample)
        if batch.resources:
            found = ((self._key(connection, run), use) for run, use in batch.resources.items())
            upsert_resource_use(connection, [(key, use) for key, use in found if key is not None])
        if batch.batches:
            batches.declare(connection, batch.batches, batch.at)
        if batch.trajectories:
            insert_trajectories(connection, batch.trajectories, self._limits.trajectories)
        if batch.previews:
            keyed = self._with_operation_keys(connection, batch, batch.previews)
            self.unreferenced = previews.store_previews(
                connection, batch.instance.id, keyed, self._limits.previews_per_operation
            )

    def _with_operation_keys(
        self, connection: sqlite3.Connection, batch: ChangeSet, records: Sequence[_Record]
    ) -> list[tuple[int, _Record]]:
        """Return records with the keys of their operations. The root need not be there yet."""
        for run in {one.run for one in records}:
            key = self._operations.get(run)
            if key is not None and connection.execute(_IS_THERE, (key,)).fetchone() is None:
                self.reset_cache()  # somebody deleted it: what is written to its key would stay for ever
        result = []
        for one in records:
            key = self._operations.get(one.run)
            if key is None:
                names = (one.run, one.operation_id, one.operation_type, batch.instance.id, batch.at)
                key = self._operation(connection, *names)
            result.append((key, one))
        return result

    def _evict(self, connection: sqlite3.Connection, batch: ChangeSet) -> None:
        """Delete levels with what is below them: "/" and "0" are neighbours, so a subtree is a range of paths."""
        one, below = [], []
        for run, path in batch.evicted:
            key = self._key(connection, run)
            if key is not None and path:
                one.append((key, path))
                below.append((key, path + "/", path + "0"))
                self._remembered -= self._levels.get(key, {}).pop(path, None) is not None
        for where, keys in ((_ONE, one), (_BELOW, below)):
            connection.executemany(
                f"DELETE FROM states WHERE level IN (SELECT key FROM levels WHERE {where})", keys
            )
            connection.executemany(f"DELETE FROM levels WHERE {where}", keys)
        connection.executemany(_TOUCH, [(self._revision, key) for key in {key for key, _ in one}])

    def _key(self, connection: sqlite3.Connection, run: str) -> int | None:
        if run in self._operations:
            return self._operations[run]
        found = connection.execute(_FIND_OPERATION, (run,)).fetchone()
        return None if found is None else int(found[0])

    def _drop_from_cache(self, info: LevelInfo) -> None:
        """Remember a level no longer: it has ended. With the root goes all of its run."""
        key = self._operations.get(info.run)
        if key is None:
            return
        if info.path:
            self._remembered -= self._levels[key].pop(info.path, None) is not None
        else:
            self._remembered -= len(self._levels.pop(key))
            del self._operations[info.run]
