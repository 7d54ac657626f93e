"""Journals that are there before somebody reads them."""

from __future__ import annotations

from contextlib import closing

from otel_progress.journal import open_journal
from tests.support.factories import batch


def make_journal(store: str) -> None:
    """Make the journal at this URL where it is not there yet: no server starts without one, and a worker may take its time."""
    with closing(open_journal(store)) as journal:
        journal.write(batch())
