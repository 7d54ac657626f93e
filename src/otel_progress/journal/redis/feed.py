"""Watches a journal through its feed: yields active operations, then changed ones.

Each entry of the feed has the next revision and the runs that changed. A missing revision, an entry
that does not follow, or another journal id means that changes were lost. Then all active
operations are read.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.redis.client import Command, command
from otel_progress.journal.redis.queries import Queries, to_text
from otel_progress.operations import Condition, OperationSnapshot

AGING_INTERVAL_S: Final = 0.5
"""Time between two checks for conditions that change by time alone, in seconds."""


MAX_ENTRIES_PER_READ: Final = 1_000
"""Entries of the feed per read. If there are more, the watch reads again."""


class FeedWatcher:
    """One watch: its position in the feed, and the last known operations.

    Without ``levels``, operations are read without their levels.
    """

    def __init__(self, queries: Queries, *, levels: bool) -> None:
        self._queries = queries
        self._keys = queries.keys
        self._levels = levels
        self._journal: str | None = None
        self._revision = -1
        self._cursor = "0-0"
        self._order = 0
        self._seen: dict[str, OperationSnapshot] = {}
        self._heartbeats: dict[str, Heartbeat] = {}
        self._next_aging = -math.inf

    def follow(
        self, interval: float, sleep: Callable[[float], None] | None
    ) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield changes as described in ``Reader.watch``, until closed.

        Without ``sleep``, it waits for the next entry of the feed, at most ``interval`` seconds.
        After a change it sleeps for the interval.
        """
        while True:
            changed = self._poll(self._queries.read_time())
            yield changed
            self._wait(interval, sleep, is_changed=bool(changed))

    def _wait(self, interval: float, sleep: Callable[[float], None] | None, *, is_changed: bool) -> None:
        if sleep is not None:
            sleep(interval)
        elif interval > 0.0:
            if is_changed:
                time.sleep(interval)
            else:
                self._queries.client.wait_for_entry(self._keys.feed, self._cursor, interval)

    def _poll(self, moment: ReadTime) -> list[OperationSnapshot]:
        is_aging_due = moment.clock >= self._next_aging
        found = [each for each in self._read_changed() if self._is_change(each)]
        for operation in found:
            if operation.root.status.finished:
                self._seen.pop(operation.run, None)
            else:
                self._seen[operation.run] = operation
        if is_aging_due:
            self._next_aging = moment.clock + AGING_INTERVAL_S
            found += self._find_aged(moment)
        return found

    def _is_change(self, operation: OperationSnapshot) -> bool:
        """Return False for an operation that was yielded in this state.

        Why: an entry of the feed may be repeated.
        """
        known = self._seen.get(operation.run)
        return known is None or (known.root, known.levels, known.cancel_requested_at) != (
            operation.root,
            operation.levels,
            operation.cancel_requested_at,
        )

    def _find_aged(self, moment: ReadTime) -> list[OperationSnapshot]:
        """Return operations whose condition changed by time alone, such as stalled."""
        owners = {operation.root.info.instance for operation in self._seen.values()}
        self._heartbeats = self._queries.read_heartbeats(owners)
        found = []
        for run, operation in list(self._seen.items()):
            was = operation.condition
            if was is Condition.ABANDONED:
                # If its process resumes, its next write adds the operation again.
                del self._seen[run]
                continue
            heartbeat = self._heartbeats.get(operation.root.info.instance)
            now = replace(operation, read_at=moment.now)
            if heartbeat is not None:
                alive, clock, silent_since = moment.get_liveness(heartbeat)
                now = replace(now, clock=clock, alive=alive, not_reporting_since=silent_since)
            if now.condition is not was:
                self._seen[run] = now
                found.append(now)
        return found

    def _read_changed(self) -> list[OperationSnapshot]:
        """Return operations that changed since the last poll, or all active ones."""
        runs = self._read_entries() if self._revision >= 0 else None
        if runs is None:
            runs = self._read_position()
        return self._queries.load_operations(runs, levels=self._levels)

    def _read_entries(self) -> list[str] | None:
        """Return the runs of new entries, or None if changes were lost."""
        runs: dict[str, None] = {}
        while True:
            keys = self._keys
            # Why the revision first: an entry that is added in between is read too.
            journal, revision, order, streams = self._queries.client.execute(
                [
                    command("HGET", keys.meta, "id"),
                    command("GET", keys.revision),
                    command("GET", keys.order),
                    Command(
                        keys.feed,
                        ("XREAD", "COUNT", MAX_ENTRIES_PER_READ, "STREAMS", keys.feed, self._cursor),
                    ),
                ]
            )
            if self._journal != (None if journal is None else to_text(journal)):
                return None
            entries = _list_entries(streams)
            for identity, number, changed in entries:
                if number != self._revision + 1:
                    return None
                self._cursor, self._revision = identity, number
                self._order = max(self._order, int(order or 0))
                runs.update(dict.fromkeys(changed))
            if len(entries) < MAX_ENTRIES_PER_READ:
                return list(runs) if self._revision >= int(revision or 0) else None

    def _read_position(self) -> list[str]:
        """Set the position behind the feed. Return the runs to read."""
        keys = self._keys
        journal, revision, last, order, active = self._queries.client.execute(
            [
                command("HGET", keys.meta, "id"),
                command("GET", keys.revision),
                command("XREVRANGE", keys.feed, "+", "-", "COUNT", 1),
                command("GET", keys.order),
                command("ZREVRANGE", keys.active, 0, -1),
            ]
        )
        runs = dict.fromkeys(map(to_text, active))
        identity = None if journal is None else to_text(journal)
        if self._revision >= 0 and self._journal in {None, identity}:
            # Operations that ended while changes were lost are yielded a last time. If there was no
            # journal before, all of its operations are new.
            runs.update(dict.fromkeys(self._seen))
            runs.update(dict.fromkeys(self._find_registered_runs(self._order, int(order or 0))))
        else:
            self._seen.clear()
        self._journal, self._revision, self._order = identity, int(revision or 0), int(order or 0)
        self._cursor = "0-0"
        if last:
            # Why from the entry: it may be newer than the counter that was read before.
            ((self._cursor, self._revision, _),) = _list_entries([(keys.feed, last)])
        return list(runs)

    def _find_registered_runs(self, after: int, newest: int) -> list[str]:
        """Return the runs registered after a position, at most the newest 10,000."""
        if newest <= after:
            return []
        stored: dict[bytes, bytes] = self._queries.client.execute_one("HGETALL", self._keys.runs)
        found = [
            (to_text(text[16:32]), to_text(run)) for run, text in stored.items() if text[16:32].isdigit()
        ]
        return [run for order, run in sorted(found, reverse=True)[:10_000] if int(order) > after]


def _list_entries(streams: Any) -> list[tuple[str, int, list[str]]]:
    """Return id, revision and runs of the entries of an XREAD answer.

    Invalid ones have none.
    """
    result = []
    for _, entries in streams or ():
        for identity, fields in entries:
            values = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
            try:
                runs = json.loads(values[b"r"])
                number = int(values[b"v"])
            except (KeyError, ValueError, TypeError):
                number, runs = -1, []
            result.append((to_text(identity), number, [run for run in runs if isinstance(run, str)]))
    return result
