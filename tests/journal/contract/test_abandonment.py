"""Abandoned runs that are marked as failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from otel_progress.journal import Journal
from otel_progress.model import Status
from otel_progress.operations import Condition
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import ChangeSet
from tests.support.factories import WALL, ended, instance, local_instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime


def _change(process_id: str, **fields: object) -> ChangeSet:
    root = snapshot(instance=process_id, batch="night", **fields)
    return make_change_set(
        root, snapshot("song:1", instance=process_id), instance=instance(process_id), at=WALL
    )


def test_abandoned_run_is_marked_as_failed_for_all_readers(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Queries, history, batches and watches have the same result."""
    writer, reader = open_another(), open_another()
    writer.write(_change("gone"))
    watch = reader.watch()
    assert [operation.status for operation in next(watch)] == [Status.RUNNING]
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    found = reader.get("friday-42")
    assert found is not None
    assert found.condition is Condition.ABANDONED
    assert writer.fail_abandoned("friday-42", "out of memory") is True
    views = [reader.get("friday-42"), *reader.history(), *next(watch)]
    for view in views:
        assert view is not None
        assert (view.status, view.condition) == (Status.FAILED, Condition.OK)
        assert view.root.error is not None
        assert (view.root.error.type, view.root.error.message) == ("Abandoned", "out of memory")
        assert view.root.eta is None
        assert view.root.ended_at == WALL + UNVERIFIED_TIMEOUT_S + 1
    assert len(views) >= 3
    assert not reader.active()
    found = reader.get("friday-42")
    assert found is not None
    assert [level.status for level in found.levels] == [Status.CANCELLED]
    batch = reader.batch("night")
    assert batch is not None
    assert batch.counts[Status.FAILED] == 1
    assert writer.fail_abandoned("friday-42", "again") is False
    watch.close()  # type: ignore[attr-defined]


def test_deep_levels_of_an_abandoned_run_are_cancelled(journal: Journal, fake_time: FakeTime) -> None:
    """Journals store long paths in another form."""
    levels = [
        snapshot("/".join(f"folder:{number:03}" for number in range(depth)), instance="gone")
        for depth in range(1, 90)
    ]
    journal.write(make_change_set(snapshot(instance="gone"), *levels, instance=instance("gone"), at=WALL))
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    assert journal.fail_abandoned("friday-42", "out of memory") is True
    found = journal.get("friday-42")
    assert found is not None
    assert {level.status for level in found.levels} == {Status.CANCELLED}
    assert {level.path for level in found.levels} == {level.path for level in levels}


def test_run_that_may_be_active_is_not_marked(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """A process of another host may only be disconnected."""
    journal = open_another()
    journal.write(_change("elsewhere"))
    assert journal.fail_abandoned("friday-42", "") is False
    fake_time.pass_(60.0)
    found = journal.get("friday-42")
    assert found is not None
    assert not found.alive
    assert journal.fail_abandoned("friday-42", "") is False
    assert journal.fail_abandoned("unknown", "") is False
    found = journal.get("friday-42")
    assert found is not None
    assert found.status is Status.RUNNING


@pytest.mark.process
def test_run_of_ended_local_process_is_marked_immediately(open_another: Callable[..., Journal]) -> None:
    """The running process is the control. Without a reason, the error names the cause."""
    journal = open_another()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        here = local_instance(process.pid)
        root = snapshot(instance=here.id, current=3)
        journal.write(make_change_set(root, instance=here, at=WALL))
        assert journal.fail_abandoned("friday-42", "") is False
        process.communicate(b"\n")
    assert journal.fail_abandoned("friday-42", "") is True
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.error is not None
    assert (found.root.current, found.root.error.message) == (3, "its process exited without an end")


def test_ended_run_is_not_changed(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    journal = open_another()
    journal.write(make_change_set(ended(ended_at=WALL)))
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    assert journal.fail_abandoned("friday-42", "late") is False
    found = journal.get("friday-42")
    assert found is not None
    assert found.status is Status.COMPLETED
