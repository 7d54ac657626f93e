"""Text form of trajectories in a journal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from otel_progress.journal.decoding import DECODE_ERRORS
from otel_progress.records import MAX_TRAJECTORY_POINTS, Trajectory

MAX_TEXT_CHARS: Final = 8 * 1024
"""Characters of an encoded trajectory. Beyond it, the stages are dropped. The points need some
1,200.
"""


MIN_OWN_TRAJECTORIES: Final = 3
"""With fewer trajectories of one class of host, those of other classes are read too."""


def encode_trajectory(trajectory: Trajectory) -> str | None:
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


def decode_trajectory(text: Any) -> Trajectory | None:
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
