"""Cancel requests and deletion in a journal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal import Journal
from otel_progress.model import Status
from otel_progress.operations import Condition
from otel_progress.processes import UNVERIFIED_TIMEOUT_S, current_instance, this_host
from otel_progress.protocols import HistoryQuery
from otel_progress.records import CancelRequest
from tests.support.factories import (
    WALL,
    batch_info,
    ended,
    event,
    instance,
    local_instance,
    log,
    make_change_set,
    resource_use,
    sample,
    snapshot,
)
from tests.support.fake_time import FakeTime


def test_cancel_request_is_returned_to_process_and_readers(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """The process receives it after its next write, and readers see its time."""
    worker, server = open_another(), open_another()
    worker.write(make_change_set(snapshot(), snapshot(operation_id="o2", run="r2")))
    assert list(worker.cancel_requests("instance-1")) == []
    fake_time.pass_(5.0)
    assert server.request_cancel("friday-42", "takes too long") is True
    worker.write(make_change_set())
    expected = [CancelRequest("run-1", "friday-42", "takes too long", WALL + 5)]
    assert list(worker.cancel_requests("instance-1")) == expected
    assert list(worker.cancel_requests("instance-1")) == expected
    assert list(worker.cancel_requests("other")) == []
    views = [server.get("friday-42"), server.active()[-1], server.active(levels=False)[-1]]
    assert [view and view.cancel_requested_at for view in views] == [WALL + 5] * 3
    assert [view.cancel_requested_at for view in server.active() if view.operation_id == "o2"] == [None]


def test_cancel_request_of_same_process_is_returned(journal: Journal) -> None:
    """A process that serves its own page sends requests to itself."""
    journal.write(make_change_set(snapshot()))
    assert list(journal.cancel_requests("instance-1")) == []
    assert journal.request_cancel("friday-42", "") is True
    assert [request.run for request in journal.cancel_requests("instance-1")] == ["run-1"]


def test_cancel_requests_before_first_write_are_returned(open_another: Callable[..., Journal]) -> None:
    """The result does not depend on earlier uses of the journal."""
    assert list(open_another().cancel_requests("instance-1")) == []
    worker = open_another()
    worker.write(make_change_set(snapshot()))
    worker.request_cancel("friday-42", "stop")
    assert [request.reason for request in open_another().cancel_requests("instance-1")] == ["stop"]


def test_cancel_request_in_a_change_set_is_visible_to_all_readers(
    open_another: Callable[..., Journal],
) -> None:
    """It may arrive with the start or the end of its run. The first one is kept."""
    worker, server = open_another(), open_another()
    first = CancelRequest("run-1", "friday-42", "enough", WALL + 1)
    worker.write(make_change_set(snapshot(), cancel_requests=[first]))
    for reader in (worker, server):
        views = [reader.get("friday-42"), *reader.active(), *reader.active(levels=False)]
        assert [view and view.cancel_requested_at for view in views] == [WALL + 1] * 3
    assert server.request_cancel("friday-42", "again") is True
    worker.write(make_change_set(cancel_requests=[replace(first, at=WALL + 9)]))
    assert server.get("friday-42").cancel_requested_at == WALL + 1  # type: ignore[union-attr]
    last = CancelRequest("run-2", "friday-42", "\ud800 enough", WALL + 2)
    worker.write(make_change_set(ended(run="run-2"), cancel_requests=[last]))
    assert server.get("friday-42").cancel_requested_at == WALL + 2  # type: ignore[union-attr]
    assert [view.cancel_requested_at for view in server.history(HistoryQuery())] == [WALL + 2]


def test_cancel_request_of_an_unknown_run_is_ignored(journal: Journal) -> None:
    """The operation may have been deleted."""
    journal.write(make_change_set(cancel_requests=[CancelRequest("lost", "lost", "", WALL)]))
    assert journal.get("lost") is None


def test_watch_yields_an_operation_with_a_new_cancel_request(open_another: Callable[..., Journal]) -> None:
    """Its levels need not have changed."""
    worker, server = open_another(), open_another()
    worker.write(make_change_set(snapshot()))
    watch = server.watch(0.0)
    next(watch)
    worker.write(make_change_set(cancel_requests=[CancelRequest("run-1", "friday-42", "", WALL + 3)]))
    assert [view.cancel_requested_at for view in next(watch)] == [WALL + 3]


def test_second_cancel_request_keeps_the_first(journal: Journal, fake_time: FakeTime) -> None:
    """Neither time nor reason change."""
    journal.write(make_change_set(snapshot()))
    journal.request_cancel("friday-42", "first")
    fake_time.pass_(9.0)
    assert journal.request_cancel("friday-42", "second") is True
    assert [(request.reason, request.at) for request in journal.cancel_requests("instance-1")] == [
        ("first", WALL)
    ]


def test_cancel_request_without_active_run_returns_false(journal: Journal) -> None:
    """A new run does not inherit the request of an ended one."""
    assert journal.request_cancel("friday-42", "too early") is False
    journal.write(make_change_set(snapshot(run="run-1")))
    journal.request_cancel("friday-42", "stop")
    journal.write(make_change_set(ended(run="run-1")))
    assert list(journal.cancel_requests("instance-1")) == []
    assert journal.request_cancel("friday-42", "too late") is False
    journal.write(make_change_set(snapshot(run="run-2")))
    assert list(journal.cancel_requests("instance-1")) == []
    assert journal.get("friday-42").cancel_requested_at is None  # type: ignore[union-attr]
    assert [operation.cancel_requested_at for operation in journal.history()] == [WALL]


def test_watch_after_cancel_request_yields_operation_once(open_another: Callable[..., Journal]) -> None:
    """The operation is yielded although its process has written nothing."""
    journal = open_another()
    journal.write(make_change_set(snapshot(), snapshot(operation_id="o2", run="r2")))
    watch = journal.watch()
    next(watch)
    open_another().request_cancel("friday-42", "stop")
    assert [(operation.run, operation.cancel_requested_at) for operation in next(watch)] == [("run-1", WALL)]
    open_another().request_cancel("friday-42", "stop, I said")
    assert list(next(watch)) == []
    watch.close()


def test_cancel_request_with_long_invalid_reason_is_truncated(journal: Journal) -> None:
    """Lone surrogates are escaped."""
    journal.write(make_change_set(snapshot()))
    journal.request_cancel("friday-42", "\ud83d" + "x" * 10_000_000)
    (request,) = journal.cancel_requests("instance-1")
    assert request.reason.startswith("\\ud83dxxx")
    assert len(request.reason) == 1024


def test_delete_with_ended_runs_removes_all_their_records(journal: Journal) -> None:
    """Active runs and other operations are kept."""
    for number in (1, 2):
        run = f"run-{number}"
        journal.write(make_change_set(snapshot(run=run)))
        journal.request_cancel("friday-42", "stop")
        journal.write(
            make_change_set(
                ended(run=run), ended("song:1", run=run), events=[event(1, run=run)], logs=[log(1, run=run)]
            )
        )
    journal.write(
        make_change_set(
            ended(run="x", operation_id="other"), events=[event(1, run="x", operation_id="other")]
        )
    )
    running = snapshot(run="run-3", batch="thumbnails")
    journal.write(
        make_change_set(
            running,
            snapshot("song:2", run="run-3"),
            events=[event(9, run="run-3")],
            logs=[log(9, run="run-3")],
        )
    )
    assert journal.delete("friday-42") == 2
    assert [operation.run for operation in journal.history()] == ["x"]
    found = journal.get("friday-42")
    assert found is not None
    assert (found.run, [level.path for level in found.levels]) == ("run-3", ["song:2"])
    assert [item.number for item in journal.events("friday-42")] == [9]
    assert [record.number for record in journal.logs("friday-42")] == [9]
    assert len(journal.events("other")) == 1
    assert journal.delete("friday-42") == 0
    assert journal.delete("nobody") == 0


@pytest.mark.process
def test_delete_with_dead_process_of_this_host_removes_run(journal: Journal) -> None:
    """Runs of living processes are kept."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, here = local_instance(process.pid), current_instance("tests")
    journal.write(
        make_change_set(
            snapshot(instance=dead.id), snapshot("song:1", instance=dead.id), instance=dead, events=[event(1)]
        )
    )
    waiting = {"status": Status.PENDING, "started_at": None, "started_clock": None}
    journal.write(make_change_set(snapshot(run="run-2", instance=dead.id, **waiting), instance=dead))
    journal.write(make_change_set(snapshot(run="run-3", instance=here.id), instance=here))
    assert journal.delete("friday-42") == 2
    assert [operation.run for operation in journal.active()] == ["run-3"]
    assert list(journal.events("friday-42")) == []
    assert journal.delete("friday-42") == 0


