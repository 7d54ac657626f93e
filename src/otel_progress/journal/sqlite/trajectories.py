"""Table ``trajectories``: history for the estimates of later runs.

It outlives the operations.

Both the trajectories per key and the whole table are bounded. The keys that were not extended for
the longest time are deleted first. Every function runs within the caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from otel_progress.journal.decoding import DECODE_ERRORS
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import (
    MAX_TRAJECTORIES_PER_KEY,
    MAX_TRAJECTORY_POINTS,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)

MAX_TEXT_CHARS: Final = 8 * 1024
"""Characters of an encoded trajectory. Beyond it, the stages are dropped. The points need some
1,200.
"""


MIN_OWN_TRAJECTORIES: Final = 3
"""With fewer trajectories of one class of host, those of other classes are read too."""


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
        text = _encode_trajectory(entry.trajectory)
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
    decoded = (_decode_trajectory(text) for (text,) in reversed(rows))
    return [trajectory for trajectory in decoded if trajectory is not None]


def _to_columns(key: TrajectoryKey) -> tuple[str, str, str, str]:
    return key.operation_type, key.level, key.eta_key, key.host_class


def _encode_trajectory(trajectory: Trajectory) -> str | None:
    """Encode a trajectory as a JSON array.

    It is ``[duration, [elapsed, fraction, ...], {stage: duration}]``.

    Return None if its duration is invalid. Numbers have six digits. That is more than clocks are
    precise over such times, and less than half of the full length.
    """
    if not _is_duration(trajectory.duration_s):
        return None
    points = [_round(value) for point in _thin_points(trajectory.points) for value in point]
    stages = {
        str(name): _round(duration) for name, duration in trajectory.stages.items() if _is_duration(duration)
    }
    # Why: the duration is rounded like the points, so that the last point does not exceed it.
    duration = _round(trajectory.duration_s)
    text = _dumps((duration, points, stages))
    return text if len(text) <= MAX_TEXT_CHARS else _dumps((duration, points, {}))


def _thin_points(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most MAX_TRAJECTORY_POINTS points, with the first and last one."""
    known = [point for point in points if _is_duration(point[0]) and _is_duration(point[1])]
    if len(known) <= MAX_TRAJECTORY_POINTS:
        return known
    last = len(known) - 1
    return [
        known[round(index * last / (MAX_TRAJECTORY_POINTS - 1))] for index in range(MAX_TRAJECTORY_POINTS)
    ]


def _decode_trajectory(text: Any) -> Trajectory | None:
    """Return the trajectory of a column, or None if the text is invalid."""
    try:
        if type(text) is not str or len(text) > MAX_TEXT_CHARS:
            return None
        duration, flat, stages, *_ = json.loads(text)
        points = tuple(zip(flat[0::2], flat[1::2], strict=True))
        if (
            len(points) > MAX_TRAJECTORY_POINTS
            or not _is_duration(duration)
            or not all(map(_is_duration, flat))
        ):
            return None
        if not _is_ascending(points) or not isinstance(stages, Mapping):
            return None
        if not all(map(_is_duration, stages.values())):
            return None
        return Trajectory(duration, points, stages)
    except DECODE_ERRORS:
        return None


def _is_ascending(points: Sequence[tuple[float, float]]) -> bool:
    times, fractions = [time for time, _ in points], [fraction for _, fraction in points]
    return times == sorted(times) and all(fraction <= 1.0 for fraction in fractions)


def _is_duration(value: object) -> bool:
    """Return True for a finite number that is not negative."""
    return type(value) in (int, float) and isfinite(value) and value >= 0.0  # type: ignore[arg-type, operator]


def _round(value: float) -> float:
    return float(f"{value:.6g}")


_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
