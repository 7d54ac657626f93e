"""What earlier runs left for later ones: their trajectories, by what they have in common. They outlive their operations.

Each key keeps its newest, and the table as a whole is bounded; what goes first is the key that learned nothing for the longest time.
Every function runs within the caller's transaction.
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
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey

MAX_TRAJECTORIES_PER_KEY: Final = 20
"""Trajectories kept under one key, the newest."""


MAX_TRAJECTORIES: Final = 10_000
"""Trajectories kept in all."""


MAX_POINTS: Final = 64
"""Points of one trajectory."""


MAX_TEXT: Final = 8 * 1024
"""Characters of one trajectory, of which the points have some 1,200; one that has more, for its stages, is kept without those."""


ENOUGH: Final = 3
"""With fewer than this of one class of hosts, those of others are looked at, too."""


_KEY: Final = "operation_type = ? AND level = ? AND eta_key = ? AND host_class = ?"


_KEYS: Final = "operation_type, level, eta_key, host_class"


_ADD: Final = f"""INSERT OR IGNORE INTO trajectories ({_KEYS}, run, number, at, trajectory, operation_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT operation_id FROM operations WHERE run = ?))"""


_TRIM: Final = f"""DELETE FROM trajectories WHERE {_KEY} AND key <=
    (SELECT key FROM trajectories WHERE {_KEY} ORDER BY key DESC LIMIT 1 OFFSET ?)"""


_OWN: Final = f"SELECT trajectory FROM trajectories WHERE {_KEY} ORDER BY key DESC LIMIT ?"


_OTHERS: Final = """SELECT trajectory FROM trajectories WHERE operation_type = ? AND level = ? AND eta_key = ? AND host_class <> ?
    ORDER BY key DESC LIMIT ?"""


_COUNT: Final = "SELECT count(*) FROM trajectories"


_GROUPS: Final = f"SELECT {_KEYS}, count(*) FROM trajectories GROUP BY {_KEYS} ORDER BY max(key)"


def insert_entries(connection: sqlite3.Connection, lessons: Sequence[TrajectoryEntry]) -> None:
    """Keep lessons; the oldest under their keys make room. One that is there already stays, and what teaches nothing is left out."""
    numbers: Counter[tuple[TrajectoryKey, str]] = Counter()
    for lesson in lessons:
        text = _text_of(lesson.trajectory)
        if text is None:
            continue
        number = numbers[
            lesson.key, lesson.run
        ]  # levels of one shape are told apart by their order in the run
        numbers[lesson.key, lesson.run] += 1
        connection.execute(_ADD, (*_values(lesson.key), lesson.run, number, lesson.at, text, lesson.run))
    for key in {key for key, _ in numbers}:
        connection.execute(_TRIM, (*_values(key), *_values(key), MAX_TRAJECTORIES_PER_KEY))
    if numbers:
        bound(connection, MAX_TRAJECTORIES)


def newest(connection: sqlite3.Connection, key: TrajectoryKey, limit: int) -> list[Trajectory]:
    """Return the newest trajectories under a key, oldest first; when they are few, after those of other classes of hosts."""
    found = _read(connection, _OWN, key, limit)
    if len(found) < ENOUGH:
        found = _read(connection, _OTHERS, key, limit - len(found)) + found
    return found


def forget(connection: sqlite3.Connection, operation_id: str) -> None:
    """Delete what all runs of an operation left, also those that are themselves no longer kept."""
    connection.execute("DELETE FROM trajectories WHERE operation_id = ?", (operation_id,))


def bound(connection: sqlite3.Connection, most: int) -> None:
    """Delete all under the keys that were not learned under for the longest time, until there are at most ``most``."""
    (count,) = connection.execute(_COUNT).fetchone()
    if count <= most:
        return
    for *key, size in query_all(connection, _GROUPS):
        connection.execute(f"DELETE FROM trajectories WHERE {_KEY}", key)
        count -= size
        if count <= most:
            return


def _read(connection: sqlite3.Connection, query: str, key: TrajectoryKey, limit: int) -> list[Trajectory]:
    rows = query_all(connection, query, (*_values(key), limit))
    decoded = (_trajectory_of(text) for (text,) in reversed(rows))
    return [trajectory for trajectory in decoded if trajectory is not None]


def _values(key: TrajectoryKey) -> tuple[str, str, str, str]:
    return key.operation_type, key.level, key.eta_key, key.host_class


def _text_of(trajectory: Trajectory) -> str | None:
    """Return a trajectory as ``[duration, [elapsed, fraction, ...], {stage: duration}]``; None when it has no duration to tell.

    Six digits are more than any clock is good for over such a time, and less than half of what the numbers would take.
    """
    if not _is_duration(trajectory.duration_s):
        return None
    points = [
        value for point in _thinned(trajectory.points) for value in (_short(point[0]), _short(point[1]))
    ]
    stages = {
        str(name): _short(duration) for name, duration in trajectory.stages.items() if _is_duration(duration)
    }
    duration = _short(trajectory.duration_s)  # as its points are, or the last of them would lie beyond it
    text = _dumps((duration, points, stages))
    return text if len(text) <= MAX_TEXT else _dumps((duration, points, {}))


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return the points that can be kept: at most MAX_POINTS, spread evenly, the first and the last among them."""
    known = [point for point in points if _is_duration(point[0]) and _is_duration(point[1])]
    if len(known) <= MAX_POINTS:
        return known
    last = len(known) - 1
    return [known[round(index * last / (MAX_POINTS - 1))] for index in range(MAX_POINTS)]


def _trajectory_of(text: Any) -> Trajectory | None:
    """Return the trajectory of a column; None when it is not one."""
    try:
        if type(text) is not str or len(text) > MAX_TEXT:
            return None
        duration, flat, stages, *_ = json.loads(text)
        points = tuple(zip(flat[0::2], flat[1::2], strict=True))
        if len(points) > MAX_POINTS or not _is_duration(duration) or not all(map(_is_duration, flat)):
            return None
        if (
            not _ascends(points)
            or not isinstance(stages, Mapping)
            or not all(map(_is_duration, stages.values()))
        ):
            return None
        return Trajectory(duration, points, stages)
    except DECODE_ERRORS:
        return None


def _ascends(points: Sequence[tuple[float, float]]) -> bool:
    times, fractions = [time for time, _ in points], [fraction for _, fraction in points]
    return times == sorted(times) and all(fraction <= 1.0 for fraction in fractions)


def _is_duration(value: object) -> bool:
    """Tell whether a value is a number of seconds, or any other that is neither negative nor without end."""
    return type(value) in (int, float) and isfinite(value) and value >= 0.0  # type: ignore[arg-type, operator]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