@pytest.mark.parametrize("known", [True, False], ids=["with a sign of life", "of a process nobody knows"])
def test_delete_with_process_of_another_host_waits_ten_minutes(
    journal: Journal, fake_time: FakeTime, known: bool
) -> None:
    """The process may only have lost its connection to the journal."""
    process = instance() if known else instance("another")
    journal.write(make_change_set(snapshot(), instance=process))
    fake_time.pass_(UNVERIFIED_TIMEOUT_S)
    assert [operation.condition for operation in journal.active()] == [Condition.ABANDONED]
    assert journal.delete("friday-42") == 0
    fake_time.pass_(1.0)
    assert journal.delete("friday-42") == 1
    assert journal.get("friday-42") is None


def test_delete_after_step_of_wall_clock_keeps_runs_of_same_boot(
    journal: Journal, fake_time: FakeTime
) -> None:
    """Heartbeats of containers on this host are compared by the monotonic clock."""
    name, boot, _ = this_host().rsplit("/", 2)
    if not boot:
        pytest.skip("this system has no boot id")
    journal.write(make_change_set(snapshot(), instance=instance(host=f"{name}/{boot}/another")))
    fake_time.pass_(60.0)
    fake_time.now += 86_400.0
    assert journal.delete("friday-42") == 0
    fake_time.clock += UNVERIFIED_TIMEOUT_S
    assert journal.delete("friday-42") == 1


