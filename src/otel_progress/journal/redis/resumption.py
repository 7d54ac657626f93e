"""Claims of runs: continues the newest run of an operation under a lease.

The keys of several slots change, so the order matters. A process may be killed after any step: then
the next claim continues the same run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from otel_progress.errors import JournalError, OperationRunningError
from otel_progress.journal.claims import (
    ClaimBusyError,
    build_running_error,
    get_attempt,
    list_level_keys,
    select_runs,
    supersede_level,
)
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import call, command
from otel_progress.journal.redis.entries import encode_root_entry
from otel_progress.journal.redis.leases import Lease
from otel_progress.journal.redis.limits import MAX_SAMPLES_PER_PROCESS
from otel_progress.journal.redis.queries import Queries, to_text
from otel_progress.journal.redis.records import (
    decode_completed_key,
    encode_completed_key,
    encode_heartbeat,
    encode_info,
    encode_state,
)
from otel_progress.journal.redis.writer import build_feed_call
from otel_progress.model import LevelSnapshot, Number
from otel_progress.operations import OperationSnapshot
from otel_progress.resumption import MAX_EMPTY_RUNS, ResumedWork, RunClaim, build_resumed_root

CLAIM_LEASE_S: Final = 10.0
"""Time that one process may take to continue a run, in seconds. After it another one may."""


_PAGE: Final = 1_000
"""Completed keys that one command reads."""


def claim_run(queries: Queries, claim: RunClaim, ttl_ms: int, now: str) -> ResumedWork | None:
    """Continue the newest run of an operation. See :class:`ResumableStorage`.

    ``ttl_ms`` is the time to live of its keys. ``now`` is the time for the server, empty for its
    own.
    """
    operation_id = claim.root.info.operation_id
    lease = Lease(queries.client, queries.keys.claim_lease(operation_id), CLAIM_LEASE_S)
    with lease as fence:
        if fence is None:
            msg = f"Another process starts operation {operation_id!r}. It is tried again by itself."
            raise ClaimBusyError(msg)
        return _Claim(queries, claim, ttl_ms, now, fence).run()


class _Claim:
    """One claim of a process that has the lease. ``fence`` is that of the lease."""

    def __init__(self, queries: Queries, claim: RunClaim, ttl_ms: int, now: str, fence: str) -> None:
        self._queries = queries
        self._client = queries.client
        self._keys = queries.keys
        self._claim = claim
        self._new_run = claim.root.info.run
        self._ttl_ms = ttl_ms
        self._now = now
        self._fence = fence

    def run(self) -> ResumedWork | None:
        """Continue the newest run, or start one without earlier work."""
        runs = self._queries.find_runs(self._claim.root.info.operation_id)[: MAX_EMPTY_RUNS + 2]
        found = self._queries.load_operations(runs, levels=False)
        dead, chosen = select_runs(found, self._claim, self._has_work, self._build_error)
        if chosen is None:
            # Why the lineage: it marks a run that records its completed keys.
            self._write_root(self._claim.root, self._new_run)
            self._register([self._claim.root])
            return None
        # Why first: from then on the old process cannot change what is read below.
        for operation in dead:
            names = (self._keys.levels(operation.run), self._keys.run_meta(operation.run))
            self._client.run_script(scripts.SUPERSEDE_RUN, names, self._new_run)
        stored_lineage = self._read_lineage(chosen.run)
        lineage = stored_lineage or chosen.run
        ttl = ("PX", self._ttl_ms) if self._ttl_ms else ()
        self._client.execute([command("SET", self._keys.owner(lineage), self._new_run, *ttl)])
        complete = {
            operation.run: operation
            for operation in self._queries.load_operations([each.run for each in dead], levels=True)
        }
        if stored_lineage is None:
            self._adopt_levels(lineage, complete[chosen.run])
        completed = self._read_keys(lineage)
        stored = self._client.execute_one("HGET", self._keys.run_meta(chosen.run), "checkpoint")
        checkpoint = None if stored is None else to_text(stored)
        work = ResumedWork(complete[chosen.run].root, get_attempt(dead), checkpoint, completed)
        ended = [self._end_run(operation) for operation in complete.values()]
        root = build_resumed_root(self._claim, work)
        self._write_root(root, lineage, checkpoint)
        self._register([root, *ended])
        return work

    def _has_work(self, run: str) -> bool:
        """Return True if a run has a checkpoint or keys, or continues another one."""
        lineage, checkpoint = self._client.execute_one(
            "HMGET", self._keys.run_meta(run), "lineage", "checkpoint"
        )
        if checkpoint is not None or (lineage is not None and to_text(lineage) != run):
            return True
        return bool(self._client.execute_one("EXISTS", self._keys.completed(run)))

    def _build_error(self, operation: OperationSnapshot) -> OperationRunningError:
        instance = operation.root.info.instance
        heartbeat = self._queries.read_heartbeats([instance]).get(instance)
        return build_running_error(operation, heartbeat, self._queries.read_time())

    def _read_lineage(self, run: str) -> str | None:
        """Return the first run of a lineage.

        None if ``run`` was started without ``resume``.
        """
        lineage = self._client.execute_one("HGET", self._keys.run_meta(run), "lineage")
        return None if lineage is None else to_text(lineage)

    def _read_keys(self, lineage: str) -> list[tuple[bytes, bytes, Number]]:
        cursor: Any = 0
        # Why a dict: a scan may return a member twice.
        members: dict[bytes, None] = {}
        while True:
            cursor, page = self._client.execute_one(
                "SSCAN", self._keys.completed(lineage), cursor, "COUNT", _PAGE
            )
            members.update(dict.fromkeys(page))
            if int(cursor) == 0:
                break
        decoded = map(decode_completed_key, members)
        return [entry for entry in decoded if entry is not None]

    def _adopt_levels(self, lineage: str, operation: OperationSnapshot) -> None:
        """Add the completed levels of a run that recorded no keys."""
        entries = list_level_keys(operation)
        names = (self._keys.completed(lineage), self._keys.owner(lineage))
        for start in range(0, len(entries), scripts.MAX_CALL_RECORDS):
            members = [
                encode_completed_key(*entry) for entry in entries[start : start + scripts.MAX_CALL_RECORDS]
            ]
            self._client.run_script(scripts.ADD_KEYS, names, self._new_run, self._ttl_ms, *members)

    def _end_run(self, operation: OperationSnapshot) -> LevelSnapshot:
        """Write the last state of a run that the new one continues. Return its root."""
        moment = self._queries.read_time()
        root = supersede_level(operation.root, operation, self._new_run, moment)
        running = [level for level in operation.levels if not level.status.finished]
        levels = [supersede_level(level, operation, self._new_run, moment) for level in running]
        self._write_levels(operation.run, [root, *levels])
        return root

    def _write_levels(self, run: str, levels: Sequence[LevelSnapshot]) -> None:
        values = []
        for level in levels:
            text, info_digest = encode_info(level.info)
            values.append((level.path, encode_state(level, info_digest), text))
        # Why the new run as the writer: only the successor of a run may write it.
        head = (self._new_run, f"{1:016d}", "", self._ttl_ms, 0)
        calls = []
        for start in range(0, len(values), scripts.MAX_CALL_LEVELS):
            part = values[start : start + scripts.MAX_CALL_LEVELS]
            names = self._keys.list_run_keys(run)
            calls.append(call(scripts.WRITE_RUN, names, *head, *chain.from_iterable(part)))
        self._client.execute(calls)

    def _write_root(self, root: LevelSnapshot, lineage: str, checkpoint: str | None = None) -> None:
        """Write the new run, which no index contains yet, and a heartbeat of its process."""
        claim, process = self._claim, self._claim.instance
        text = encode_heartbeat(process, claim.at, claim.clock, secrets.token_hex(8), 0)
        names = (self._keys.heartbeat(process.id), self._keys.samples(process.id))
        # Why the limit: the samples of the process stay.
        limit = MAX_SAMPLES_PER_PROCESS
        self._client.run_script(scripts.BEAT, names, text, self._now, self._ttl_ms, "", limit)
        self._write_levels(self._new_run, [root])
        values = ["set", "lineage", lineage]
        if checkpoint is not None:
            values += ["set", "checkpoint", checkpoint]
        names = (self._keys.levels(self._new_run), self._keys.run_meta(self._new_run))
        self._client.run_script(scripts.SET_RUN_VALUES, names, self._ttl_ms, *values)

    def _register(self, roots: Sequence[LevelSnapshot]) -> None:
        """Change the entries of all runs at once, unless the lease has another owner."""
        entries = [encode_root_entry(root) for root in roots]
        changed = [root.info.run for root in roots]
        lease = self._keys.claim_lease(self._claim.root.info.operation_id)
        feed = build_feed_call(self._keys, entries, changed, self._now, (lease, self._fence))
        answer = self._client.execute([feed])[0]
        if to_text(answer[0]) != "ok":
            msg = (
                "The claim of a run took too long, or the journal has another schema. "
                "It is tried again by itself."
            )
            error = JournalError(msg)
            error.is_temporary = True
            raise error
