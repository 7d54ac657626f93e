"""Runs that several processes write one after another, as tasks of a queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from otel_progress.journal import Journal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import Condition
from otel_progress.processes import HEARTBEAT_TIMEOUT_S, UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import HistoryQuery
from tests.support.factories import batch_info, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime

FIRST, SECOND = 10**12, 2 * 10**12


def _root(
    sequence: int, status: Status = Status.RUNNING, owner: str = "queue", attempt: int = 1
) -> LevelSnapshot:
    end = {"ended_at": 1.0, "duration_s": 1.0} if status.finished else {}
    return snapshot(
        sequence=sequence, status=status, instance=owner, attempt=attempt, batch="thumbnails", **end
    )


def _write(
    journal: Journal, process: str, *roots: LevelSnapshot, relayed: tuple[LevelSnapshot, ...] = ()
) -> None:
    change_set = make_change_set(*roots, instance=instance(process), batches=[batch_info(total=1)])
    journal.write(replace(change_set, relayed=relayed))


def _read(journal: Journal) -> tuple[Status, int, str]:
    found = journal.get("friday-42")
    batch = journal.batch("thumbnails")
    assert found is not None
    assert batch is not None
    assert {status: count for status, count in batch.counts.items() if count} == {found.status: 1}
    is_listed = [each.run for each in journal.history(HistoryQuery())] == ["run-1"]
    assert is_listed is found.status.finished
    assert [each.run for each in journal.active()] == ([] if found.status.finished else ["run-1"])
    return found.status, found.root.info.attempt, found.root.info.instance


def test_pending_run_is_continued_by_another_process(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """It is never abandoned, and a late copy of the pending state changes nothing."""
    sender, worker = open_another(), open_another()
    pending = _root(FIRST, Status.PENDING)
    _write(sender, "sender", relayed=(pending,))
    assert _read(sender) == (Status.PENDING, 1, "queue")
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    found, batch = worker.get("friday-42"), worker.batch("thumbnails")
    assert found is not None
    assert batch is not None
    assert (found.condition, batch.abandoned, batch.is_finished) == (Condition.OK, 0, False)
    _write(worker, "worker", _root(FIRST + 1, owner="worker"))
    assert _read(sender) == (Status.RUNNING, 1, "worker")
    _write(sender, "sender", relayed=(pending,))
    assert _read(worker) == (Status.RUNNING, 1, "worker")
    _write(worker, "worker", _root(FIRST + 2, Status.COMPLETED, "worker"))
    _write(sender, "sender", relayed=(pending,))
    assert _read(sender) == (Status.COMPLETED, 1, "worker")


def test_pending_state_that_is_written_after_the_end_changes_nothing(
    open_another: Callable[..., Journal],
) -> None:
    sender, worker = open_another(), open_another()
    _write(worker, "worker", _root(FIRST + 2, Status.COMPLETED, "worker"))
    _write(sender, "sender", relayed=(_root(FIRST, Status.PENDING),))
    assert _read(sender) == (Status.COMPLETED, 1, "worker")


def test_next_attempt_reopens_the_run(open_another: Callable[..., Journal]) -> None:
    """The end of the first attempt, written late, changes nothing."""
    first, second = open_another(), open_another()
    _write(first, "first", _root(FIRST + 1, owner="first"))
    end = _root(FIRST + 2, Status.CANCELLED, "first")
    _write(first, "first", end, relayed=(_root(SECOND, Status.PENDING, attempt=2),))
    assert _read(second) == (Status.PENDING, 2, "queue")
    _write(second, "second", _root(SECOND + 1, owner="second", attempt=2))
    _write(first, "first", end)
    assert _read(first) == (Status.RUNNING, 2, "second")
    _write(second, "second", _root(SECOND + 2, Status.COMPLETED, "second", 2))
    _write(first, "first", end)
    assert _read(first) == (Status.COMPLETED, 2, "second")


def test_next_attempt_reopens_a_run_whose_end_was_written(open_another: Callable[..., Journal]) -> None:
    first, second = open_another(), open_another()
    _write(first, "first", _root(FIRST + 2, Status.FAILED, "first"))
    assert _read(first) == (Status.FAILED, 1, "first")
    _write(second, "second", _root(SECOND + 1, owner="second", attempt=2))
    assert _read(first) == (Status.RUNNING, 2, "second")


def test_end_by_another_process_has_precedence(open_another: Callable[..., Journal]) -> None:
    """The process that was believed to be killed writes its own end afterwards."""
    child, main = open_another(), open_another()
    _write(child, "child", _root(FIRST + 1, owner="child"), snapshot("part:1", FIRST + 2, instance="child"))
    ends = (
        _root(FIRST + 10**9, Status.FAILED, "child"),
        snapshot(
            "part:1", FIRST + 10**9, status=Status.CANCELLED, instance="child", ended_at=1.0, duration_s=1.0
        ),
    )
    _write(main, "main", relayed=ends)
    assert _read(child) == (Status.FAILED, 1, "child")
    _write(child, "child", _root(FIRST + 5, Status.CANCELLED, "child"))
    assert _read(main) == (Status.FAILED, 1, "child")
    found = main.get("friday-42")
    assert found is not None
    assert [level.status for level in found.levels] == [Status.CANCELLED]


def test_watch_yields_each_state(open_another: Callable[..., Journal]) -> None:
    sender, worker, reader = open_another(), open_another(), open_another()
    watch = reader.watch(interval=0.01)
    next(watch)
    seen = []
    for write in (
        lambda: _write(sender, "sender", relayed=(_root(FIRST, Status.PENDING),)),
        lambda: _write(worker, "worker", _root(FIRST + 1, owner="worker")),
        lambda: _write(worker, "worker", _root(FIRST + 2, Status.CANCELLED, "worker")),
        lambda: _write(worker, "worker", relayed=(_root(SECOND, Status.PENDING, attempt=2),)),
    ):
        write()
        changed = next(each for each in watch if each)
        seen.append(changed[0].status)
    assert seen == [Status.PENDING, Status.RUNNING, Status.CANCELLED, Status.PENDING]


def test_request_to_cancel_a_pending_run_reaches_the_process_that_starts_it(
    open_another: Callable[..., Journal],
) -> None:
    sender, worker = open_another(), open_another()
    _write(sender, "sender", relayed=(_root(FIRST, Status.PENDING),))
    assert sender.request_cancel("friday-42", "not needed") is True
    assert list(worker.cancel_requests("worker")) == []
    _write(worker, "worker", _root(FIRST + 1, owner="worker"))
    assert [(each.run, each.reason) for each in worker.cancel_requests("worker")] == [("run-1", "not needed")]
    assert list(sender.cancel_requests("sender")) == []
    _write(worker, "worker", _root(FIRST + 2, Status.CANCELLED, "worker"))
    assert list(worker.cancel_requests("worker")) == []


def test_old_pending_run_can_be_marked_as_failed(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Its message may be lost."""
    sender = open_another()
    _write(sender, "sender", relayed=(_root(FIRST, Status.PENDING),))
    assert sender.fail_abandoned("friday-42", "the message is lost") is False
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    assert sender.fail_abandoned("friday-42", "the message is lost") is True
    assert _read(sender) == (Status.FAILED, 1, "queue")
