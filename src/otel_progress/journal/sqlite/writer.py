"""Writes change sets into a journal within the caller's transaction.

Tables of log records and samples are bounded here, where they grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, TypeVar

from otel_progress.batches import BatchDeclaration
from otel_progress.journal import rows
from otel_progress.journal.decoding import SAMPLE
from otel_progress.journal.duplicate_ids import DuplicateIdResolver
from otel_progress.journal.fencing import leave_out_runs, list_runs
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.rows import ADVANCE, EVENT, LOG, STATE
from otel_progress.journal.sanitize import sanitize_change_set
from otel_progress.journal.snapshots import get_end, include_relayed
from otel_progress.journal.sqlite import batches, previews
from otel_progress.journal.sqlite.cancel_requests import store_requests
from otel_progress.journal.sqlite.completed_keys import insert_keys, store_checkpoints
from otel_progress.journal.sqlite.contributions import store_contributions
from otel_progress.journal.sqlite.duplicate_ids import find_owners
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.paths import PathEncoder, has_long_paths, list_subtree_ranges
from otel_progress.journal.sqlite.totals import store_totals
from otel_progress.journal.sqlite.trajectories import insert_trajectories
from otel_progress.model import LevelInfo, LevelSnapshot
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet, RenameRun
from otel_progress.records import Contribution, LogRecord, Preview, ResourceSample, ResourceUse

MAX_LOGS_PER_LEVEL: Final = 1_000
"""Newest log records stored per level. Older ones are deleted."""


MAX_LOGS_PER_OPERATION: Final = 10_000
"""Newest log records stored per operation with all its levels. Older ones are deleted."""


MAX_SAMPLES_PER_INSTANCE: Final = 3_600
"""Newest samples stored per process. Older ones are deleted."""


_MARKS: Final = ", ".join("?" * (len(LOG) + 2))


_INSERT_LOG: Final = f"INSERT OR IGNORE INTO logs (operation, writer, {', '.join(LOG)}) VALUES ({_MARKS})"


# Walks over the stored entries of a narrow index, which takes at most some 100 us.
_TRIM_LEVEL: Final = """DELETE FROM logs WHERE operation = ? AND path = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? AND path = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_TRIM_OPERATION: Final = """DELETE FROM logs WHERE operation = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_INSERT_SAMPLE: Final = (
    f"INSERT OR IGNORE INTO samples (instance, {', '.join(SAMPLE)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


_TRIM_SAMPLES: Final = """DELETE FROM samples WHERE instance = ? AND clock <=
    (SELECT clock FROM samples WHERE instance = ? ORDER BY clock DESC LIMIT 1 OFFSET ?)"""


_UPSERT_USE: Final = """INSERT INTO uses (operation, use) SELECT ?, ?
    WHERE EXISTS (SELECT 1 FROM operations WHERE key = ?)
    ON CONFLICT (operation) DO UPDATE SET use = excluded.use"""


def insert_logs(
    connection: sqlite3.Connection, writer: str, records: Sequence[tuple[int, LogRecord]]
) -> None:
    """Insert log records with the keys of their operations, and delete old ones.

    A number that is stored already is kept.
    """
    connection.executemany(
        _INSERT_LOG, [(key, writer, *rows.encode_log_row(record)) for key, record in records]
    )
    levels = {(key, record.path) for key, record in records}
    connection.executemany(_TRIM_LEVEL, [(key, path, key, path, MAX_LOGS_PER_LEVEL) for key, path in levels])
    connection.executemany(
        _TRIM_OPERATION, [(key, key, MAX_LOGS_PER_OPERATION) for key in {key for key, _ in levels}]
    )


def insert_sample(connection: sqlite3.Connection, instance: str, sample: ResourceSample) -> None:
    """Insert a resource sample of a process, and delete the oldest ones."""
    connection.execute(_INSERT_SAMPLE, (instance, *rows.encode_sample_row(sample)))
    connection.execute(_TRIM_SAMPLES, (instance, instance, MAX_SAMPLES_PER_INSTANCE))


def upsert_resource_use(connection: sqlite3.Connection, uses: Sequence[tuple[int, ResourceUse]]) -> None:
    """Store the resource use of operations by their keys."""
    connection.executemany(_UPSERT_USE, [(key, rows.encode_use_column(use), key) for key, use in uses])


_Record = TypeVar("_Record", Event, LogRecord, Preview)


MAX_SNAPSHOTS_PER_CHUNK: Final = 1_000
"""Levels written by one set of statements. More are split, which limits the memory."""


MAX_ROWS_PER_STATEMENT: Final = 40
"""Rows inserted by one statement. Why several: each execution of a statement releases the GIL, and
busy threads keep it for milliseconds. Old SQLite versions accept 999 values.
"""


MAX_CACHED_LEVELS: Final = 250_000
"""Levels in the cache. Beyond it, the whole cache is dropped, which makes one write slower."""


def _assign(columns: Sequence[str]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


_HEARTBEAT: Final = f"""INSERT INTO instances VALUES ({_marks(8)}) ON CONFLICT (id) DO UPDATE
    SET host = excluded.host, service = excluded.service, heartbeat_at = excluded.heartbeat_at,
        heartbeat_clock = excluded.heartbeat_clock
    WHERE host = excluded.host OR host LIKE '%//otlp%'"""
"""Why the host: only the first heartbeat of a process that sends OTLP shows that it sends them. The
heartbeats of a process that writes to the journal itself are not replaced by those over OTLP.
"""


_ADD_INSTANCE: Final = f"INSERT INTO instances VALUES ({_marks(8)}) ON CONFLICT (id) DO NOTHING"


_REVISE: Final = "UPDATE counters SET revision = revision + 1"


_RESERVE: Final = "UPDATE counters SET level_key = ?"


_REVISION: Final = "SELECT revision FROM counters"


_LAST_KEY: Final = "SELECT level_key FROM counters"


_INSERT_OPERATION: Final = f"""INSERT INTO operations
    (revision, run, operation_id, operation_type, instance, recorded_at)
    VALUES (0, {_marks(5)}) ON CONFLICT (run) DO NOTHING"""


_NEW_OPERATION: Final = """INSERT INTO operations
    (revision, run, operation_id, operation_type, instance, recorded_at, batch, finished_at, status)"""


_FIND_OPERATIONS: Final = f"""SELECT group_concat(key || ' ' || run, char(10)) FROM operations
    WHERE run IN ({_marks(MAX_ROWS_PER_STATEMENT)})"""
"""Why one row: reading each row releases the GIL, and busy threads keep it for milliseconds."""


_FIND_OPERATION: Final = "SELECT key FROM operations WHERE run = ?"


_HAS_SUPERSEDED: Final = """SELECT 1 FROM operations
    WHERE instance = ? AND superseded_by IS NOT NULL LIMIT 1"""


_FIND_SUCCESSOR: Final = "SELECT superseded_by FROM operations WHERE run = ? AND superseded_by IS NOT NULL"


_OPERATION_EXISTS: Final = "SELECT 1 FROM operations WHERE key = ?"


_FIND_LEVEL: Final = """SELECT l.key, s.sequence FROM levels l JOIN states s ON s.level = l.key
    WHERE l.operation = ? AND l.path = ?"""


_INSERT_LEVEL: Final = "INSERT INTO levels (key, operation, path, info)"


_INSERT_STATE: Final = f"INSERT INTO states ({', '.join(STATE)}, level, longest_gap_s)"


_UPDATE_INFO: Final = "UPDATE levels SET info = ? WHERE key = ?"


_UPDATE_OWNER: Final = "UPDATE operations SET operation_id = ?, instance = ?, batch = ? WHERE key = ?"


_UPDATE_STATE: Final = f"UPDATE states SET {_assign(STATE)} WHERE level = ? AND sequence < ?"


_UPDATE_ADVANCE: Final = f"UPDATE states SET {_assign(ADVANCE)} WHERE level = ? AND sequence < ?"


_TOUCH: Final = "UPDATE operations SET revision = ? WHERE key = ?"


_FINISH: Final = "UPDATE operations SET finished_at = ?, status = ? WHERE key = ?"


_REOPEN: Final = (
    "UPDATE operations SET finished_at = NULL, status = NULL WHERE key = ? AND status IS NOT NULL"
)


_SELECT_SEQUENCE: Final = "SELECT sequence FROM states WHERE level = ?"


_INSERT_EVENT: Final = (
    f"INSERT OR IGNORE INTO events (operation, writer, {', '.join(EVENT)}) VALUES ({_marks(len(EVENT) + 2)})"
)


_IS_LEVEL: Final = "operation = ? AND path = ?"


_IS_BELOW_LEVEL: Final = "operation = ? AND path > ? AND path < ?"


_INVALID_VALUE_ERRORS: Final = (
    OverflowError,
    ValueError,
    TypeError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


@dataclass(slots=True)
class _RowState:
    """Cached row of a level."""

    key: int
    sequence: int
    info: LevelInfo | None = None
    rest: tuple[Any, ...] | None = None


class _WritePlan:
    """Rows of one chunk of snapshots, with one list per statement.

    ``complete`` are the keys of operations whose rows have the values of their roots already.
    """

    def __init__(self, last_key: int, complete: Set[int], encode_path: Callable[[int, str], str]) -> None:
        self._last_key = last_key
        self._encode_path = encode_path
        self._complete = complete
        self._levels: list[tuple[Any, ...]] = []
        self._states: list[tuple[Any, ...]] = []
        self._infos: list[tuple[str, int]] = []
        self._owners: dict[int, tuple[str, str, str | None]] = {}
        self._batches: dict[str, BatchDeclaration] = {}
        self._changed: list[tuple[Any, ...]] = []
        self._moved: list[tuple[Any, ...]] = []
        self._finished: dict[int, tuple[float, str]] = {}
        self._reopened: dict[int, None] = {}
        self._sequences: dict[int, int] = {}
        """Newest sequence number of each planned update, by level."""
        self._roots: dict[int, int] = {}
        """Levels of the operations whose rows are updated."""
        self._touched: set[int] = set()

    def add(self, operation: int, snapshot: LevelSnapshot) -> _RowState:
        """Plan the rows of a new level."""
        self._last_key += 1
        info, rest = snapshot.info, rows.get_rest(snapshot)
        path, text = self._encode_info(operation, info)
        self._levels.append((self._last_key, operation, path, text))
        self._states.append((*rows.get_advance(snapshot), *rows.encode_rest(rest), self._last_key, 0.0))
        self._add_root(operation, self._last_key, snapshot, new=True)
        return _RowState(self._last_key, snapshot.sequence, info, rest)

    def change(self, operation: int, written: _RowState, snapshot: LevelSnapshot) -> None:
        """Plan the update of a level to a newer snapshot."""
        rest = rows.get_rest(snapshot)
        if rest == written.rest:
            self._moved.append((*rows.get_advance(snapshot), written.key, snapshot.sequence))
        else:
            self._changed.append(
                (*rows.get_advance(snapshot), *rows.encode_rest(rest), written.key, snapshot.sequence)
            )
            written.rest = rest
        new = written.info is not snapshot.info
        if new:
            self._infos.append((self._encode_info(operation, snapshot.info)[1], written.key))
            written.info = snapshot.info
        written.sequence = self._sequences[written.key] = snapshot.sequence
        self._add_root(operation, written.key, snapshot, new=new)

    def _encode_info(self, operation: int, info: LevelInfo) -> tuple[str, str]:
        """Return the stored path of a level, and its column ``info`` with this path."""
        path = self._encode_path(operation, info.path)
        return path, rows.encode_info_column(info if path == info.path else replace(info, path=path))

    def run(self, connection: sqlite3.Connection, revision: int, moment: ReadTime) -> bool:
        """Execute the plan.

        Return False if a row to update was missing or newer.
        """
        connection.execute(_RESERVE, (self._last_key,))
        _insert_rows(connection, _INSERT_LEVEL, self._levels)
        _insert_rows(connection, _INSERT_STATE, self._states)
        updated = connection.executemany(_UPDATE_STATE, self._changed).rowcount if self._changed else 0
        updated += connection.executemany(_UPDATE_ADVANCE, self._moved).rowcount if self._moved else 0
        is_complete = updated == len(self._changed) + len(self._moved)
        if not is_complete:
            self._leave_out_stale(connection)
        connection.executemany(_UPDATE_INFO, self._infos)
        connection.executemany(_UPDATE_OWNER, [(*owner, key) for key, owner in self._owners.items()])
        if self._reopened:
            connection.executemany(_REOPEN, [(key,) for key in self._reopened])
        connection.executemany(_FINISH, [(*end, key) for key, end in self._finished.items()])
        batches.upsert_declarations(connection, self._batches.values(), moment)
        connection.executemany(_TOUCH, [(revision, operation) for operation in self._touched])
        return is_complete

    def _leave_out_stale(self, connection: sqlite3.Connection) -> None:
        """Remove updates of levels of which another process has stored a newer state."""
        stale = set()
        for key, sequence in self._sequences.items():
            found = connection.execute(_SELECT_SEQUENCE, (key,)).fetchone()
            if found is not None and found[0] > sequence:
                stale.add(key)
        self._infos = [(text, key) for text, key in self._infos if key not in stale]
        for operation, root in self._roots.items():
            if root in stale:
                self._owners.pop(operation, None)
                self._reopened.pop(operation, None)
                self._finished.pop(operation, None)

    def _add_root(self, operation: int, key: int, snapshot: LevelSnapshot, *, new: bool) -> None:
        if snapshot.info.path:
            self._touched.add(operation)
            return
        self._roots[operation] = key
        if new and operation in self._complete:
            if snapshot.info.batch is not None:
                self._add_to_batch(snapshot.info.batch, snapshot)
            return
        self._touched.add(operation)
        if new:
            info = snapshot.info
            self._owners[operation] = (info.operation_id, info.instance, info.batch)
            if snapshot.info.batch is not None:
                self._add_to_batch(snapshot.info.batch, snapshot)
        if snapshot.status.finished:
            self._finished[operation] = (get_end(snapshot), snapshot.status.value)
            self._reopened.pop(operation, None)
        elif new:
            # Why: another attempt of the run follows the one that has ended.
            self._reopened[operation] = None
            self._finished.pop(operation, None)

    def _add_to_batch(self, batch: str, snapshot: LevelSnapshot) -> None:
        """Plan a placeholder of the batch from the start of its first operation."""
        started = snapshot.info.started_at
        placeholder = rows.create_placeholder(batch, snapshot.observed_at if started is None else started)
        known = self._batches.get(batch)
        if known is None or placeholder.started_at < known.started_at:
            self._batches[batch] = placeholder


def _insert_rows(connection: sqlite3.Connection, insert: str, values: Sequence[Sequence[Any]]) -> None:
    """Insert rows, many by one statement."""
    if not values:
        return
    row = f"({_marks(len(values[0]))})"
    whole = len(values) - len(values) % MAX_ROWS_PER_STATEMENT
    if whole:
        statement = f"{insert} VALUES {', '.join([row] * MAX_ROWS_PER_STATEMENT)}"
        for start in range(0, whole, MAX_ROWS_PER_STATEMENT):
            block = values[start : start + MAX_ROWS_PER_STATEMENT]
            connection.execute(statement, list(chain.from_iterable(block)))
    if whole < len(values):
        connection.executemany(f"{insert} VALUES {row}", values[whole:])


class Writer:
    """Writes change sets through one connection, with a cache of the rows it wrote.

    Call ``reset_cache`` after a failure, or when the file or the connection was replaced.
    """

    def __init__(self, limits: JournalLimits, rename_run: RenameRun | None = None) -> None:
        self._limits = limits
        self.duplicate_ids = DuplicateIdResolver(rename_run)
        self._operations: dict[str, int] = {}
        self._levels: dict[int, dict[str, _RowState]] = {}
        self._cached_count = 0
        self._paths = PathEncoder()
        self._revision = 0
        self.unreferenced: list[str] = []
        """Locations of previews that the last write deleted and that are unreferenced now."""
        self.superseded: dict[str, str] = {}
        """Runs whose changes were left out, and the runs that have continued them."""
        self.dropped_contributions = 0
        """Contributions that the limit of an operation deleted."""

    def reset_cache(self) -> None:
        """Drop the cache, so that rows are read from the file again."""
        self._operations.clear()
        self._levels.clear()
        self._paths.reset()
        self._cached_count = 0

    def write(self, connection: sqlite3.Connection, change_set: ChangeSet) -> None:
        """Write a change set of this process within the caller's transaction."""
        self._write_or_sanitize(connection, change_set, is_heartbeat=True)

    def write_recovered(self, connection: sqlite3.Connection, change_set: ChangeSet) -> None:
        """Write a change set of a dead process, which is not a heartbeat of it."""
        self._write_or_sanitize(connection, change_set, is_heartbeat=False)

    def _write_or_sanitize(
        self, connection: sqlite3.Connection, change_set: ChangeSet, *, is_heartbeat: bool
    ) -> None:
        if self._cached_count > MAX_CACHED_LEVELS:
            self.reset_cache()
        self.unreferenced = []
        try:
            self._write(connection, change_set, is_heartbeat)
        except _INVALID_VALUE_ERRORS:
            # Why only now: sanitizing all values takes time.
            self.reset_cache()
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            self.unreferenced = []
            self._write(connection, sanitize_change_set(change_set), is_heartbeat)

    def _write(self, connection: sqlite3.Connection, change_set: ChangeSet, is_heartbeat: bool) -> None:
        change_set = self._leave_out_superseded(connection, include_relayed(change_set))
        process = change_set.instance
        identity = (process.id, process.pid, process.host, process.service, process.started_at, process.start)
        statement = _HEARTBEAT if is_heartbeat else _ADD_INSTANCE
        connection.execute(statement, (*identity, change_set.at, change_set.clock))
        change_set = self._rename_duplicates(connection, change_set)
        # Why before the operations: a declaration may start a new run of its batch.
        if change_set.batches:
            moment = ReadTime(change_set.at, change_set.clock)
            batches.upsert_declarations(connection, change_set.batches, moment)
        if change_set.snapshots or change_set.evicted:
            connection.execute(_REVISE)
            (self._revision,) = connection.execute(_REVISION).fetchone()
        # Why before the snapshots: a level may be evicted and started again within one tick.
        if change_set.evicted:
            self._evict(connection, change_set)
        if not self._write_chunks(connection, change_set):
            self.reset_cache()
            self._write_chunks(connection, change_set)
        if change_set.events:
            writer, keyed = (
                change_set.instance.id,
                self._with_operation_keys(connection, change_set, change_set.events),
            )
            connection.executemany(
                _INSERT_EVENT, [(key, writer, *rows.encode_event_row(event)) for key, event in keyed]
            )
        self._write_records(connection, change_set)
        for snapshot in change_set.snapshots:
            if snapshot.status.finished:
                self._drop_from_cache(snapshot.info)
        for snapshot in change_set.relayed:
            self._drop_from_cache(snapshot.info)

    def _leave_out_superseded(self, connection: sqlite3.Connection, change_set: ChangeSet) -> ChangeSet:
        """Return the change set without runs that another process has continued.

        Why here: a process that was frozen may wake up after its run was continued.
        """
        if connection.execute(_HAS_SUPERSEDED, (change_set.instance.id,)).fetchone() is None:
            return change_set
        found = {run: connection.execute(_FIND_SUCCESSOR, (run,)).fetchone() for run in list_runs(change_set)}
        superseded = {run: str(row[0]) for run, row in found.items() if row is not None}
        self.superseded.update(superseded)
        return leave_out_runs(change_set, superseded.keys())

    def _rename_duplicates(self, connection: sqlite3.Connection, change_set: ChangeSet) -> ChangeSet:
        """Return the change set with new ids for new runs with duplicate ids.

        Why here: this transaction writes the runs, so of two processes only one keeps an id.
        """
        change_set = self.duplicate_ids.apply(change_set)
        new = self.duplicate_ids.select_new_runs(change_set, self._has_root)
        if new:
            moment = ReadTime(change_set.at, change_set.clock)
            self.duplicate_ids.resolve(
                new, lambda runs: find_owners(connection, runs, change_set.instance.id, moment)
            )
        return self.duplicate_ids.apply(change_set)

    def _has_root(self, run: str) -> bool:
        """Return True if the cache has the operation of a run."""
        key = self._operations.get(run)
        return key is not None and "" in self._levels[key]

    def _write_chunks(self, connection: sqlite3.Connection, change_set: ChangeSet) -> bool:
        """Write the snapshots in chunks. Return False if a cached row was missing."""
        starts = range(0, len(change_set.snapshots), MAX_SNAPSHOTS_PER_CHUNK)
        return all(
            self._write_snapshots(
                connection,
                replace(change_set, snapshots=change_set.snapshots[start : start + MAX_SNAPSHOTS_PER_CHUNK]),
            )
            for start in starts
        )

    def _write_snapshots(self, connection: sqlite3.Connection, change_set: ChangeSet) -> bool:
        """Write snapshots. Return False if a cached row was missing."""
        (last_key,) = connection.execute(_LAST_KEY).fetchone()
        inserted, complete = self._insert_operations(connection, change_set)
        plan = _WritePlan(
            last_key, complete, lambda operation, path: self._paths.encode(connection, operation, path)
        )
        for snapshot in change_set.snapshots:
            info = snapshot.info
            operation = self._operations.get(info.run)
            if operation is None:
                names = (info.run, info.operation_id, info.operation_type, info.instance, change_set.at)
                operation = self._find_or_insert_operation(connection, *names)
            levels = self._levels[operation]
            written = levels.get(info.path)
            if written is None:
                if operation not in inserted:
                    written = self._find_level(connection, operation, info.path)
                if written is None:
                    written = plan.add(operation, snapshot)
                levels[info.path] = written
                self._cached_count += 1
            if snapshot.sequence > written.sequence:
                plan.change(operation, written, snapshot)
        return plan.run(connection, self._revision, ReadTime(change_set.at, change_set.clock))

    def _insert_operations(
        self, connection: sqlite3.Connection, change_set: ChangeSet
    ) -> tuple[Set[int], Set[int]]:
        """Add the operations of a chunk to the cache, and insert those that are missing.

        Return the keys of the inserted ones, and of those whose rows are complete.
        """
        unknown: dict[str, LevelSnapshot] = {}
        for snapshot in change_set.snapshots:
            run = snapshot.info.run
            if run in self._operations:
                continue
            known = unknown.get(run)
            # Why the sequence: an end from a file may precede an older snapshot of its operation.
            if known is None or (
                not snapshot.info.path and (known.info.path or known.sequence < snapshot.sequence)
            ):
                unknown[run] = snapshot
        keys = self._find_operations(connection, list(unknown))
        new = {run: snapshot for run, snapshot in unknown.items() if run not in keys}
        _insert_rows(
            connection, _NEW_OPERATION, [self._build_operation_row(change_set, each) for each in new.values()]
        )
        new_keys = self._find_operations(connection, list(new))
        for run, key in (keys | new_keys).items():
            self._operations[run] = key
            self._levels.setdefault(key, {})
        inserted = frozenset(new_keys.values())
        return inserted, frozenset(key for run, key in new_keys.items() if not new[run].info.path)

    def _build_operation_row(self, change_set: ChangeSet, snapshot: LevelSnapshot) -> tuple[Any, ...]:
        """Return the row of a new operation. Without its root it is completed later."""
        info, is_root = snapshot.info, not snapshot.info.path
        is_finished = is_root and snapshot.status.finished
        return (
            self._revision if is_root else 0,
            info.run,
            info.operation_id,
            info.operation_type,
            info.instance,
            change_set.at,
            info.batch if is_root else None,
            get_end(snapshot) if is_finished else None,
            snapshot.status.value if is_finished else None,
        )

    def _find_operations(self, connection: sqlite3.Connection, runs: Sequence[str]) -> dict[str, int]:
        """Return the keys of the runs that are stored."""
        keys: dict[str, int] = {}
        for start in range(0, len(runs), MAX_ROWS_PER_STATEMENT):
            chunk = runs[start : start + MAX_ROWS_PER_STATEMENT]
            # Why filled up: all chunks use one prepared statement.
            bound = [*chunk, *[None] * (MAX_ROWS_PER_STATEMENT - len(chunk))]
            (found,) = connection.execute(_FIND_OPERATIONS, bound).fetchone()
            entries = [] if found is None else [line.partition(" ") for line in found.split("\n")]
            if not all(key.isdigit() and run in chunk for key, _, run in entries):
                # A run contains a line end.
                return self._find_operations_singly(connection, runs)
            keys.update((run, int(key)) for key, _, run in entries)
        return keys

    def _find_operations_singly(self, connection: sqlite3.Connection, runs: Sequence[str]) -> dict[str, int]:
        found = ((run, connection.execute(_FIND_OPERATION, (run,)).fetchone()) for run in runs)
        return {run: int(row[0]) for run, row in found if row is not None}

    def _find_or_insert_operation(
        self,
        connection: sqlite3.Connection,
        run: str,
        operation_id: str,
        operation_type: str,
        instance: str,
        at: float,
    ) -> int:
        """Return the key of a run.

        A process that has only levels of the run inserts the row too. The root updates it later.
        """
        connection.execute(_INSERT_OPERATION, (run, operation_id, operation_type, instance, at))
        (key,) = connection.execute(_FIND_OPERATION, (run,)).fetchone()
        self._operations[run] = key
        self._levels.setdefault(key, {})
        return int(key)

    def _find_level(self, connection: sqlite3.Connection, operation: int, path: str) -> _RowState | None:
        stored = self._paths.encode(connection, operation, path)
        found = connection.execute(_FIND_LEVEL, (operation, stored)).fetchone()
        if found is None and stored != path:
            # A process of an earlier version stored the full path.
            found = connection.execute(_FIND_LEVEL, (operation, path)).fetchone()
        return None if found is None else _RowState(*found)

    def _write_records(self, connection: sqlite3.Connection, change_set: ChangeSet) -> None:
        """Write the records next to levels and events. Most change sets have none."""
        if change_set.logs:
            insert_logs(
                connection,
                change_set.instance.id,
                self._with_operation_keys(connection, change_set, change_set.logs),
            )
        if change_set.sample is not None:
            insert_sample(connection, change_set.instance.id, change_set.sample)
        if change_set.resources:
            keyed_uses = ((self._find_key(connection, run), use) for run, use in change_set.resources.items())
            upsert_resource_use(connection, [(key, use) for key, use in keyed_uses if key is not None])
        if change_set.trajectories:
            insert_trajectories(connection, change_set.trajectories, self._limits.trajectories)
        if change_set.cancel_requests:
            keyed_requests = (
                (self._find_key(connection, request.run), request) for request in change_set.cancel_requests
            )
            store_requests(connection, [(key, each) for key, each in keyed_requests if key is not None])
        if change_set.completed_keys:
            keyed_entries = (
                (self._find_key(connection, entry.run), entry[1:]) for entry in change_set.completed_keys
            )
            insert_keys(connection, [(key, entry) for key, entry in keyed_entries if key is not None])
        if change_set.checkpoints:
            keyed_texts = (
                (self._find_key(connection, run), text) for run, text in change_set.checkpoints.items()
            )
            store_checkpoints(connection, [(key, text) for key, text in keyed_texts if key is not None])
        if change_set.contributions:
            self.dropped_contributions += store_contributions(
                connection, self._key_contributions(connection, change_set)
            )
        if change_set.totals is not None:
            store_totals(connection, change_set.totals, change_set.at)
        if change_set.previews:
            keyed = self._with_operation_keys(connection, change_set, change_set.previews)
            self.unreferenced = previews.store_previews(
                connection, change_set.instance.id, keyed, self._limits.previews_per_operation
            )

    def _key_contributions(
        self, connection: sqlite3.Connection, change_set: ChangeSet
    ) -> list[tuple[int, Contribution]]:
        """Return the contributions with the keys of their operations."""
        keys: dict[str, int] = {}
        for contribution in change_set.contributions:
            info = contribution.level.info
            if info.run not in keys:
                names = (info.run, info.operation_id, info.operation_type, info.instance, change_set.at)
                connection.execute(_INSERT_OPERATION, names)
                (keys[info.run],) = connection.execute(_FIND_OPERATION, (info.run,)).fetchone()
        return [(keys[each.level.info.run], each) for each in change_set.contributions]

    def _with_operation_keys(
        self, connection: sqlite3.Connection, change_set: ChangeSet, records: Sequence[_Record]
    ) -> list[tuple[int, _Record]]:
        """Return records with the keys of their operations."""
        for run in {record.run for record in records}:
            key = self._operations.get(run)
            if key is not None and connection.execute(_OPERATION_EXISTS, (key,)).fetchone() is None:
                # The operation was deleted. Rows with its old key would never be deleted.
                self.reset_cache()
        result = []
        for record in records:
            key = self._operations.get(record.run)
            if key is None:
                names = (
                    record.run,
                    record.operation_id,
                    record.operation_type,
                    change_set.instance.id,
                    change_set.at,
                )
                key = self._find_or_insert_operation(connection, *names)
            path = self._paths.encode(connection, key, record.path)
            result.append((key, record if path == record.path else replace(record, path=path)))
        return result

    def _evict(self, connection: sqlite3.Connection, change_set: ChangeSet) -> None:
        """Delete levels with their subtrees.

        A subtree is a range of paths, because "0" follows "/".
        """
        levels, subtrees = [], []
        evicted = set(change_set.evicted)
        has_prefixes: dict[int, bool] = {}
        for run, path in change_set.evicted:
            key = self._find_key(connection, run)
            if key is None or not path:
                continue
            self._cached_count -= self._levels.get(key, {}).pop(path, None) is not None
            # Why: the subtree of its parent includes it, and a deep tree may end at once.
            above = path.rpartition("/")[0]
            if not above or (run, above) not in evicted:
                if key not in has_prefixes:
                    has_prefixes[key] = has_long_paths(connection, key)
                stored = self._paths.encode(connection, key, path) if has_prefixes[key] else path
                levels.append((key, stored))
                ranges = [(f"{stored}/", f"{stored}0")]
                if has_prefixes[key]:
                    ranges = list_subtree_ranges(connection, key, stored)
                subtrees += [(key, *each) for each in ranges]
        for where, keys in ((_IS_LEVEL, levels), (_IS_BELOW_LEVEL, subtrees)):
            connection.executemany(
                f"DELETE FROM states WHERE level IN (SELECT key FROM levels WHERE {where})", keys
            )
            connection.executemany(f"DELETE FROM levels WHERE {where}", keys)
        connection.executemany(_TOUCH, [(self._revision, key) for key in {key for key, _ in levels}])

    def _find_key(self, connection: sqlite3.Connection, run: str) -> int | None:
        if run in self._operations:
            return self._operations[run]
        found = connection.execute(_FIND_OPERATION, (run,)).fetchone()
        return None if found is None else int(found[0])

    def _drop_from_cache(self, info: LevelInfo) -> None:
        """Drop an ended level from the cache. The root drops its whole run."""
        key = self._operations.get(info.run)
        if key is None:
            return
        if info.path:
            self._cached_count -= self._levels[key].pop(info.path, None) is not None
        else:
            self._cached_count -= len(self._levels.pop(key))
            self._paths.drop(key)
            del self._operations[info.run]
