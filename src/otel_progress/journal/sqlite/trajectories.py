"""Table ``trajectories``: history for the estimates of later runs.

It outlives the operations.

Both the trajectories per key and the whole table are bounded. The keys that were not extended for
the longest time are deleted first. Every function runs within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Final

from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.trajectory_codec import (
    MIN_OWN_TRAJECTORIES,
    decode_trajectory,
    encode_trajectory,
)
from otel_progress.records import (
    MAX_TRAJECTORIES_PER_KEY,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)

_KEY: Final = "operation_type = ? AND level = ? AND eta_key = ? AND host_class = ?"


_KEYS: Final = "operation_type, level, eta_key, host_class"


_INSERT: Final = f"""INSERT OR IGNORE INTO trajectories ({_KEYS}, run, number, at, trajectory, operation_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT operation_id FROM operations WHERE run = ?))"""


_TRIM: Final = f"""DELETE FROM trajectories WHERE {_KEY} AND key <=
    (SELECT key FROM trajectories WHERE {_KEY} ORDER BY key DESC LIMIT 1 OFFSET ?)"""


_OWN: Final = f"SELECT trajectory FROM trajectories WHERE {_KEY} ORDER BY key DESC LIMIT ?"


_OTHER_CLASSES: Final = """SELECT trajectory FROM trajectories
    WHERE operation_type = ? AND level = ? AND eta_key = ? AND host_class <> ?
    ORDER BY key DESC LIMIT ?"""


_COUNT: Final = "SELECT count(*) FROM trajectories"


_GROUPS: Final = f"SELECT {_KEYS}, count(*) FROM trajectories GROUP BY {_KEYS} ORDER BY max(key)"


def insert_trajectories(
    connection: sqlite3.Connection, entries: Sequence[TrajectoryEntry], max_trajectories: int
) -> None:
    """Insert history entries, and delete the oldest ones beyond the limits.

    An entry that is stored already is kept. An entry without a valid duration is ignored.
    """
    numbers: Counter[tuple[TrajectoryKey, str]] = Counter()
    for entry in entries:
        text = encode_trajectory(entry.trajectory)
        if text is None:
            continue
        # Levels of one shape are distinguished by their order in the run.
        number = numbers[entry.key, entry.run]
        numbers[entry.key, entry.run] += 1
        connection.execute(_INSERT, (*_to_columns(entry.key), entry.run, number, entry.at, text, entry.run))
    for key in {key for key, _ in numbers}:
        connection.execute(_TRIM, (*_to_columns(key), *_to_columns(key), MAX_TRAJECTORIES_PER_KEY))
    if numbers:
        limit_trajectories(connection, max_trajectories)


def load_trajectories(connection: sqlite3.Connection, key: TrajectoryKey, limit: int) -> list[Trajectory]:
    """Return the newest trajectories of a key, oldest first.

    If they are few, trajectories of other classes of host come first.
    """
    own = _select_trajectories(connection, _OWN, key, limit)
    if len(own) >= MIN_OWN_TRAJECTORIES:
        return own
    return _select_trajectories(connection, _OTHER_CLASSES, key, limit - len(own)) + own


def delete_trajectories(connection: sqlite3.Connection, operation_id: str) -> None:
    """Delete the trajectories of all runs of an operation, also of deleted runs."""
    connection.execute("DELETE FROM trajectories WHERE operation_id = ?", (operation_id,))


def limit_trajectories(connection: sqlite3.Connection, max_trajectories: int) -> None:
    """Delete whole keys, the least recently extended ones first, down to the limit."""
    (count,) = connection.execute(_COUNT).fetchone()
    if count <= max_trajectories:
        return
    for *key, size in query_all(connection, _GROUPS):
        connection.execute(f"DELETE FROM trajectories WHERE {_KEY}", key)
        count -= size
        if count <= max_trajectories:
            return


def _select_trajectories(
    connection: sqlite3.Connection, query: str, key: TrajectoryKey, limit: int
) -> list[Trajectory]:
    rows = query_all(connection, query, (*_to_columns(key), limit))
    decoded = (decode_trajectory(text) for (text,) in reversed(rows))
    return [trajectory for trajectory in decoded if trajectory is not None]


def _to_columns(key: TrajectoryKey) -> tuple[str, str, str, str]:
    return key.operation_type, key.level, key.eta_key, key.host_class
