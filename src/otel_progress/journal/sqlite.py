"""The journal of one machine: an SQLite file that any number of processes write and read at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from otel_progress.errors import JournalError
from otel_progress.journal import queries
from otel_progress.journal.handle import Handle
from otel_progress.journal.liveness import Moment
from otel_progress.journal.retention import Retention
from otel_progress.journal.watching import Watcher
from otel_progress.journal.writing import Writer
from otel_progress.model import Event, OperationSnapshot, Outcome
from otel_progress.protocols import Batch

DEFAULT_RETENTION_S: Final = 86_400.0
"""How long ended operations are kept, in seconds."""
DEFAULT_MAX_BYTES: Final = 256 * 1024 * 1024
"""Size of the file from which the oldest ended operations go early; the write-ahead log beside it takes some 8 MiB more."""


class SqliteJournal:
    """A Sink and a Reader over one file in write-ahead mode: readers never wait, writers take turns for milliseconds.

    The file is opened at the first use, and again after anything that went wrong. Every method raises JournalError
    with what is wrong and what to do. ``now`` gives Unix seconds, ``clock`` monotonic ones.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = DEFAULT_RETENTION_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        read_only: bool = False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._read_only = read_only
        self._writing = Handle(path, tells_loss=True)
        self._reading = Handle(path, read_only=read_only)
        self._writer = Writer()
        self._generation = 0
        self._retention = Retention(retention_s, max_bytes)

    @property
    def dropped(self) -> int:
        """Operations and events deleted before their time because the file had grown too large."""
        return self._retention.dropped

    def check(self) -> None:
        """Open the file for reading. Raises JournalError when that is not possible, so that a command can say so at once."""
        with self._reading.use():
            pass

    def write(self, batch: Batch) -> None:
        """Keep a batch, in one transaction: all of it, or nothing and a JournalError."""
        if self._read_only:
            msg = f"{self.path} was opened for reading only. Open the journal without read_only to write."
            raise JournalError(msg)
        with self._writing.transaction("IMMEDIATE") as connection:
            if self._generation != self._writing.generation:
                self._writer.forget()
                self._generation = self._writing.generation
            self._writer.write(connection, batch)
        with self._writing.use() as connection:
            moment = self._moment()
            if self._retention.is_due(connection, moment.clock):
                self._retention.run(connection, moment)

    def close(self) -> None:
        """Close the file; the last process to do so folds the write-ahead log into it."""
        self._writing.close()
        self._reading.close()

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""
        with self._reading.transaction("DEFERRED") as connection:
            return queries.newest_run(connection, operation_id, self._moment())

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, newest first; without their levels when ``levels`` is False."""
        with self._reading.transaction("DEFERRED") as connection:
            found = queries.active(connection, self._moment())
            return queries.with_levels(connection, found) if levels else [operation for _, operation in found]

    def history(self, operation_type: str | None = None, limit: int = 100) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels."""
        with self._reading.transaction("DEFERRED") as connection:
            return queries.history(connection, operation_type, max(0, limit), self._moment())

    def events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest ``limit`` events of the newest run, oldest first; ``level`` is a path and includes what is below."""
        with self._reading.transaction("DEFERRED") as connection:
            return queries.events(connection, operation_id, level, outcome, since, max(0, limit))

    def watch(self, interval: float = 0.25) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield what is active, then at most every ``interval`` seconds what changed, also by time alone (stalled, abandoned)."""
        return Watcher(self.path, self._moment, read_only=self._read_only).follow(interval, self._sleep)

    def _moment(self) -> Moment:
        return Moment(self._now(), self._clock())
