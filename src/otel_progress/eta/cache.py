"""What was worked out of a history is kept, so that it is worked out once and not at every estimate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final, TypeVar

from otel_progress.errors import RejectedValueError
from otel_progress.eta.backtest import Backtest, run_backtest
from otel_progress.eta.curves import LONGEST, ROUNDING, Curve, checked, curve, is_seconds
from otel_progress.eta.ensemble import Blend
from otel_progress.eta.gaps import without_pauses
from otel_progress.eta.intervals import calibrated, half_width
from otel_progress.records import Trajectory

MAX_TRAJECTORIES_PER_KEY: Final = 20
"""So many of the latest past runs count."""


KEPT: Final = 64
"""Histories whose record is kept; the least recently used one goes."""


CONFIDENCES: Final = 16
"""For so many confidences a history knows the factor of its intervals."""


@dataclass(frozen=True, slots=True)
class PreparedHistory:
    """A history made ready: its curves (those of runs that left points), its durations in ascending order, and its record."""

    trajectories: Sequence[Trajectory]
    curves: Sequence[Curve]
    durations: Sequence[float]
    record: Backtest
    _widths: dict[float, float] = field(default_factory=dict)

    def half_width(self, blend: Blend, confidence: float) -> float | None:
        """Return the seconds by which the end may come earlier or later than ``blend`` says; None with fewer than three past runs."""
        residuals, runs = self.record.residuals, len(self.curves)
        wide = half_width(residuals, blend, runs, confidence)
        if wide is None:
            return None
        factor = self._widths.get(confidence)
        if factor is None:
            if len(self._widths) >= CONFIDENCES:
                self._widths.clear()
            factor = self._widths[confidence] = calibrated(residuals, runs, confidence)
        return wide * factor


_Key = TypeVar("_Key")


_kept: OrderedDict[tuple[int, ...], PreparedHistory] = OrderedDict()


_alike: OrderedDict[tuple[float, ...], PreparedHistory] = OrderedDict()


_lock = Lock()


def prepare_history(history: Sequence[Trajectory]) -> PreparedHistory:
    """Return what these past runs teach, the last 20 of them.

    The same trajectories in another list are found at once: they are told apart by identity, and what is kept holds them, so an identity
    stays theirs. Equal ones (read anew from a journal) are found by their durations, then compared. The lock is held for look-ups only.
    """
    recent = tuple(history[-MAX_TRAJECTORIES_PER_KEY:])
    key = tuple(map(id, recent))
    with _lock:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
            return found
        durations = tuple([trajectory.duration_s for trajectory in recent])
        alike = _alike.get(durations)
    made = (
        replace(alike, trajectories=recent)
        if alike is not None and _same(alike.trajectories, recent)
        else _learned(recent)
    )
    with _lock:
        _keep(_kept, key, made)
        _keep(_alike, durations, made)
    return made


def _same(some: Sequence[Trajectory], others: Sequence[Trajectory]) -> bool:
    return all(list(one.points) == list(other.points) for one, other in zip(some, others, strict=True))


def _keep(kept: OrderedDict[_Key, PreparedHistory], key: _Key, made: PreparedHistory) -> None:
    kept[key] = made
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)


def _learned(history: Sequence[Trajectory]) -> PreparedHistory:
    curves = [
        shape
        for n, trajectory in enumerate(history)
        if (shape := _curve(trajectory, f"history[{n}]")) is not None
    ]
    return PreparedHistory(
        history, curves, sorted(trajectory.duration_s for trajectory in history), run_backtest(curves)
    )


def _curve(trajectory: Trajectory, what: str) -> Curve | None:
    """Return a past run as a curve from its base to its end; None when it left no points."""
    duration = trajectory.duration_s
    if not is_seconds(duration):
        msg = f"{what}.duration_s: expected a number of seconds from 0 to {LONGEST:g}, got {duration}"
        raise RejectedValueError(msg)
    times, fractions = checked(trajectory.points, f"{what}.points")
    if len(times) < 2:
        return None
    if times[-1] > duration * (1.0 + ROUNDING):
        msg = f"{what}.points: expected times up to its duration of {duration} s, got {times[-1]}"
        raise RejectedValueError(msg)
    if fractions[-1] < 1.0:
        times, fractions = [*times, duration], [*fractions, 1.0]
    usual = without_pauses(curve(duration, times, fractions), ()).gap
    return curve(duration, times, fractions, usual)


def clear_cache() -> None:
    """Forget all histories: the next estimate of each works out anew what it teaches."""
    with _lock:
        _kept.clear()
        _alike.clear()
