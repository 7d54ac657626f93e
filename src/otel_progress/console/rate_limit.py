"""A bound on lines: what a program says quickly and often is counted instead of shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BURST: Final = 20
"""Lines that may come at once."""


PER_SECOND: Final = 2.0
"""Lines a second in the long run."""


class RateLimiter:
    """A token bucket over lines. Not safe for several threads at once; a console is written to by one."""

    def __init__(
        self, clock: Callable[[], float], *, burst: float = BURST, per_second: float = PER_SECOND
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._at = clock()
        self.suppressed = 0
        """Lines not allowed since ``take_refused`` was last called."""

    def allow(self) -> bool:
        """Return whether one more line may be written; a refused one is counted."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            self.suppressed += 1
            return False
        self._left -= 1.0
        return True

    def take_suppressed(self) -> int:
        """Return how many lines were refused, and count anew."""
        refused, self.suppressed = self.suppressed, 0
        return refused
