"""Requests about batches over REST: cancel, close, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import otel_progress as progress
from otel_progress.journal import SqliteJournal
from otel_progress.testing import Recorder
from tests.support.factories import WALL, batch_info, ended, make_change_set, snapshot

NIGHT = "/api/v1/batches/night"


def fill(journal: SqliteJournal, *, is_running: bool) -> None:
    """Write an open batch with two operations."""
    members = [ended(operation_id="a", run="a", id="a", batch="night")]
    if is_running:
        members.append(snapshot(operation_id="b", run="b", id="b", batch="night"))
    journal.write(make_change_set(*members, batches=[batch_info("night", total=None)]))


def test_open_batch_is_closed_and_deleted(client: Any, journal: SqliteJournal) -> None:
    fill(journal, is_running=False)
    assert client.json(NIGHT)["status"] == "running"
    assert client.post(f"{NIGHT}/close").json() == {"schema": "otel-progress/1", "batch_id": "night"}
    assert (client.json(NIGHT)["status"], client.json(NIGHT)["abandoned"]) == ("completed", 0)
    client.problem(409, f"{NIGHT}/close", "POST")
    assert client.delete(NIGHT).status_code == 204
    client.problem(404, NIGHT)
    client.problem(404, NIGHT, "DELETE")
    assert journal.get("a") is None


def test_cancel_reaches_all_active_operations(client: Any, journal: SqliteJournal) -> None:
    fill(journal, is_running=True)
    answer = client.post(f"{NIGHT}/cancel", json={"reason": "too late"})
    assert (answer.status_code, answer.json()["operations"]) == (202, 1)
    assert [request.reason for request in journal.cancel_requests("instance-1")] == ["too late"]
    client.problem(409, NIGHT, "DELETE")
    journal.write(make_change_set(ended(operation_id="b", run="b", id="b", batch="night", ended_at=WALL)))
    client.problem(409, f"{NIGHT}/cancel", "POST")


def test_unknown_batch_is_not_found(client: Any) -> None:
    for path, method in ((f"{NIGHT}/cancel", "POST"), (f"{NIGHT}/close", "POST"), (NIGHT, "DELETE")):
        client.problem(404, path, method)


def test_requests_on_a_live_store_reach_the_batch(recorder: Recorder, serve: Callable[..., Any]) -> None:
    reader = recorder.runtime.reader
    client = serve(reader, controller=reader)
    batch = progress.batch("Night", id="night").start()
    with batch.operation("job", id="a") as op:
        assert client.post(f"{NIGHT}/cancel", json={}).json()["operations"] == 1
        assert op.cancel_requested
        client.problem(409, NIGHT, "DELETE")
    assert client.post(f"{NIGHT}/close").status_code == 200
    assert batch.snapshot().is_finished
    assert client.delete(NIGHT).status_code == 204
    client.problem(404, NIGHT)
