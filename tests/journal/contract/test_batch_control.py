"""Batches with abandoned operations, requests about batches, and further runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otel_progress.journal import Journal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import ChangeSet
from tests.support.factories import WALL, batch_info, ended, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime

Opener = Callable[..., Journal]

SILENCE_S = 60.0
"""Time after which a process of another host counts as dead."""


def member(number: int, process: str = "instance-1", **fields: object) -> LevelSnapshot:
    """Return a running operation of the batch."""
    names = {"operation_id": f"o{number}", "run": f"r{number}", "id": f"o{number}"}
    return snapshot(batch="thumbnails", instance=process, **names, **fields)


def ended_member(number: int, process: str = "instance-1", **fields: object) -> LevelSnapshot:
    """Return an ended operation of the batch."""
    names = {"operation_id": f"o{number}", "run": f"r{number}", "id": f"o{number}"}
    return ended(batch="thumbnails", instance=process, **names, **{"ended_at": WALL + number, **fields})


def change(*snapshots: LevelSnapshot, process: str = "instance-1", **fields: object) -> ChangeSet:
    """Return a change set of a process of another host."""
    return make_change_set(*snapshots, instance=instance(process), **fields)


def read(journal: Journal) -> BatchSnapshot:
    """Return the batch. The list has the same figures."""
    found = journal.batch("thumbnails")
    assert found is not None
    (listed,) = [batch for batch in journal.batches() if batch.id == "thumbnails"]
    assert (listed.abandoned, listed.is_finished, listed.ended_at, listed.counts) == (
        found.abandoned,
        found.is_finished,
        found.ended_at,
        found.counts,
    )
    return found


# --- abandoned operations ------------------------------------------------------------------------


def test_closed_batch_with_abandoned_operation_ends_as_failed(
    open_another: Opener, fake_time: FakeTime
) -> None:
    """Its end is the last heartbeat of the dead process."""
    journal = open_another()
    journal.write(change(member(1, "lost"), process="lost", at=WALL + 2))
    journal.write(change(ended_member(2), batches=[batch_info(total=9, ended_at=WALL + 1)]))
    assert not read(journal).is_finished
    fake_time.pass_(SILENCE_S)
    found = read(journal)
    assert (found.is_finished, found.status, found.abandoned) == (True, Status.FAILED, 1)
    assert found.ended_at == WALL + 2
    assert (found.counts[Status.RUNNING], found.counts[Status.COMPLETED]) == (1, 1)
    assert found.remaining_s == 0.0
    assert [operation.operation_id for operation in found.active] == ["o1"]


def test_batch_whose_total_is_reached_with_abandoned_operations_ends(
    open_another: Opener, fake_time: FakeTime
) -> None:
    """It was not closed, because its process is dead too."""
    journal = open_another()
    journal.write(change(member(1), ended_member(2), batches=[batch_info(total=2)]))
    fake_time.pass_(SILENCE_S)
    assert read(journal).is_finished


def test_batch_waits_for_an_operation_of_a_live_process(open_another: Opener, fake_time: FakeTime) -> None:
    journal = open_another()
    journal.write(change(member(1, "lost"), process="lost"))
    journal.write(change(member(2), batches=[batch_info(ended_at=WALL + 1)]))
    fake_time.pass_(SILENCE_S)
    journal.write(change(at=fake_time.now, clock=fake_time.clock))
    found = read(journal)
    assert (found.is_finished, found.status, found.abandoned) == (False, Status.RUNNING, 1)


def test_batch_with_a_process_that_reports_again_is_running(
    open_another: Opener, fake_time: FakeTime
) -> None:
    journal = open_another()
    journal.write(change(member(1), batches=[batch_info(ended_at=WALL + 1)]))
    fake_time.pass_(SILENCE_S)
    assert read(journal).is_finished
    journal.write(change(at=fake_time.now, clock=fake_time.clock))
    assert not read(journal).is_finished
    journal.write(change(ended_member(1), at=fake_time.now, clock=fake_time.clock))
    assert (read(journal).status, read(journal).abandoned) == (Status.COMPLETED, 0)


def test_batch_with_many_abandoned_operations_counts_all(open_another: Opener, fake_time: FakeTime) -> None:
    """More than a batch lists."""
    journal = open_another()
    members = [member(number) for number in range(130)]
    journal.write(change(*members, batches=[batch_info(ended_at=WALL + 1)]))
    fake_time.pass_(SILENCE_S)
    assert (read(journal).abandoned, read(journal).is_finished) == (130, True)


# --- requests ------------------------------------------------------------------------------------


def test_open_batch_is_closed_once(open_another: Opener, fake_time: FakeTime) -> None:
    """A later declaration of its process does not open it."""
    journal, other = open_another(), open_another()
    journal.write(change(ended_member(1), batches=[batch_info(total=None)]))
    assert not read(journal).is_finished
    fake_time.pass_(5.0)
    assert other.close_batch("thumbnails") is True
    assert (read(journal).is_finished, read(journal).ended_at) == (True, WALL + 5.0)
    assert other.close_batch("thumbnails") is False
    assert other.close_batch("unknown") is False
    later = batch_info(total=7, sequence=batch_info().sequence + 10**9)
    journal.write(change(batches=[later]))
    assert read(journal).is_finished


def test_cancel_of_a_batch_requests_it_for_each_active_operation(open_another: Opener) -> None:
    journal, other = open_another(), open_another()
    other_op = snapshot(operation_id="x", run="rx", id="x")
    journal.write(change(member(1), member(2), ended_member(3), other_op, batches=[batch_info()]))
    assert other.cancel_batch("thumbnails", "wrong size") == 2
    requests = {request.run: request.reason for request in journal.cancel_requests("instance-1")}
    assert requests == {"r1": "wrong size", "r2": "wrong size"}
    assert other.cancel_batch("unknown", "") == 0


def test_delete_of_a_batch_deletes_its_operations(open_another: Opener, fake_time: FakeTime) -> None:
    """An operation of another batch with the same id stays."""
    journal = open_another()
    earlier = ended(operation_id="o1", run="earlier", id="o1", batch="other")
    journal.write(change(earlier, batches=[batch_info("other")]))
    journal.write(change(member(1), ended_member(2), batches=[batch_info()]))
    assert journal.delete_batch("thumbnails") is False
    assert read(journal).finished_count == 1
    fake_time.pass_(SILENCE_S)
    assert journal.delete_batch("thumbnails") is False, "its process cannot be checked"
    fake_time.pass_(UNVERIFIED_TIMEOUT_S)
    assert journal.delete_batch("thumbnails") is True
    assert journal.batch("thumbnails") is None
    assert journal.get("o2") is None
    assert [operation.run for operation in journal.history()] == ["earlier"]
    assert journal.delete_batch("thumbnails") is False
    journal.write(change(ended_member(7), batches=[batch_info(sequence=9)]))
    assert read(journal).finished_count == 1, "no tally is left"


def test_delete_of_a_large_batch_is_complete(open_another: Opener) -> None:
    journal = open_another()
    journal.write(change(*(ended_member(number) for number in range(300)), batches=[batch_info()]))
    assert journal.delete_batch("thumbnails") is True
    assert not journal.history()


# --- further runs --------------------------------------------------------------------------------


def test_closed_batch_that_is_declared_again_starts_a_new_run(
    open_another: Opener, fake_time: FakeTime
) -> None:
    """Operations of the earlier run are stored, but do not count."""
    journal, other = open_another(), open_another()
    opened = batch_info(total=2, sequence=1)
    closed = batch_info(total=2, sequence=2, ended_at=WALL + 3)
    journal.write(change(ended_member(1), ended_member(2, status=Status.FAILED), batches=[opened]))
    journal.write(change(batches=[closed]))
    fake_time.pass_(10.0)
    second = batch_info(total=None, sequence=3, started_at=WALL + 10)
    later = {"started_at": WALL + 11}
    other.write(change(member(3, "later", **later), batches=[second], process="later"))
    found = read(journal)
    assert (found.started_at, found.total, found.finished_count) == (WALL + 10, None, 0)
    assert found.counts[Status.RUNNING] == 1
    assert found.failed == ()
    assert {operation.operation_id for operation in journal.history()} == {"o1", "o2"}
    # What is written again changes nothing: of the first run, and of the second one.
    journal.write(change(batches=[closed]))
    other.write(change(member(3, "later", **later), batches=[second], process="later"))
    assert read(journal) == read(other)
    assert (read(journal).finished_count, read(journal).started_at) == (0, WALL + 10)
    other.write(change(ended_member(3, "later", **later), process="later"))
    assert read(journal).finished_count == 1


def test_deleted_operations_of_an_earlier_run_do_not_count(open_another: Opener) -> None:
    """Neither those deleted before nor those deleted after the start of the new run."""
    journal = open_another()
    journal.write(change(ended_member(1), ended_member(2), batches=[batch_info(total=2, sequence=1)]))
    journal.write(change(batches=[batch_info(total=2, sequence=2, ended_at=WALL + 3)]))
    assert journal.delete("o1") == 1
    journal.write(change(ended_member(3), batches=[batch_info(sequence=3, started_at=WALL + 10)]))
    assert journal.delete("o2") == 1
    assert read(journal).finished_count == 1
    assert journal.delete("o3") == 1
    assert read(journal).finished_count == 1, "operations of this run count after their deletion"


def test_closed_batch_with_a_running_operation_is_continued(open_another: Opener) -> None:
    journal = open_another()
    journal.write(change(member(1), ended_member(2), batches=[batch_info(sequence=1)]))
    journal.write(change(batches=[batch_info(sequence=2, ended_at=WALL + 3)]))
    journal.write(change(batches=[batch_info(sequence=3, started_at=WALL + 10)]))
    found = read(journal)
    assert (found.started_at, found.finished_count, found.is_finished) == (WALL, 1, False)


def test_abandoned_operations_do_not_continue_a_batch(open_another: Opener, fake_time: FakeTime) -> None:
    journal = open_another()
    journal.write(change(member(1, "lost"), process="lost"))
    journal.write(change(batches=[batch_info(sequence=2, ended_at=WALL + 3)]))
    fake_time.pass_(SILENCE_S)
    now = {"at": fake_time.now, "clock": fake_time.clock}
    journal.write(change(batches=[batch_info(sequence=3, started_at=fake_time.now)], **now))
    found = read(journal)
    assert (found.abandoned, found.counts[Status.RUNNING], found.started_at) == (0, 0, fake_time.now)


@pytest.mark.parametrize("at_once", [True, False])
def test_two_short_runs_are_separate(open_another: Opener, at_once: bool) -> None:
    """Both are written with one change set, or each with its own."""
    journal = open_another()
    runs = [
        batch_info(sequence=1, started_at=WALL, ended_at=WALL + 1),
        batch_info(sequence=2, started_at=WALL + 2, ended_at=WALL + 3),
    ]
    journal.write(change(batches=[batch_info(sequence=0, started_at=WALL - 1)]))
    for batches in [runs] if at_once else [[run] for run in runs]:
        journal.write(change(batches=batches))
    assert (read(journal).started_at, read(journal).ended_at) == (WALL + 2, WALL + 3)
