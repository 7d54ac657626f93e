"""Reads operations out of an open journal. Every function runs within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, Final, TypeAlias

from otel_progress.journal import rows
from otel_progress.journal.fetching import fetch
from otel_progress.journal.liveness import Moment, Pulse
from otel_progress.journal.rows import STATE
from otel_progress.model import Instance, Snapshot
from otel_progress.operations import OperationSnapshot

Found: TypeAlias = "tuple[int, OperationSnapshot]"
"""An operation with its key."""

_CHUNK: Final = 500
"""Values bound to one statement; SQLite's oldest limit is 999."""
_DERIVED: Final = {"stall_after_s": "coalesce(s.stall_after_s, max(60.0, 3.0 * s.longest_gap_s))"}
"""Where a worker of a version before wrote, what follows from its columns."""
_STATE: Final = ", ".join(_DERIVED.get(column, f"s.{column}") for column in STATE)
_OPERATION: Final = f"""SELECT o.key, o.instance, u.use, r.at, l.info, {_STATE} FROM operations o
    JOIN levels l ON l.operation = o.key AND l.path = '' JOIN states s ON s.level = l.key
    LEFT JOIN uses u ON u.operation = o.key LEFT JOIN requests r ON r.operation = o.key"""
_LEVEL: Final = f"SELECT l.operation, l.info, {_STATE} FROM levels l JOIN states s ON s.level = l.key"
_ACTIVE: Final = "WHERE o.finished_at IS NULL"
_PULSE: Final = "SELECT id, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock FROM instances"


def newest_run(connection: sqlite3.Connection, operation_id: str, moment: Moment) -> OperationSnapshot | None:
    """Return the newest run of an operation with its levels."""
    found = operations(connection, "WHERE o.operation_id = ? ORDER BY o.key DESC LIMIT 1", (operation_id,), moment)
    return with_levels(connection, found)[0] if found else None


def active(connection: sqlite3.Connection, moment: Moment) -> list[Found]:
    """Return what has not ended, newest first, without levels."""
    return operations(connection, f"{_ACTIVE} ORDER BY o.key DESC", (), moment)


def changed(connection: sqlite3.Connection, revision: int, moment: Moment) -> list[Found]:
    """Return what was written after ``revision``, ended or not, newest first, without levels."""
    found = operations(connection, f"{_ACTIVE} AND o.revision > ?", (revision,), moment)
    found += operations(connection, "WHERE o.finished_at IS NOT NULL AND o.revision > ?", (revision,), moment)
    return sorted(found, key=lambda item: -item[0])


def history(
    connection: sqlite3.Connection,
    operation_type: str | None,
    limit: int,
    before: tuple[float, str] | None,
    since: float | None,
    moment: Moment,
) -> list[OperationSnapshot]:
    """Return what has ended, last first, without levels. Rows that do not decode do not shorten the page."""
    found: list[OperationSnapshot] = []
    while len(found) < limit:
        where = "o.finished_at IS NOT NULL"
        bound: list[object] = []
        for condition, values in (
            ("o.operation_type = ?", None if operation_type is None else (operation_type,)),
            ("(o.finished_at, o.run) < (?, ?)", before),
            ("o.finished_at >= ?", None if since is None else (since,)),
        ):
            if values is not None:
                where += f" AND {condition}"
                bound += values
        bound.append(min(limit - len(found), _CHUNK))
        page = (
            f"SELECT o.finished_at, o.run, o.key FROM operations o WHERE {where} ORDER BY o.finished_at DESC, o.run DESC LIMIT ?"
        )
        ends = fetch(connection, page, bound)
        if not ends:
            break
        before, keys = ends[-1][:2], [key for *_, key in ends]
        known = dict(operations(connection, f"WHERE o.key IN ({_marks(keys)})", keys, moment))
        found += (known[key] for key in keys if key in known)
    return found


def revision(connection: sqlite3.Connection) -> int:
    """Return the number of the last transaction that changed an operation."""
    (number,) = connection.execute("SELECT revision FROM counters").fetchone()
    return int(number)


def pulses(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Pulse]:
    """Return the last sign of life of processes, by id; one that left none, or none that can be read, is missing."""
    found = {}
    for chunk in _chunks(list(ids)):
        for row in fetch(connection, f"{_PULSE} WHERE id IN ({_marks(chunk)})", chunk):
            if (pulse := _pulse(row)) is not None:
                found[pulse.instance.id] = pulse
    return found


def with_levels(connection: sqlite3.Connection, found: Sequence[Found]) -> list[OperationSnapshot]:
    """Return the operations with the levels kept below them."""
    levels: dict[int, list[Snapshot]] = {key: [] for key, _ in found}
    for chunk in _chunks(list(levels)):
        for key, info, *state in fetch(connection, f"{_LEVEL} WHERE l.operation IN ({_marks(chunk)}) AND l.path <> ''", chunk):
            if (level := rows.snapshot_of(info, state)) is not None:
                levels[key].append(level)
    return [replace(operation, levels=in_tree_order(levels[key]), _index={}) for key, operation in found]


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


def operations(connection: sqlite3.Connection, rest: str, bound: Sequence[object], moment: Moment) -> list[Found]:
    """Return the operations of a query that goes on with ``rest``, without their levels."""
    answer = fetch(connection, f"{_OPERATION} {rest}", bound)
    known = pulses(connection, {row[1] for row in answer})
    found = []
    for key, instance, use, cancelled, info, *state in answer:
        if (root := rows.snapshot_of(info, state)) is not None:
            found.append((key, _operation(root, known.get(instance), use, cancelled, moment)))
    return found


def _operation(root: Snapshot, pulse: Pulse | None, use: Any, cancelled: Any, moment: Moment) -> OperationSnapshot:
    instance = None if pulse is None else pulse.instance
    if pulse is None:  # its process left no sign of life, so the snapshot itself is the last one
        pulse = Pulse(Instance(root.info.instance, 0, "", "", 0.0), root.observed_at, root.observed_clock)
    alive, clock = moment.of(pulse)
    return OperationSnapshot(
        root,
        (),
        moment.now,
        clock,
        instance,
        alive,
        resources=None if use is None else rows.use_of(use),
        cancel_requested_at=cancelled if type(cancelled) is float and isfinite(cancelled) else None,
    )


def _pulse(row: Sequence[Any]) -> Pulse | None:
    identity, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock = row
    if {type(identity), type(host), type(service)} != {str} or {type(heartbeat_at), type(heartbeat_clock)} != {float}:
        return None
    if type(pid) is not int or type(started_at) is not float or not (start is None or type(start) is int):
        return None
    if not isfinite(heartbeat_at) or not isfinite(heartbeat_clock) or not isfinite(started_at):
        return None
    return Pulse(Instance(identity, pid, host, service, started_at, start), heartbeat_at, heartbeat_clock)


def _chunks(values: list[Any]) -> Iterable[list[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
