"""Results of the demo survey."""

from __future__ import annotations

from otel_progress.journal import open_journal
from otel_progress.operations import OperationSnapshot

PATIENCE_S = 60.0
"""Deadline for waits, generous because the machine may be busy."""


def kept(store: str) -> OperationSnapshot:
    """Return the only survey of a journal, with its levels."""
    journal = open_journal(store, read_only=True)
    try:
        (ended,) = journal.history()
        found = journal.get(ended.operation_id)
        assert found is not None
        return found
    finally:
        journal.close()
