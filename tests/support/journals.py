"""Journals that must exist before they are read."""

from __future__ import annotations

from contextlib import closing

from otel_progress.journal import open_journal
from tests.support.factories import make_change_set


def make_journal(store: str) -> None:
    """Create the journal at this URL if missing. No server starts without one."""
    with closing(open_journal(store)) as journal:
        journal.write(make_change_set())
