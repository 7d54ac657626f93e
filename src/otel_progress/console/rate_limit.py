"""Token bucket for console lines.

Suppressed lines are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_BURST_LINES: Final = 20
"""Lines allowed at once.

Further ones are suppressed.
"""


LINES_PER_S: Final = 2.0
"""Lines allowed per second on average.

Further ones are suppressed.
"""


class RateLimiter:
    """Token bucket over lines. Not thread-safe: one thread writes to a console."""

    def __init__(
        self, clock: Callable[[], float], *, burst: float = MAX_BURST_LINES, lines_per_s: float = LINES_PER_S
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._lines_per_s = lines_per_s
        self._tokens = burst
        self._refilled_at = clock()
        self.suppressed = 0
        """Lines suppressed since the last call of ``take_suppressed``."""

    def allow(self) -> bool:
        """Return whether a line may be written. Counts the line if not."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._lines_per_s)
        self._refilled_at = now
        if self._tokens < 1.0:
            self.suppressed += 1
            return False
        self._tokens -= 1.0
        return True

    def take_suppressed(self) -> int:
        """Return the number of suppressed lines and reset it."""
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed
