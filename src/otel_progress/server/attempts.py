"""Rate limiter of failed attempts per peer: a token bucket for each address."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

BURST_ATTEMPTS: Final = 10
"""Failed attempts of a peer in a short time. Beyond it, attempts are refused without a check."""


REFILL_S: Final = 6.0
"""Time after which a peer may fail again, in seconds: 10 attempts per minute."""


MAX_PEERS: Final = 10_000
"""Peers with failed attempts that are stored. Beyond it, the one that failed longest ago is
evicted.
"""


class AttemptLimiter:
    """Limits failed attempts per peer. ``clock`` is monotonic, in seconds.

    Used from one thread.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: int = BURST_ATTEMPTS,
        refill_s: float = REFILL_S,
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._refill_s = refill_s
        self._full_at: dict[str, float] = {}
        """Time at which the bucket of a peer is full again, in the order of the last failure."""

    def count_failure(self, peer: str) -> None:
        """Count a failed attempt of a peer."""
        now = self._clock()
        full_at = max(self._full_at.pop(peer, now), now)
        self._full_at[peer] = full_at + self._refill_s
        if len(self._full_at) > MAX_PEERS:
            del self._full_at[next(iter(self._full_at))]

    def find_wait(self, peer: str) -> int:
        """Return the whole seconds until the next attempt of a peer is checked, 0 for now."""
        full_at = self._full_at.get(peer)
        if full_at is None:
            return 0
        missing_s = full_at - self._clock()
        if missing_s <= 0.0:
            del self._full_at[peer]
            return 0
        wait_s = missing_s - (self._burst - 1) * self._refill_s
        return math.ceil(wait_s) if wait_s > 1e-9 else 0