def test_writer_after_deletion_inserts_operation_again(open_another: Callable[..., Journal]) -> None:
    """The cache of the writer does not refer to deleted rows."""
    worker, server = open_another(), open_another()
    worker.write(make_change_set(ended(), ended("song:1"), instance=instance()))
    assert server.delete("friday-42") == 1
    worker.write(
        make_change_set(
            snapshot(run="run-2", sequence=5, current=2), snapshot("song:1", run="run-2", sequence=6)
        )
    )
    worker.write(make_change_set(snapshot(run="run-2", sequence=7, current=3)))
    found = server.get("friday-42")
    assert found is not None
    assert (found.run, found.root.current, len(found.levels)) == ("run-2", 3, 1)


def test_late_records_of_deleted_run_can_be_deleted(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """A child process that still logs leaves no rows that cannot be deleted."""
    parent, child = open_another(), open_another()
    helper = instance("child")
    parent.write(make_change_set(snapshot()))
    child.write(make_change_set(snapshot("song:1", instance="child"), instance=helper))
    parent.write(make_change_set(ended(sequence=9)))
    assert parent.delete("friday-42") == 1
    child.write(
        make_change_set(
            logs=[log(1, "song:1")], events=[event(1)], resources={"run-1": resource_use()}, instance=helper
        )
    )
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    parent.delete("friday-42")
    assert list(parent.logs("friday-42")) == list(parent.events("friday-42")) == []
    assert list(parent.active()) == list(parent.history()) == []


def test_read_only_journal_rejects_requests_and_deletion(open_another: Callable[..., Journal]) -> None:
    """The error says how to open the journal."""
    worker = open_another()
    worker.write(
        make_change_set(
            snapshot(), ended(operation_id="o2", run="r2"), sample=sample(), batches=[batch_info()]
        )
    )
    worker.write(make_change_set(resources={"run-1": resource_use()}))
    reader = open_another(read_only=True)
    with pytest.raises(JournalError, match="without read_only"):
        reader.request_cancel("friday-42", "stop")
    with pytest.raises(JournalError, match="without read_only"):
        reader.delete("o2")
    assert list(worker.cancel_requests("instance-1")) == []
    assert len(reader.history()) == 1
