"""Cancel requests that are made while the journal cannot be written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.journal import open_journal
from otel_progress.operations import OperationSnapshot
from otel_progress.runtime.runtime import Runtime

PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Runtime with a real journal, which the test ticks."""
    with progress.configure(store=f"sqlite:///{tmp_path}/progress.db", console=False) as runtime:
        runtime._ticker.set_background(False)
        yield runtime


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes for a long time."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def read_journal(path: Path, operation_id: str) -> OperationSnapshot:
    """Return an operation as another process reads it."""
    with closing(open_journal(f"sqlite:///{path}", read_only=True)) as journal:
        found = journal.get(operation_id)
    assert found is not None
    return found


def test_request_made_during_an_outage_is_in_the_journal_after_it(runtime: Runtime, tmp_path: Path) -> None:
    """The request of an operation that ends during the outage is included."""
    path = tmp_path / "progress.db"
    running = progress.operation("job", id="running").start()
    ending = progress.operation("job", id="ending").start()
    assert runtime.force_flush(PATIENCE_S)
    with locked(path):
        assert runtime.request_cancel("running", "no more disk")
        assert runtime.request_cancel("ending", "wrong input")
        assert runtime.force_flush(0.05) is False
        ending.cancel()
        for _ in range(3):
            runtime._ticker.tick()
        assert runtime.force_flush(0.05) is False
        assert runtime.request_cancel("running", "a second request")
        assert read_journal(path, "running").cancel_requested_at is None
    assert runtime.force_flush(PATIENCE_S)
    for operation_id in ("running", "ending"):
        live, stored = runtime.get_operation(operation_id), read_journal(path, operation_id)
        assert live is not None
        assert stored.cancel_requested_at is not None
        assert stored.cancel_requested_at == pytest.approx(live.cancel_requested_at, abs=1e-3)
    assert running.cancel_requested
    running.cancel()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed")
def test_request_is_in_the_journal_that_replaces_a_removed_one(runtime: Runtime, tmp_path: Path) -> None:
    """The file with the request was removed, so the request is sent again."""
    path = tmp_path / "progress.db"
    running = progress.operation("job", id="running").start()
    assert runtime.request_cancel("running", "no more disk")
    assert runtime.force_flush(PATIENCE_S)
    assert read_journal(path, "running").cancel_requested_at is not None
    for file in tmp_path.glob("progress.db*"):
        file.unlink()
    for _ in range(3):  # the first write finds the loss, a later one repairs it
        running.increment()
        runtime.force_flush(PATIENCE_S)
    assert runtime.force_flush(PATIENCE_S)
    stored = read_journal(path, "running")
    assert stored.cancel_requested_at is not None
    assert stored.root.current == 3
    running.cancel()
