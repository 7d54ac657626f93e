"""Pauses of an operation as intervals on the monotonic clock."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, TypeAlias

from otel_progress.locking import store_together

MAX_PAUSES: Final = 1_000
"""Pauses of an operation in memory. Beyond it, the two oldest become one of the same total length.
"""


_FIELDS: Final = ("_starts", "_ends", "_sums", "since", "_active")


Change: TypeAlias = "tuple[object, str, object]"
"""A new value: the object, the name of the attribute, and the value."""


def store_changes(changes: list[Change]) -> None:
    """Store new values, without a bytecode in between."""
    store_together(*zip(*changes, strict=True))


class Pauses:
    """Pauses of one operation.

    Nested pauses count once. Each has a key, with which its start and its end can be repeated after
    an exception interrupted them. Times are monotonic seconds. Not thread-safe.
    """

    __slots__ = (
        "_active",
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
        self._active: dict[object, str | None] = {}
        """Active pauses, with the message of the operation before each."""
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._sums: list[float] = []

    def start(self, key: object, clock: float, message: str | None = None) -> None:
        """Start a pause or a nested pause. ``message`` is that of the operation before it."""
        self._active.setdefault(key, message)
        if self.since is None:
            self.since = clock

    def includes(self, key: object) -> bool:
        """Return whether the pause of ``key`` is active."""
        return key in self._active

    def get_message(self, key: object) -> str | None:
        """Return the message of the operation before an active pause."""
        return self._active.get(key)

    def is_outermost(self, key: object) -> bool:
        """Return whether no pause is active without that of ``key``."""
        return not self._active or (len(self._active) == 1 and key in self._active)

    def end(self, key: object, clock: float) -> float:
        """End the pause of ``key``.

        Return the seconds of the pause if it was the outermost one, else 0.
        """
        if self.is_outermost(key):
            return self.close(clock)
        self._active.pop(key, None)
        return 0.0

    def close(self, clock: float) -> float:
        """End the current pause with all nested ones.

        Return its seconds, or 0 without a pause.
        """
        since = self.since
        store_changes(self.build_close(clock))
        return 0.0 if since is None else max(0.0, clock - since)

    def build_close(self, clock: float) -> list[Change]:
        """Return the changes that end the current pause with all nested ones."""
        since = self.since
        if since is None or clock <= since:
            return [(self, "since", None), (self, "_active", {})]
        sums = [*self._sums, (self._sums[-1] if self._sums else 0.0) + clock - since]
        starts, ends = [*self._starts, since], [*self._ends, clock]
        if len(starts) > self._max_pauses:
            starts[:2] = [ends[1] - sums[1]]
            del ends[0], sums[0]
        return list(zip((self,) * 5, _FIELDS, (starts, ends, sums, None, {}), strict=True))

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
