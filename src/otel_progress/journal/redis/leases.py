"""Leases: work that only one process does at a time.

A lease expires if its process does not renew it. Each new owner has a higher fence, so a script can
reject a process whose lease has expired without its knowledge.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from types import TracebackType

from otel_progress.errors import JournalError
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import RedisClient


class Lease:
    """Context manager of a lease.

    Its value is the fence, or None if another process has it.

    ``ttl_s`` is the time after which it expires, in seconds. Raises JournalError.
    """

    def __init__(self, client: RedisClient, key: str, ttl_s: float) -> None:
        self._client = client
        self._keys = (key, f"{key}:fence")
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._owner = secrets.token_hex(16)

    def acquire(self) -> str | None:
        """Acquire or renew the lease. Return its fence, or None."""
        fence = self._client.run_script(scripts.ACQUIRE_LEASE, self._keys, self._owner, self._ttl_ms)
        return fence.decode("ascii") or None

    def release(self) -> None:
        """Release the lease, if this owner has it."""
        self._client.run_script(scripts.RELEASE_LEASE, self._keys[:1], self._owner)

    def __enter__(self) -> str | None:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Why suppressed: it expires.
        with suppress(JournalError):
            self.release()
