"""Watching an SQLite journal while the process forks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from otel_progress.journal import Journal
from otel_progress.journal.sqlite import reader
from otel_progress.journal.sqlite.connection import StoppedByForkError
from otel_progress.operations import OperationSnapshot
from tests.support.factories import make_change_set, snapshot


def _get_sequences(operations: list[OperationSnapshot]) -> list[tuple[str, int]]:
    return sorted((operation.operation_id, operation.root.sequence) for operation in operations)


def test_watch_stopped_by_fork_repeats_poll(
    open_another: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No change is lost."""
    writer, watch = open_another(), open_another().watch()
    writer.write(make_change_set(snapshot()))
    assert _get_sequences(next(watch)) == [("friday-42", 1)]
    writer.write(make_change_set(snapshot(sequence=2)))
    add_levels, stops = reader.add_levels, [1]

    def stopped(*arguments: Any) -> Any:
        if stops:
            stops.pop()
            raise StoppedByForkError
        return add_levels(*arguments)

    monkeypatch.setattr(reader, "add_levels", stopped)
    assert _get_sequences(next(watch)) == [("friday-42", 2)]
    assert stops == []
    watch.close()
