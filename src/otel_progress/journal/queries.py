"""Reads operations and events out of an open journal. Every function runs within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from otel_progress.journal import rows
from otel_progress.journal.liveness import Moment, Pulse
from otel_progress.journal.rows import EVENT, STATE
from otel_progress.model import Event, Instance, OperationSnapshot, Outcome, Snapshot

Found: TypeAlias = "tuple[int, OperationSnapshot]"
"""An operation with its key."""

_CHUNK: Final = 500
"""Keys bound to one statement; SQLite's oldest limit is 999."""
_STATE: Final = ", ".join(f"s.{column}" for column in STATE)
_OPERATION: Final = f"""SELECT o.key, i.id, i.pid, i.host, i.service, i.started_at, i.start, i.heartbeat_at, i.heartbeat_clock,
    l.info, {_STATE} FROM operations o JOIN levels l ON l.operation = o.key AND l.path = '' JOIN states s ON s.level = l.key
    LEFT JOIN instances i ON i.id = o.instance"""
_LEVEL: Final = f"SELECT l.operation, l.info, {_STATE} FROM levels l JOIN states s ON s.level = l.key"
_ACTIVE: Final = "WHERE o.finished_at IS NULL"
_EVENT: Final = ", ".join(EVENT)


def newest_run(connection: sqlite3.Connection, operation_id: str, moment: Moment) -> OperationSnapshot | None:
    """Return the newest run of an operation with its levels."""
    rest = "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT 1"
    found = list(_operations(connection, rest, (operation_id,), moment))
    return with_levels(connection, found)[0] if found else None


def active(connection: sqlite3.Connection, moment: Moment) -> list[Found]:
    """Return what has not ended, newest first, without levels."""
    return list(_operations(connection, f"{_ACTIVE} ORDER BY o.key DESC", (), moment))


def changed(connection: sqlite3.Connection, revision: int, moment: Moment) -> list[Found]:
    """Return what was written after ``revision``, ended or not, newest first, without levels."""
    found = list(_operations(connection, f"{_ACTIVE} AND o.revision > ?", (revision,), moment))
    found += _operations(connection, "WHERE o.finished_at IS NOT NULL AND o.revision > ?", (revision,), moment)
    return sorted(found, key=lambda item: -item[0])


def history(connection: sqlite3.Connection, operation_type: str | None, limit: int, moment: Moment) -> list[OperationSnapshot]:
    """Return what has ended, last first, without levels."""
    where = "WHERE o.finished_at IS NOT NULL" + ("" if operation_type is None else " AND o.operation_type = ?")
    bound = (limit,) if operation_type is None else (operation_type, limit)
    found = _operations(connection, f"{where} ORDER BY o.finished_at DESC, o.key DESC LIMIT ?", bound, moment)
    return [operation for _, operation in found]


def revision(connection: sqlite3.Connection) -> int:
    """Return the number of the last transaction that changed an operation."""
    (number,) = connection.execute("SELECT revision FROM counters").fetchone()
    return int(number)


def pulses(connection: sqlite3.Connection) -> dict[str, Pulse]:
    """Return the last sign of life of every process, by id."""
    columns = "id, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock"
    found = (_pulse(row) for row in connection.execute(f"SELECT {columns} FROM instances"))
    return {pulse.instance.id: pulse for pulse in found if pulse is not None}


def events(
    connection: sqlite3.Connection,
    operation_id: str,
    level: str | None,
    outcome: Outcome | None,
    since: float | None,
    limit: int,
) -> list[Event]:
    """Return the newest events of the newest run, oldest first."""
    newest = "SELECT key, operation_type, run FROM operations WHERE operation_id = ? ORDER BY key DESC LIMIT 1"
    operation = connection.execute(newest, (operation_id,)).fetchone()
    if operation is None:
        return []
    key, operation_type, run = operation
    where, bound = "operation = ?", [key]
    for condition, values in (
        ("(path = ? OR (path > ? AND path < ?))", (level, f"{level}/", f"{level}0") if level else None),
        ("outcome = ?", None if outcome is None else (outcome.value,)),
        ("at >= ?", None if since is None else (since,)),
    ):
        if values is not None:
            where += f" AND {condition}"
            bound += values
    found = connection.execute(
        f"SELECT {_EVENT} FROM events WHERE {where} ORDER BY number DESC, writer DESC LIMIT ?", (*bound, limit)
    ).fetchall()
    decoded = (rows.event_of(operation_id, operation_type, run, row) for row in reversed(found))
    return [event for event in decoded if event is not None]


def with_levels(connection: sqlite3.Connection, found: Sequence[Found]) -> list[OperationSnapshot]:
    """Return the operations with the levels kept below them."""
    levels: dict[int, list[Snapshot]] = {key: [] for key, _ in found}
    keys = list(levels)
    for start in range(0, len(keys), _CHUNK):
        chunk = keys[start : start + _CHUNK]
        marks = ", ".join("?" * len(chunk))
        for key, info, *state in connection.execute(f"{_LEVEL} WHERE l.operation IN ({marks}) AND l.path <> ''", chunk):
            if (level := rows.snapshot_of(info, state)) is not None:
                levels[key].append(level)
    return [_join(operation, levels[key]) for key, operation in found]


def in_tree_order(levels: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
    """Return levels so that each comes after its parent and before its parent's next sibling; siblings by ``order``."""
    known = {level.info.path: level for level in levels}
    children: dict[str, list[Snapshot]] = {}
    for level in known.values():
        above = level.info.parent_path
        while above and above not in known:  # the parent is not kept, or another process has not written it yet
            above = above.rpartition("/")[0]
        children.setdefault(above or "", []).append(level)
    for siblings in children.values():
        siblings.sort(key=lambda level: (level.info.order, level.info.path), reverse=True)  # the first one is taken off the end
    result, waiting = [], children.get("", [])
    while waiting:
        level = waiting.pop()
        result.append(level)
        waiting += children.get(level.info.path, ())
    return tuple(result)


def _operations(connection: sqlite3.Connection, rest: str, bound: Sequence[object], moment: Moment) -> Iterator[Found]:
    for key, *row in connection.execute(f"{_OPERATION} {rest}", tuple(bound)):
        root = rows.snapshot_of(row[8], row[9:])
        if root is not None:
            yield key, _operation(root, _pulse(row[:8]), moment)


def _operation(root: Snapshot, pulse: Pulse | None, moment: Moment) -> OperationSnapshot:
    if pulse is None:  # its process left no sign of life, so the snapshot itself is the last one
        pulse = Pulse(Instance(root.info.instance, 0, "", "", 0.0), root.observed_at, root.observed_clock)
        alive, clock = moment.of(pulse)
        return OperationSnapshot(root, (), moment.now, clock, None, alive)
    alive, clock = moment.of(pulse)
    return OperationSnapshot(root, (), moment.now, clock, pulse.instance, alive)


def _join(operation: OperationSnapshot, levels: list[Snapshot]) -> OperationSnapshot:
    return OperationSnapshot(
        operation.root,
        in_tree_order(levels),
        operation.read_at,
        operation.clock,
        operation.instance,
        operation.alive,
        operation.stall_after,
    )


def _pulse(row: Sequence[Any]) -> Pulse | None:
    identity, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock = row
    if {type(identity), type(host), type(service)} != {str} or {type(heartbeat_at), type(heartbeat_clock)} != {float}:
        return None
    if type(pid) is not int or type(started_at) is not float or not (start is None or type(start) is int):
        return None
    return Pulse(Instance(identity, pid, host, service, started_at, start), heartbeat_at, heartbeat_clock)
