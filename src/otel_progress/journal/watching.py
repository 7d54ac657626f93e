"""Follows a journal: everything active once, then whatever changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from otel_progress.errors import JournalError
from otel_progress.journal import queries
from otel_progress.journal.handle import Handle
from otel_progress.journal.liveness import Moment, Pulse
from otel_progress.model import Condition, OperationSnapshot


class Watcher:
    """One watch: its own connection, what was last seen of each active operation, and of each process."""

    def __init__(self, path: Path, moment: Callable[[], Moment], *, read_only: bool) -> None:
        self._path = path
        self._handle = Handle(path, read_only=read_only)
        self._moment = moment
        self._version: tuple[int, int] | None = None
        self._journal: str | None = None
        self._revision = -1
        self._seen: dict[str, tuple[OperationSnapshot, Condition]] = {}
        self._pulses: dict[str, Pulse] = {}

    def follow(self, interval: float, sleep: Callable[[float], None]) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield what ``Reader.watch`` promises, until closed."""
        try:
            yield self._look(self._moment())
            while True:
                sleep(interval)
                try:
                    found = self._look(self._moment())
                except JournalError:
                    if self._path.exists():
                        raise
                    found = []  # moved away by somebody: the worker makes a new one on its next tick
                yield found
        finally:
            with suppress(JournalError):
                self._handle.close()

    def _look(self, moment: Moment) -> list[OperationSnapshot]:
        found = self._read(moment)
        news = {operation.run for operation in found}
        found += [operation for operation in self._aged(moment) if operation.run not in news]
        for operation in found:
            condition = operation.condition
            if operation.status.finished or condition is Condition.ABANDONED:
                self._seen.pop(operation.run, None)  # should its worker come back, its next write brings it back too
            else:
                self._seen[operation.run] = operation, condition
        return found

    def _aged(self, moment: Moment) -> Iterator[OperationSnapshot]:
        """Yield what has changed its condition by the passing of time alone: stalled, overdue, abandoned."""
        for operation, condition in self._seen.values():
            pulse = self._pulses.get(operation.root.info.instance)
            alive, clock = (operation.alive, operation.clock) if pulse is None else moment.of(pulse)
            now = replace(operation, read_at=moment.now, clock=clock, alive=alive)
            if now.condition is not condition:
                yield now

    def _read(self, moment: Moment) -> list[OperationSnapshot]:
        """Return what was committed since the last look; nothing is read when nothing was."""
        with self._handle.use() as connection:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if (self._handle.generation, version) == self._version:
                return []
            if self._handle.journal != self._journal:  # the file is a new one
                self._journal, self._revision = self._handle.journal, -1
                self._seen.clear()
            connection.execute("BEGIN")
            self._pulses = queries.pulses(connection)
            newest = queries.revision(connection)
            if self._revision < 0:
                changed = queries.active(connection, moment)
            else:
                changed = queries.changed(connection, self._revision, moment) if newest != self._revision else []
            found = queries.with_levels(connection, changed)
            connection.execute("COMMIT")
            self._version, self._revision = (self._handle.generation, version), newest
        return found
