"""Cache of backtested histories, so that a history is backtested once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from otel_progress.errors import RejectedValueError
from otel_progress.eta.backtest import Backtest, run_backtest
from otel_progress.eta.curves import (
    MAX_SECONDS,
    ROUNDING_TOLERANCE,
    Curve,
    build_curve,
    is_seconds,
    parse_points,
)
from otel_progress.eta.ensemble import Blend
from otel_progress.eta.gaps import remove_pauses
from otel_progress.eta.intervals import calibrate_width, compute_half_width
from otel_progress.fork import fork_safe_lock
from otel_progress.records import MAX_TRAJECTORIES_PER_KEY, Trajectory

MAX_HISTORIES: Final = 64
"""Maximum number of cached histories. The least recently used one is evicted."""


MAX_CONFIDENCES: Final = 16
"""Maximum number of confidences for which a history stores the factor of its intervals."""


@dataclass(frozen=True, slots=True)
class PreparedHistory:
    """A backtested history.

    ``curves`` are those of the runs with points. ``durations`` are those of all runs, ascending.
    """

    trajectories: Sequence[Trajectory]
    curves: Sequence[Curve]
    durations: Sequence[float]
    backtest: Backtest
    _factors: dict[float, float] = field(default_factory=dict)

    def half_width(self, blend: Blend, confidence: float) -> float | None:
        """Return half the width of the interval around ``blend``, in seconds.

        Return None with fewer than ``MIN_RUNS`` past runs.
        """
        residuals, runs = self.backtest.residuals, len(self.curves)
        half_width = compute_half_width(residuals, blend, runs, confidence)
        if half_width is None:
            return None
        factor = self._factors.get(confidence)
        if factor is None:
            if len(self._factors) >= MAX_CONFIDENCES:
                self._factors.clear()
            factor = self._factors[confidence] = calibrate_width(residuals, runs, confidence)
        return half_width * factor


_Key = TypeVar("_Key")


_by_identity: OrderedDict[tuple[int, ...], PreparedHistory] = OrderedDict()


_by_durations: OrderedDict[tuple[float, ...], PreparedHistory] = OrderedDict()


_lock: Final = fork_safe_lock()


def prepare_history(history: Sequence[Trajectory]) -> PreparedHistory:
    """Return the backtested history of the last ``MAX_TRAJECTORIES_PER_KEY`` runs.

    The same trajectories in another list are found by identity. The cache references them, so an id
    is not reused. Equal trajectories (read again from a journal) are found by their durations and
    then compared. The lock is held only for lookups.
    """
    recent = tuple(history[-MAX_TRAJECTORIES_PER_KEY:])
    key = tuple(map(id, recent))
    with _lock:
        prepared = _by_identity.get(key)
        if prepared is not None:
            with suppress(KeyError):  # a signal handler evicted it
                _by_identity.move_to_end(key)
            return prepared
        durations = tuple([trajectory.duration_s for trajectory in recent])
        similar = _by_durations.get(durations)
    if similar is not None and _have_equal_points(similar.trajectories, recent):
        prepared = replace(similar, trajectories=recent)
    else:
        prepared = _build_history(recent)
    with _lock:
        _store(_by_identity, key, prepared)
        _store(_by_durations, durations, prepared)
    return prepared


def _have_equal_points(first: Sequence[Trajectory], second: Sequence[Trajectory]) -> bool:
    return all(list(one.points) == list(other.points) for one, other in zip(first, second, strict=True))


def _store(cache: OrderedDict[_Key, PreparedHistory], key: _Key, prepared: PreparedHistory) -> None:
    cache[key] = prepared
    with suppress(KeyError):  # a signal handler evicted it
        cache.move_to_end(key)
    while len(cache) > MAX_HISTORIES:
        cache.popitem(last=False)


def _build_history(history: Sequence[Trajectory]) -> PreparedHistory:
    curves = [
        curve
        for n, trajectory in enumerate(history)
        if (curve := _build_past_curve(trajectory, f"history[{n}]")) is not None
    ]
    durations = sorted(trajectory.duration_s for trajectory in history)
    return PreparedHistory(history, curves, durations, run_backtest(curves))


def _build_past_curve(trajectory: Trajectory, name: str) -> Curve | None:
    """Return a past run as a curve from its base to its end.

    Return None if it has no points.
    """
    duration = trajectory.duration_s
    if not is_seconds(duration):
        msg = f"Invalid {name}.duration_s {duration}: expected seconds from 0 to {MAX_SECONDS:g}."
        raise RejectedValueError(msg)
    times, fractions = parse_points(trajectory.points, f"{name}.points")
    if len(times) < 2:
        return None
    if times[-1] > duration * (1.0 + ROUNDING_TOLERANCE):
        msg = f"Invalid {name}.points, time {times[-1]}: expected at most its duration of {duration} s."
        raise RejectedValueError(msg)
    if times[-1] > duration:  # by a rounding error
        times = [min(time, duration) for time in times]
    if fractions[-1] < 1.0:
        times, fractions = [*times, duration], [*fractions, 1.0]
    gap = remove_pauses(build_curve(duration, times, fractions), ()).gap
    return build_curve(duration, times, fractions, gap)


def clear_cache() -> None:
    """Evict all histories. The next estimate of each repeats its backtest."""
    with _lock:
        _by_identity.clear()
        _by_durations.clear()
