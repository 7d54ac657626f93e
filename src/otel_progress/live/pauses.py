"""When the work was paused: intervals on the monotonic clock, so that any stretch of time can be told without them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

MAX_PAUSES: Final = 1_000
"""Pauses of an operation that are kept apart; beyond, the two oldest become one of the same length."""


class Pauses:
    """The pauses of one operation, nested ones counted once. Not for two threads at a time; times are monotonic seconds."""

    __slots__ = ("_depth", "_ends", "_starts", "_sums", "pause_message", "since", "work_message")

    def __init__(self) -> None:
        self.since: float | None = None
        """When the pause that is on began; None while the work goes on."""
        self.pause_message: str | None = None
        """What a pause says as the message of the operation, and ``message`` what the work had said before."""
        self.work_message: str | None = None
        self._depth = 0
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._sums: list[float] = []

    def begin(self, clock: float) -> None:
        """Pause, or pause once more."""
        self._depth += 1
        if self.since is None:
            self.since = clock

    def end(self, clock: float) -> float:
        """Take one pause back; return how long the work was paused when that was the last one, else 0."""
        self._depth = max(0, self._depth - 1)
        return 0.0 if self._depth else self.close(clock)

    def close(self, clock: float) -> float:
        """End the pause that is on, however often it was nested; return how long it was, 0 when there was none."""
        since, self.since, self._depth = self.since, None, 0
        if since is None or clock <= since:
            return 0.0
        self._starts.append(since)
        self._ends.append(clock)
        self._sums.append((self._sums[-1] if self._sums else 0.0) + clock - since)
        if len(self._starts) > MAX_PAUSES:
            self._starts[:2] = [self._ends[1] - self._sums[1]]
            del self._ends[0], self._sums[0]
        return clock - since

    @property
    def ended_seconds(self) -> float:
        """Seconds of all pauses that are over."""
        return self._sums[-1] if self._sums else 0.0

    def seconds_before(self, clock: float) -> float:
        """Return the seconds that were paused up to ``clock``."""
        last = bisect_right(self._starts, clock) - 1
        paused = 0.0 if last < 0 else self._sums[last] - max(0.0, self._ends[last] - clock)
        return paused if self.since is None else paused + max(0.0, clock - self.since)

    def seconds_between(self, start: float, end: float) -> float:
        """Return the seconds from ``start`` to ``end`` that were paused."""
        return self.seconds_before(end) - self.seconds_before(start)
