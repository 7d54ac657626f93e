"""Runs that another session continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from otel_progress.errors import OperationRunningError
from otel_progress.journal import Journal
from otel_progress.model import LevelCounts, Status
from otel_progress.operations import Condition
from otel_progress.processes import HEARTBEAT_TIMEOUT_S, UNVERIFIED_TIMEOUT_S
from otel_progress.resumption import (
    CompletedKey,
    ResumableStorage,
    ResumedWork,
    RunClaim,
    digest_key,
    digest_level_scope,
)
from tests.support.factories import ended, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime

SCOPE = digest_level_scope("")


def _key(name: str, run: str = "run-1", weight: float = 1) -> CompletedKey:
    return CompletedKey(run, SCOPE, digest_key(name), weight)


def _write(journal: Journal, process: str, *levels: Any, **records: Any) -> None:
    change_set = make_change_set(*levels, instance=instance(process))
    journal.write(replace(change_set, **records))


def _claim(journal: Journal, run: str, time: FakeTime, process: str | None = None) -> ResumedWork | None:
    assert isinstance(journal, ResumableStorage)
    owner = instance(process or f"process-{run}")
    root = snapshot(
        sequence=0,
        run=run,
        instance=owner.id,
        total=10,
        batch="night",
        started_at=time.now,
        started_clock=time.clock,
        observed_at=time.now,
        observed_clock=time.clock,
    )
    return journal.claim_run(RunClaim(owner, root, time.now, time.clock))


def _start_dead_run(journal: Journal, time: FakeTime, **fields: Any) -> None:
    root = snapshot(instance="gone", batch="night", current=4, total=10, ratio=0.4, **fields)
    _write(journal, "gone", root, snapshot("song:1", instance="gone"))
    time.pass_(HEARTBEAT_TIMEOUT_S + 1)


def test_claim_without_a_run_stores_a_new_one(journal: Journal, fake_time: FakeTime) -> None:
    """It is active at once, so a second claim finds it."""
    assert _claim(journal, "run-2", fake_time) is None
    found = journal.get("friday-42")
    assert found is not None
    assert (found.run, found.status, found.root.info.attempt) == ("run-2", Status.RUNNING, 1)


def test_claim_continues_a_dead_run(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    """The journal has its counts at once, and the old run is superseded."""
    writer, reader = open_another(), open_another()
    _start_dead_run(writer, fake_time)
    watch = reader.watch()
    next(watch)
    work = _claim(writer, "run-2", fake_time)
    assert work is not None
    assert work.root.info.run == "run-1"
    assert (work.attempt, work.count_units()) == (2, 4)
    found = reader.get("friday-42")
    assert found is not None
    root = found.root
    assert (found.run, root.current, root.resumed_from, root.ratio) == ("run-2", 4, 4, 0.4)
    assert (root.info.attempt, found.condition) == (2, Condition.OK)
    (old,) = reader.history()
    assert (old.run, old.status, old.condition) == ("run-1", Status.CANCELLED, Condition.SUPERSEDED)
    assert old.root.superseded_by == "run-2"
    assert [operation.run for operation in reader.active()] == ["run-2"]
    changed = {operation.run: operation.condition for operation in next(watch)}
    assert changed["run-1"] is Condition.SUPERSEDED
    watch.close()  # type: ignore[attr-defined]


def test_deep_levels_of_a_superseded_run_are_cancelled(journal: Journal, fake_time: FakeTime) -> None:
    """Journals store long paths in another form."""
    paths = ["/".join(f"folder:{number:03}" for number in range(depth)) for depth in range(1, 90)]
    levels = [snapshot(path, instance="gone") for path in paths]
    _write(journal, "gone", snapshot(instance="gone", batch="night", total=10), *levels)
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    watch = journal.watch()
    next(watch)
    assert _claim(journal, "run-2", fake_time) is not None
    old = next(operation for operation in next(watch) if operation.run == "run-1")
    assert {level.status for level in old.levels} == {Status.CANCELLED}
    assert {level.path for level in old.levels} == set(paths)
    watch.close()  # type: ignore[attr-defined]


def test_batch_counts_only_the_run_that_continues(journal: Journal, fake_time: FakeTime) -> None:
    """Its operation is one member, however many sessions it had."""
    _start_dead_run(journal, fake_time)
    _claim(journal, "run-2", fake_time)
    batch = journal.batch("night")
    assert batch is not None
    assert {status: count for status, count in batch.counts.items() if count} == {Status.RUNNING: 1}


def test_delete_of_a_batch_deletes_the_earlier_sessions(journal: Journal, fake_time: FakeTime) -> None:
    """A run of the same id that is not a session of the member stays."""
    _write(journal, "gone", ended(operation_id="friday-42", id="friday-42", run="run-0", instance="gone"))
    _start_dead_run(journal, fake_time)
    for run in ("run-2", "run-3"):
        _claim(journal, run, fake_time)
        fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    assert {operation.run for operation in journal.history()} == {"run-0", "run-1", "run-2"}
    assert journal.delete_batch("night") is True
    assert journal.batch("night") is None
    assert [operation.run for operation in (*journal.active(), *journal.history())] == ["run-0"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_claim_continues_a_run_that_ended_without_completion(
    journal: Journal, fake_time: FakeTime, status: Status
) -> None:
    """It keeps its status, and it is superseded."""
    _write(journal, "gone", ended(status=status, instance="gone", current=4, total=10))
    work = _claim(journal, "run-2", fake_time)
    assert work is not None
    (old,) = journal.history()
    assert (old.status, old.condition) == (status, Condition.SUPERSEDED)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.SKIPPED])
def test_claim_after_a_complete_run_starts_from_the_beginning(
    journal: Journal, fake_time: FakeTime, status: Status
) -> None:
    """The complete run stays as it is."""
    _write(journal, "gone", ended(status=status, instance="gone", current=10, total=10))
    assert _claim(journal, "run-2", fake_time) is None
    (old,) = journal.history()
    assert (old.status, old.condition) == (status, Condition.OK)


def test_claim_of_a_live_run_is_rejected(journal: Journal, fake_time: FakeTime) -> None:
    """The error has the time after which the other process counts as dead."""
    _write(journal, "busy", snapshot(instance="busy"))
    fake_time.pass_(5.0)
    with pytest.raises(OperationRunningError, match=r"'friday-42'.*process 4711 on 'elsewhere'") as caught:
        _claim(journal, "run-2", fake_time)
    assert caught.value.retry_after_s == pytest.approx(HEARTBEAT_TIMEOUT_S - 5.0, abs=1.0)
    found = journal.get("friday-42")
    assert found is not None
    assert found.run == "run-1"


def test_second_claim_is_rejected_while_the_first_is_alive(journal: Journal, fake_time: FakeTime) -> None:
    """The first claim is a heartbeat."""
    _start_dead_run(journal, fake_time)
    _claim(journal, "run-2", fake_time)
    with pytest.raises(OperationRunningError):
        _claim(journal, "run-3", fake_time)


def test_repeated_claim_changes_nothing(journal: Journal, fake_time: FakeTime) -> None:
    """Its answer may have been lost. The process does not compete with itself."""
    _start_dead_run(journal, fake_time)
    first = _claim(journal, "run-2", fake_time)
    second = _claim(journal, "run-2", fake_time)
    assert first is not None
    assert second is not None
    assert second.count_units() == first.count_units()
    found = journal.get("friday-42")
    assert found is not None
    assert (found.run, found.root.current) == ("run-2", 4)


def test_claim_never_falls_back_to_zero(journal: Journal, fake_time: FakeTime) -> None:
    """Each session is killed before its first tick."""
    _start_dead_run(journal, fake_time)
    for number in range(2, 6):
        work = _claim(journal, f"run-{number}", fake_time)
        assert work is not None
        assert (work.count_units(), work.attempt) == (4, number)
        fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    assert {operation.condition for operation in journal.history()} == {Condition.SUPERSEDED}


def test_claim_leaves_out_sessions_without_progress(journal: Journal, fake_time: FakeTime) -> None:
    """A session without ``resume`` that was killed at once has recorded 0."""
    _start_dead_run(journal, fake_time)
    _write(journal, "killed", snapshot(run="run-2", instance="killed"))
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    work = _claim(journal, "run-3", fake_time)
    assert work is not None
    assert (work.count_units(), work.attempt) == (4, 2)
    assert {operation.run: operation.condition for operation in journal.history()} == {
        "run-1": Condition.SUPERSEDED,
        "run-2": Condition.SUPERSEDED,
    }


def test_keys_and_checkpoint_pass_to_each_session(journal: Journal, fake_time: FakeTime) -> None:
    """Keys of all sessions are in one set, and the last checkpoint counts."""
    _start_dead_run(journal, fake_time)
    _write(
        journal, "gone", snapshot(sequence=2, instance="gone"),
        completed_keys=[_key("a"), _key("b", weight=2.5), _key("a")], checkpoints={"run-1": '{"step": 1}'},
    )  # fmt: skip
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    second = _claim(journal, "run-2", fake_time)
    assert second is not None
    assert second.checkpoint == '{"step": 1}'
    assert sorted(second.completed) == sorted([_key("a")[1:], _key("b", weight=2.5)[1:]])
    root = snapshot(sequence=3, run="run-2", instance="process-run-2")
    _write(
        journal, "process-run-2", root,
        completed_keys=[_key("c", "run-2")], checkpoints={"run-2": "[2]"},
    )  # fmt: skip
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    third = _claim(journal, "run-3", fake_time)
    assert third is not None
    assert third.checkpoint == "[2]"
    assert {key for _, key, _ in third.completed} == {digest_key(name) for name in "abc"}


def test_stored_levels_replace_missing_keys(journal: Journal, fake_time: FakeTime) -> None:
    """The first session was started without ``resume``, so it recorded no keys."""
    done = snapshot("song:1", instance="gone", status=Status.COMPLETED, weight=3)
    failed = snapshot("song:2", instance="gone", status=Status.FAILED)
    root = snapshot(
        instance="gone", current=4, total=10, failed=1, counts_children=True,
        ended_levels=LevelCounts(completed=1, failed=1),
    )  # fmt: skip
    _write(journal, "gone", root, done, failed)
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    work = _claim(journal, "run-2", fake_time)
    assert work is not None
    assert list(work.completed) == [(SCOPE, digest_key("song:1"), 3)]
    assert work.count_units() == 3
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    again = _claim(journal, "run-3", fake_time)
    assert again is not None
    assert list(again.completed) == list(work.completed)


def test_writes_of_a_superseded_process_change_nothing(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """The old process was only frozen. It learns that its run was continued."""
    old, new = open_another(), open_another()
    _start_dead_run(old, fake_time)
    _claim(new, "run-2", fake_time)
    before = new.history()
    late = ended(sequence=90, instance="gone", current=9, total=10)
    change = make_change_set(late, snapshot("song:2", 91, instance="gone"), instance=instance("gone"))
    old.write(replace(change, completed_keys=[_key("z")], checkpoints={"run-1": "9"}))
    assert isinstance(old, ResumableStorage)
    assert old.take_superseded_runs() == {"run-1": "run-2"}
    assert old.take_superseded_runs() == {}
    assert _describe(new.history()) == _describe(before)
    found = new.get("friday-42")
    assert found is not None
    assert (found.run, found.root.current) == ("run-2", 4)
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    work = _claim(new, "run-3", fake_time)
    assert work is not None
    assert not work.completed
    assert (work.checkpoint, work.count_units()) == (None, 4)


def _describe(operations: Any) -> list[tuple[Any, ...]]:
    return [
        (each.run, each.status, each.condition, each.root.current, each.root.sequence) for each in operations
    ]


def test_own_run_in_the_journal_is_not_a_live_process(journal: Journal, fake_time: FakeTime) -> None:
    """The end of an earlier session of this process may not be written yet."""
    _write(journal, "own", snapshot(instance="own", current=4, total=10))
    work = _claim(journal, "run-2", fake_time, process="own")
    assert work is not None
    assert work.count_units() == 4


def test_deleted_operation_leaves_no_keys(journal: Journal, fake_time: FakeTime) -> None:
    """A later operation with this id starts from the beginning."""
    _start_dead_run(journal, fake_time)
    _write(
        journal, "gone", snapshot(sequence=2, instance="gone"),
        completed_keys=[_key(str(number)) for number in range(2_500)], checkpoints={"run-1": "1"},
    )  # fmt: skip
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    _claim(journal, "run-2", fake_time)
    _write(journal, "process-run-2", ended(sequence=5, run="run-2", instance="process-run-2"))
    assert journal.delete("friday-42") == 2
    assert _claim(journal, "run-3", fake_time) is None
    assert _count_keys(journal) == 0


def _count_keys(journal: Any) -> int:
    if hasattr(journal, "path"):
        with journal._reading.acquire() as connection:
            return int(connection.execute("SELECT count(*) FROM completed_keys").fetchone()[0])
    return int(journal._client.execute_one("EXISTS", journal._keys.completed("run-1")))
