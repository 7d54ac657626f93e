"""Follows a journal: everything active once, then whatever changed."""

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
from otel_progress.journal.sqlite.connection import ManagedConnection, NothingRecordedError, repeat_after_fork
from otel_progress.operations import Condition, OperationSnapshot

AGED_EVERY_S: Final = 0.5
"""Time between two looks at what changed by time alone (stalled, overdue, abandoned), in seconds."""


class Watcher:
    """One watch: its own connection, what was last seen of each active operation, and of each process.

    Operations come without their levels when ``levels`` is False, which takes a fraction of the time.
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
        self._seen: dict[str, OperationSnapshot] = {}
        self._pulses: dict[str, Heartbeat] = {}
        self._pulses_version: tuple[int, int] | None = None
        self._next_aged = -math.inf

    def follow(
        self, interval: float, sleep: Callable[[float], None]
    ) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield what ``Reader.watch`` promises, until closed."""
        try:
            is_first = True
            while True:
                try:
                    changed = self._poll(self._get_read_time())
                    is_first = False
                except NothingRecordedError:
                    if not self._missing_ok and (is_first or self._path.exists()):
                        raise
                    changed = []
                except JournalError:
                    # A file that was moved away is created again by the next write of a process.
                    if is_first or self._path.exists():
                        raise
                    changed = []
                yield changed
                sleep(interval)
        finally:
            with suppress(JournalError):
                self._handle.close()

    def _poll(self, moment: ReadTime) -> list[OperationSnapshot]:
        is_aged = moment.clock >= self._next_aged
        found = self._read(moment, is_aged)
        for operation in found:
            if operation.root.status.finished:
                self._seen.pop(operation.root.info.run, None)
            else:
                self._seen[operation.root.info.run] = operation
        if is_aged:
            self._next_aged = moment.clock + AGED_EVERY_S
            found += self._time_based_changes(moment)
        return found

    def _time_based_changes(self, moment: ReadTime) -> list[OperationSnapshot]:
        """Return what has changed its condition by the passing of time alone: stalled, overdue, abandoned."""
        found = []
        for run, operation in list(self._seen.items()):
            was = operation.condition
            if was is Condition.ABANDONED:
                del self._seen[run]  # should its worker come back, its next write brings it back too
                continue
            pulse = self._pulses.get(operation.root.info.instance)
            alive, clock = (operation.alive, operation.clock) if pulse is None else moment.liveness_of(pulse)
            now = replace(operation, read_at=moment.now, clock=clock, alive=alive)
            if now.condition is not was:
                self._seen[run] = now
                found.append(now)
        return found

    @repeat_after_fork
    def _read(self, moment: ReadTime, is_aged: bool) -> list[OperationSnapshot]:
        """Return what was committed since the last look; nothing is read when nothing was."""
        with self._handle.acquire(is_query=True) as connection:
            (number,) = connection.execute("PRAGMA data_version").fetchone()
            version = (self._handle.generation, number)
            is_new = version != self._version
            if not is_new and not (is_aged and version != self._pulses_version):
                return []
            if self._handle.journal != self._journal:  # the file is a new one
                self._journal, self._revision = self._handle.journal, -1
                self._seen.clear()
            connection.execute("BEGIN")
            revision, found = self._changed(connection, moment) if is_new else (self._revision, [])
            if is_aged:
                owners = {operation.root.info.instance for operation in (*self._seen.values(), *found)}
                self._pulses = reader.heartbeats(connection, owners)
                self._pulses_version = version
            connection.execute("COMMIT")
            self._version, self._revision = version, revision  # at the end, as a use that fails is repeated
        return found

    def _changed(
        self, connection: sqlite3.Connection, moment: ReadTime
    ) -> tuple[int, list[OperationSnapshot]]:
        """Return the newest revision with the operations that have changed since the last one."""
        newest = reader.revision(connection)
        if self._revision < 0:
            changed = reader.active(connection, moment)
        else:
            changed = reader.changed(connection, self._revision, moment) if newest != self._revision else []
        return newest, reader.with_levels(connection, changed) if self._levels else [
            operation for _, operation in changed
        ]
