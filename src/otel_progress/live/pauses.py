"""Pauses of an operation as intervals on the monotonic clock."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from otel_progress.locking import store_together

MAX_PAUSES: Final = 1_000
"""Pauses of an operation in memory. Beyond it, the two oldest become one of the same total length.
"""


_FIELDS: Final = ("_starts", "_ends", "_sums", "since", "_depth")


class Pauses:
    """Pauses of one operation.

    Nested pauses count once. Times are monotonic seconds. Not thread-safe.
    """

    __slots__ = (
        "_depth",
        "_ends",
        "_max_pauses",
        "_starts",
        "_sums",
        "pause_message",
        "since",
        "work_message",
    )

    def __init__(self, *, max_pauses: int = MAX_PAUSES) -> None:
        self._max_pauses = max_pauses
        self.since: float | None = None
        """Start of the current pause. None while the work runs."""
        self.pause_message: str | None = None
        """Message of the operation that a pause set."""
        self.work_message: str | None = None
        """Message of the operation before the pauses."""
        self._depth = 0
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._sums: list[float] = []

    def start(self, clock: float) -> None:
        """Start a pause or a nested pause."""
        self._depth += 1
        if self.since is None:
            self.since = clock

    def end(self, clock: float) -> float:
        """End one nested pause.

        Return the seconds of the pause if it was the outermost one, else 0.
        """
        self._depth = max(0, self._depth - 1)
        return 0.0 if self._depth else self.close(clock)

    def close(self, clock: float) -> float:
        """End the current pause with all nested ones.

        Return its seconds, or 0 without a pause.
        """
        since = self.since
        if since is None or clock <= since:
            self.since, self._depth = None, 0
            return 0.0
        sums = [*self._sums, (self._sums[-1] if self._sums else 0.0) + clock - since]
        starts, ends = [*self._starts, since], [*self._ends, clock]
        if len(starts) > self._max_pauses:
            starts[:2] = [ends[1] - sums[1]]
            del ends[0], sums[0]
        store_together((self,) * 5, _FIELDS, (starts, ends, sums, None, 0))
        return clock - since

    @property
    def ended_seconds(self) -> float:
        """Seconds of all ended pauses."""
        return self._sums[-1] if self._sums else 0.0

    def seconds_before(self, clock: float) -> float:
        """Return the paused seconds before ``clock``."""
        last = bisect_right(self._starts, clock) - 1
        paused_s = 0.0 if last < 0 else self._sums[last] - max(0.0, self._ends[last] - clock)
        return paused_s if self.since is None else paused_s + max(0.0, clock - self.since)

    def seconds_between(self, start: float, end: float) -> float:
        """Return the paused seconds from ``start`` to ``end``."""
        return self.seconds_before(end) - self.seconds_before(start)
