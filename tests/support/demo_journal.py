"""What is left of a survey."""

from __future__ import annotations

from otel_progress.journal import open_journal
from otel_progress.operations import OperationSnapshot

PATIENCE_S = 60.0
"""How long anything may take that is waited for: far longer than it does, as the machine may be busy."""


def kept(store: str) -> OperationSnapshot:
    """Return the one survey a journal has, with its levels."""
    journal = open_journal(store, read_only=True)
    try:
        (ended,) = journal.history()
        found = journal.get(ended.operation_id)
        assert found is not None
        return found
    finally:
        journal.close()
