"""Journals that must exist before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from otel_progress.journal import SqliteJournal, open_journal
from tests.support.factories import WALL, make_change_set, snapshot
from tests.support.journal_processes import PATIENT


def make_journal(store: str) -> None:
    """Create the journal at this URL if missing. No server starts without one."""
    with closing(open_journal(store)) as journal:
        journal.write(make_change_set())


@contextmanager
def open_written_journal(path: Path) -> Iterator[SqliteJournal]:
    """Yield an open journal with an operation and a level at sequence 1."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(make_change_set(snapshot(), snapshot("song:1")))
    yield journal
    journal.close()


def read_sequence(journal: SqliteJournal) -> int:
    """Return the sequence number of that operation."""
    found = journal.get("friday-42")
    assert found is not None
    return found.root.sequence
