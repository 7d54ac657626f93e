"""Deletes operations with everything of them, a bounded number of rows at a time.

What becomes of the batch of a deleted operation is told to its tally, so that the counts of the batch stay right, and where the
content of its previews is to whoever keeps that.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from otel_progress.instances import UNVERIFIED_TIMEOUT_S
from otel_progress.journal import batches, lessons, previews, queries
from otel_progress.journal.fetching import fetch
from otel_progress.journal.liveness import Moment

_SOME_LEVELS: Final = "SELECT key FROM levels WHERE operation = ? ORDER BY key LIMIT ?"
_END: Final = "SELECT batch, status, finished_at FROM operations WHERE key = ? AND batch IS NOT NULL AND finished_at IS NOT NULL"
_ENDED_RUNS: Final = "SELECT key FROM operations WHERE operation_id = ? AND finished_at IS NOT NULL ORDER BY key LIMIT ?"
_OPEN_RUNS: Final = (
    "SELECT key, instance, recorded_at FROM operations WHERE operation_id = ? AND finished_at IS NULL ORDER BY key"
)


class Deletion:
    """Deletes within the caller's transaction, at most ``left`` rows. ``finish`` before the transaction ends."""

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self.left = left
        self._connection = connection
        self._gone: list[tuple[str, str, float]] = []
        self._locations: list[str] = []

    def operation(self, key: int) -> bool:
        """Delete an operation, or as much of it as is allowed; return True when all of it is gone."""
        if not (self.numbered("events", key) and self.numbered("logs", key) and self._previews(key)):
            return False
        self._connection.execute(f"DELETE FROM states WHERE level IN ({_SOME_LEVELS})", (key, self.left))
        self._delete(f"levels WHERE key IN ({_SOME_LEVELS})", key, self.left)
        if self.left <= 0:
            return False
        self._gone += fetch(self._connection, _END, (key,))
        for table in ("uses", "requests"):
            self._connection.execute(f"DELETE FROM {table} WHERE operation = ?", (key,))
        self._delete("operations WHERE key = ?", key)
        return True

    def _previews(self, key: int) -> bool:
        self._locations += previews.locations(self._connection, key, self.left)
        return self.numbered("previews", key)

    def numbered(self, table: str, key: int, up_to: int | None = None) -> bool:
        """Delete numbered rows of an operation, all or those up to a number; return True when it got to their end."""
        first = f"SELECT number FROM {table} WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"
        split = self._connection.execute(first, (key, self.left)).fetchone()
        bounds = [number for number in (up_to, split and split[0]) if number is not None]
        if bounds:
            self._delete(f"{table} WHERE operation = ? AND number <= ?", key, min(bounds))
        else:
            self._delete(f"{table} WHERE operation = ?", key)
        return split is None

    def instance(self, instance: str) -> bool:
        """Delete a process with its samples; return True when all of it is gone."""
        query = "samples WHERE instance = ? AND clock IN (SELECT clock FROM samples WHERE instance = ? LIMIT ?)"
        self._delete(query, instance, instance, max(0, self.left))
        if self.left <= 0:
            return False
        self._delete("instances WHERE id = ?", instance)
        return True

    def finish(self) -> list[str]:
        """Count what is gone in the tallies of the batches; return the locations of previews that nothing refers to any more."""
        batches.fold(self._connection, self._gone)
        self._gone.clear()
        return previews.unreferenced(self._connection, self._locations)

    def _delete(self, what: str, *bound: object) -> None:
        self.left -= self._connection.execute(f"DELETE FROM {what}", bound).rowcount


def delete_over(connection: sqlite3.Connection, operation_id: str, moment: Moment, rows: int) -> tuple[int, bool, list[str]]:
    """Delete runs of an operation that are over, at most so many rows, with what they taught: ended ones, and those of gone processes.

    Return how many are gone, True when none is left, and the locations of previews that nothing refers to any more.
    """
    deletion, count = Deletion(connection, rows), 0
    ended = [key for (key,) in connection.execute(_ENDED_RUNS, (operation_id, rows))]
    keys = [*ended, *_orphans(connection, operation_id, moment)]
    for key in keys:
        if deletion.left <= 0 or not deletion.operation(key):
            break
        count += 1
    lessons.forget(connection, operation_id)
    return count, count == len(keys) and len(ended) < rows, deletion.finish()


def _orphans(connection: sqlite3.Connection, operation_id: str, moment: Moment) -> list[int]:
    """Return the runs that have not ended although nobody works on them any more: their processes are gone for certain."""
    runs = fetch(connection, _OPEN_RUNS, (operation_id,))
    pulses = queries.pulses(connection, {instance for _, instance, _ in runs})
    found = []
    for key, instance, recorded_at in runs:
        pulse = pulses.get(instance)
        if moment.now - recorded_at > UNVERIFIED_TIMEOUT_S if pulse is None else moment.is_gone(pulse):
            found.append(key)
    return found
