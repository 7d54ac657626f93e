"""Deletes expired runs in bounded passes, by one process at a time."""

from __future__ import annotations

from typing import Final

from otel_progress.journal.redis import batches, scripts
from otel_progress.journal.redis.client import command
from otel_progress.journal.redis.control import delete_run, is_gone_since
from otel_progress.journal.redis.leases import Lease
from otel_progress.journal.redis.limits import RedisLimits
from otel_progress.journal.redis.queries import Queries, to_text

IDLE_INTERVAL_S: Final = 60.0
"""Time to the next pass if the previous one deleted everything due, in seconds."""


BUSY_INTERVAL_S: Final = 1.0
"""Time to the next pass if the previous one reached its limit, in seconds."""


LEASE_S: Final = 120.0
"""Time after which another process may run a pass that was not finished, in seconds."""


MAX_CHECKED_RUNS: Final = 1_000
"""Active runs that one pass checks for dead processes, the oldest ones."""


FULL_RATIO: Final = 0.9
"""Used part of the memory of the server from which the oldest ended runs are deleted early."""


class Retention:
    """Schedules and runs passes.

    ``dropped`` counts the operations that were deleted early.
    """

    def __init__(self, retention_s: float, limits: RedisLimits, ttl_ms: int) -> None:
        self.dropped = 0
        self._retention_s = retention_s
        self._limits = limits
        self._ttl_ms = ttl_ms
        self._next: float | None = None

    def is_due(self, clock: float) -> bool:
        """Return True if a pass is due at ``clock`` (monotonic seconds)."""
        if self._next is None:
            # Why not in the first tick: a short run should not pay for a pass.
            self._next = clock + BUSY_INTERVAL_S
        return clock >= self._next

    def run(self, queries: Queries, server_now: float) -> list[str]:
        """Run one pass, unless another process does.

        ``server_now`` is the time of the server in Unix seconds. Return the locations of previews
        that are unreferenced now. Raises JournalError.
        """
        moment = queries.read_time()
        self._next = moment.clock + IDLE_INTERVAL_S
        unreferenced: list[str] = []
        with Lease(queries.client, queries.keys.retention_lease, LEASE_S) as fence:
            if fence is None:
                return unreferenced
            left = self._limits.runs_per_pass
            expired = self._find_expired(queries, server_now, left)
            self._delete(queries, expired, fence, unreferenced)
            left -= len(expired)
            gone = self._find_gone(queries, left)
            self._delete(queries, gone, fence, unreferenced)
            left -= len(gone)
            if left > 0 and _is_full(queries):
                oldest = queries.client.execute_one("ZRANGE", queries.keys.expiry, 0, left - 1)
                runs = [to_text(run) for run in oldest]
                self.dropped += self._delete(queries, runs, fence, unreferenced)
                left -= len(runs)
            if left <= 0:
                self._next = moment.clock + BUSY_INTERVAL_S
            batches.delete_expired(queries.client, queries.keys, moment.now - self._retention_s)
            if self._ttl_ms:
                queries.client.run_script(scripts.REFRESH, queries.keys.indexes, self._ttl_ms)
        return unreferenced

    def _find_expired(self, queries: Queries, server_now: float, limit: int) -> list[str]:
        horizon = int(max(0.0, server_now - self._retention_s) * 1e6) if self._retention_s < 1e12 else 0
        # Why the time of the server: the wall clock of a process may be wrong.
        found = queries.client.execute_one(
            "ZRANGEBYSCORE", queries.keys.expiry, "-inf", f"({horizon}", "LIMIT", 0, limit
        )
        return [to_text(run) for run in found]

    def _find_gone(self, queries: Queries, limit: int) -> list[str]:
        """Return active runs whose processes were not seen for longer than the retention."""
        found = queries.client.execute_one("ZRANGE", queries.keys.active, 0, MAX_CHECKED_RUNS - 1)
        moment = queries.read_time()
        entries = queries.read_entries([to_text(run) for run in found])
        old = [entry for entry in entries.values() if moment.now - entry.registered_at > self._retention_s]
        gone = (entry.run for entry in old if is_gone_since(queries, entry, moment, self._retention_s))
        return [run for run, _ in zip(gone, range(limit), strict=False)]

    def _delete(self, queries: Queries, runs: list[str], fence: str, unreferenced: list[str]) -> int:
        count = 0
        entries = queries.read_entries(runs)
        for run in runs:
            entry = entries.get(run)
            if entry is None:
                # An index refers to a run without an entry.
                queries.client.execute([command("ZREM", queries.keys.expiry, run)])
                continue
            is_deleted, locations = delete_run(queries, run, entry.instance, fence)
            count += is_deleted
            unreferenced += locations
        return count


def _is_full(queries: Queries) -> bool:
    """Return True if the memory of the server is nearly full."""
    info = queries.client.read_info("memory")
    limit = info.get("maxmemory", 0)
    return bool(limit) and float(info.get("used_memory", 0)) > FULL_RATIO * float(limit)
