"""Predictions of an end, remembered in bounded room until the end shows how good they were. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from otel_progress.model import Eta

MAX_REMEMBERED: Final = 16
"""Predictions that are remembered of one run."""


OVERDUE_FRACTION: Final = 0.25
"""A run is overdue so much of its expected time beyond its interval: every tenth ordinary run ends a little beyond that."""


class PredictionScore(NamedTuple):
    """How good a prediction was: its distance from the end over the duration, and whether its interval held the end (None: it had none)."""

    error: float
    covered: bool | None


class Predictions:
    """The first prediction of a run, the last one, and enough between to find the one that stood at half of the duration.

    Times are seconds of work since the start, pauses left out. A run lasts at least until now, so what was predicted before half
    of now, but for the newest of it, is never asked for again.
    """

    __slots__ = ("_first", "_kept", "_spacing")

    def __init__(self) -> None:
        self._first: Eta | None = None
        self._kept: list[Eta] = []
        self._spacing = 0.0

    def add(self, eta: Eta) -> None:
        """Remember an estimate, whose ``clock`` is in seconds of work; one that gives no remaining time, or is known, adds nothing."""
        if eta.remaining_s is None or (self._kept and eta.clock <= self._kept[-1].clock):
            return
        if self._first is None:
            self._first = eta
        kept = self._kept
        if len(kept) > 1 and eta.clock - kept[-2].clock < self._spacing:
            kept.pop()  # the last one is always the newest
        kept.append(eta)
        while len(kept) > 1 and kept[1].clock <= eta.clock / 2:
            del kept[0]
        if len(kept) > MAX_REMEMBERED:
            del kept[1:-1:2]
            self._spacing = eta.clock / MAX_REMEMBERED

    def score(self, duration: float) -> tuple[PredictionScore, PredictionScore, PredictionScore] | None:
        """Return verdicts on the first prediction, on the one that stood at half of ``duration``, and on the last.

        None when nothing was predicted, or the duration is no measure.
        """
        first = self._first
        if first is None or not duration > 0.0:
            return None
        half = duration / 2
        standing = next((eta for eta in reversed(self._kept) if eta.clock <= half), first)
        return _score(first, duration), _score(standing.at(half), duration), _score(self._kept[-1], duration)


def overdue_threshold(eta: Eta) -> float | None:
    """Return after how many seconds of work a run is overdue by an estimate (whose ``clock`` is in such); None without an interval."""
    if eta.remaining_s is None or eta.high_s is None:
        return None
    return eta.clock + eta.high_s + OVERDUE_FRACTION * (eta.clock + eta.remaining_s)


def _score(eta: Eta, duration: float) -> PredictionScore:
    left = duration - eta.clock
    predicted = eta.remaining_s if eta.remaining_s is not None else eta.low_s or 0.0
    covered = None if eta.low_s is None or eta.high_s is None else eta.low_s <= left <= eta.high_s
    return PredictionScore(abs(predicted - left) / duration, covered)
