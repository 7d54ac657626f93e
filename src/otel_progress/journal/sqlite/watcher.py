"""Watches a journal: yields active operations, then changed ones."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from otel_progress.errors import JournalError
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.sqlite import reader
from otel_progress.journal.sqlite.connection import ManagedConnection, repeat_after_fork
from otel_progress.journal.sqlite.opening import NothingRecordedError, is_missing
from otel_progress.operations import Condition, OperationSnapshot

AGING_INTERVAL_S: Final = 0.5
"""Time between two checks for conditions that change by time alone, in seconds."""


class Watcher:
    """One watch with its own connection, and the last known operations and heartbeats.

    Without ``levels``, operations are read without their levels, in a fraction of the time.
    """

    def __init__(
        self,
        path: Path,
        get_read_time: Callable[[], ReadTime],
        *,
        read_only: bool,
        missing_ok: bool,
        levels: bool,
        busy_timeout_s: float,
    ) -> None:
        self._path = path
        self._handle = ManagedConnection(path, read_only=read_only, busy_timeout_s=busy_timeout_s)
        self._missing_ok = missing_ok
        self._get_read_time = get_read_time
        self._levels = levels
        self._version: tuple[int, int] | None = None
        self._journal: str | None = None
        self._revision = -1
        self._was_missing = False
        """True if there was no journal at the first poll, so that each later operation is new."""
        self._seen: dict[str, OperationSnapshot] = {}
        self._heartbeats: dict[str, Heartbeat] = {}
        self._heartbeats_version: tuple[int, int] | None = None
        self._next_aging = -math.inf

    def follow(
        self, interval: float, sleep: Callable[[float], None]
    ) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield changes as described in ``Reader.watch``, until closed."""
        try:
            is_first = True
            while True:
                try:
                    changed = self._poll(self._get_read_time())
                    is_first = False
                except NothingRecordedError:
                    if not self._missing_ok and (is_first or not is_missing(self._path)):
                        raise
                    self._was_missing = self._journal is None
                    changed = []
                except JournalError:
                    # A file that was moved away is created again by the next write of a process.
                    if is_first or not is_missing(self._path):
                        raise
                    changed = []
                yield changed
                sleep(interval)
        finally:
            with suppress(JournalError):
                self._handle.close()

    def _poll(self, moment: ReadTime) -> list[OperationSnapshot]:
        is_aging_due = moment.clock >= self._next_aging
        found = self._read(moment, is_aging_due)
        for operation in found:
            if operation.root.status.finished:
                self._seen.pop(operation.root.info.run, None)
            else:
                self._seen[operation.root.info.run] = operation
        if is_aging_due:
            self._next_aging = moment.clock + AGING_INTERVAL_S
            found += self._find_aged(moment)
        return found

    def _find_aged(self, moment: ReadTime) -> list[OperationSnapshot]:
        """Return operations whose condition changed by time alone, such as stalled."""
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

    @repeat_after_fork
    def _read(self, moment: ReadTime, is_aging_due: bool) -> list[OperationSnapshot]:
        """Return operations that changed since the last poll.

        Reads nothing if nothing was committed.
        """
        with self._handle.acquire(is_query=True) as connection:
            (number,) = connection.execute("PRAGMA data_version").fetchone()
            version = (self._handle.generation, number)
            is_new = version != self._version
            if not is_new and not (is_aging_due and version != self._heartbeats_version):
                return []
            # A replaced file has another journal id.
            if self._handle.journal != self._journal:
                self._revision = 0 if self._was_missing else -1
                self._journal, self._was_missing = self._handle.journal, False
                self._seen.clear()
            connection.execute("BEGIN")
            revision, found = self._read_changed(connection, moment) if is_new else (self._revision, [])
            if is_aging_due:
                owners = {operation.root.info.instance for operation in (*self._seen.values(), *found)}
                self._heartbeats = reader.read_heartbeats(connection, owners)
                self._heartbeats_version = version
            connection.execute("COMMIT")
            # Why at the end: a use that fails is repeated.
            self._version, self._revision = version, revision
        return found

    def _read_changed(
        self, connection: sqlite3.Connection, moment: ReadTime
    ) -> tuple[int, list[OperationSnapshot]]:
        """Return the newest revision and the operations that changed since the last one."""
        newest = reader.read_revision(connection)
        if self._revision < 0:
            changed = reader.read_active(connection, moment)
        elif newest != self._revision:
            changed = reader.read_changed(connection, self._revision, moment)
        else:
            changed = []
        if self._levels:
            return newest, reader.add_levels(connection, changed)
        return newest, [operation for _, operation in changed]
