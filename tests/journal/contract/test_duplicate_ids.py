"""Operation ids that several live processes use at the same time."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal import Journal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.processes import HEARTBEAT_TIMEOUT_S
from otel_progress.protocols import RenamedRun, RenamedRunSource
from otel_progress.resumption import ResumableStorage, RunClaim
from tests.support.factories import ended, event, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime
from tests.support.journal_openers import Opener

ID = "friday-42"


class _Process:
    """Process with a journal. It renames its runs as a live store does."""

    def __init__(self, open_another: Opener, name: str, *, has_ended: bool = False) -> None:
        self.instance = instance(name)
        self.ids: dict[str, str] = {}
        self.asked: list[tuple[str, set[str]]] = []
        self._has_ended = has_ended
        self.failures = 0
        self.journal = open_another(rename_run=self._rename)

    def _rename(self, run: str, used_ids: Collection[str]) -> str | None:
        self.asked.append((run, set(used_ids)))
        if self._has_ended:
            return None
        id_ = self.ids.get(run, ID)
        if id_ in used_ids:
            stem = id_.partition("~")[0]
            id_ = next(other for n in range(2, 10_000) if (other := f"{stem}~{n}") not in used_ids)
        self.ids[run] = id_
        if self.failures and len(self.asked) > 1:
            self.failures -= 1
            raise JournalError("The connection was lost.")
        return id_

    def build(
        self, path: str = "", sequence: int = 1, *, run: str | None = None, **fields: Any
    ) -> LevelSnapshot:
        """Return a level of the run of this process."""
        if run is not None and "operation_id" in fields:
            self.ids.setdefault(run, fields["operation_id"])
        return snapshot(
            path,
            sequence,
            **{
                "run": run or f"run of {self.instance.id}",
                "instance": self.instance.id,
                "is_id_given": not path,
                **fields,
            },
        )

    def write(self, *levels: LevelSnapshot, **records: Any) -> None:
        """Write levels as one change set."""
        self.journal.write(replace(make_change_set(*levels, instance=self.instance), **records))

    def start(self, *, run: str | None = None, **fields: Any) -> None:
        """Write an operation that has started with one level."""
        self.write(self.build(run=run, **fields), self.build("song:1", run=run))

    def take_renamed(self) -> list[RenamedRun]:
        """Return the runs that the journal renamed."""
        assert isinstance(self.journal, RenamedRunSource)
        return list(self.journal.take_renamed_runs())


def _read_ids(journal: Journal) -> dict[str, str]:
    return {operation.run: operation.operation_id for operation in journal.active()}


def test_second_live_run_of_an_id_is_renamed(open_another: Opener) -> None:
    """All views have its new id, with its levels and its run id."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    reader = open_another()
    first.start()
    watch = reader.watch()
    next(watch)
    second.write(
        second.build(),
        second.build("song:1"),
        events=[event(1, run="run of b")],
    )
    assert _read_ids(reader) == {"run of a": ID, "run of b": f"{ID}~2"}
    assert {operation.operation_id for operation in next(watch)} == {f"{ID}~2"}
    kept, found = reader.get(ID), reader.get(f"{ID}~2")
    assert kept is not None
    assert found is not None
    assert (kept.run, found.run, found.root.info.id) == ("run of a", "run of b", f"{ID}~2")
    assert [level.info.operation_id for level in found.levels] == [f"{ID}~2"]
    assert [each.run for each in reader.events(f"{ID}~2")] == ["run of b"]
    assert (first.asked, second.asked) == ([], [("run of b", {ID})])
    (renamed,) = second.take_renamed()
    assert (renamed.run, renamed.before, renamed.operation_id) == ("run of b", ID, f"{ID}~2")
    assert renamed.owner == first.instance
    assert second.take_renamed() == []
    watch.close()  # type: ignore[attr-defined]


def test_requests_by_id_address_their_run(open_another: Opener) -> None:
    """A request to cancel each id reaches the process that runs it."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.start()
    second.start()
    assert first.journal.request_cancel(f"{ID}~2", "second")
    assert first.journal.request_cancel(ID, "first")
    for process, id_, reason in ((first, ID, "first"), (second, f"{ID}~2", "second")):
        (request,) = process.journal.cancel_requests(process.instance.id)
        assert (request.run, request.operation_id, request.reason) == (
            f"run of {process.instance.id}",
            id_,
            reason,
        )


def test_levels_that_were_collected_before_the_rename_get_the_new_id(open_another: Opener) -> None:
    """Later change sets may still have the old id."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.start()
    second.start()
    second.write(second.build(sequence=2, current=1), second.build("song:1", 2), second.build("song:2"))
    found = open_another().get(f"{ID}~2")
    assert found is not None
    assert {level.info.operation_id for level in (found.root, *found.levels)} == {f"{ID}~2"}
    assert (found.root.current, len(found.levels)) == (1, 2)
    done = ended(sequence=3, run="run of b", instance="b")
    second.write(done)
    assert [(each.operation_id, each.status) for each in open_another().history()] == [
        (f"{ID}~2", Status.COMPLETED)
    ]


def test_each_further_run_gets_the_next_free_number(open_another: Opener) -> None:
    """An id becomes free when its operation ends."""
    processes = [_Process(open_another, name) for name in "abcd"]
    for process in processes:
        process.start()
    reader = open_another()
    ids = [ID, f"{ID}~2", f"{ID}~3", f"{ID}~4"]
    assert list(_read_ids(reader).values())[::-1] == ids
    assert all(len(process.take_renamed()) == 1 for process in processes[1:])
    processes[1].write(ended(sequence=2, run="run of b", instance="b"))
    late = _Process(open_another, "e")
    late.start()
    assert _read_ids(reader)["run of e"] == f"{ID}~2"


def test_run_whose_id_is_used_by_a_dead_process_keeps_it(open_another: Opener, fake_time: FakeTime) -> None:
    """It is a later run of the id."""
    _Process(open_another, "a").start()
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    second = _Process(open_another, "b")
    second.journal.write(
        replace(
            make_change_set(second.build(), second.build("song:1"), instance=second.instance),
            at=fake_time.now,
            clock=fake_time.clock,
        )
    )
    found = open_another().get(ID)
    assert found is not None
    assert (found.run, len(found.levels), second.asked) == ("run of b", 1, [])


def test_abandoned_id_goes_to_one_of_two_processes(open_another: Opener, fake_time: FakeTime) -> None:
    """After a crash, both find the run of the dead process."""
    _Process(open_another, "gone").start()
    fake_time.pass_(HEARTBEAT_TIMEOUT_S + 1)
    for name in "ab":
        process = _Process(open_another, name)
        change_set = make_change_set(process.build(), instance=process.instance)
        process.journal.write(replace(change_set, at=fake_time.now, clock=fake_time.clock))
    ids = _read_ids(open_another())
    assert ids == {"run of gone": ID, "run of a": ID, "run of b": f"{ID}~2"}


@pytest.mark.parametrize(
    "fields",
    [{"is_id_given": False}, {"status": Status.COMPLETED, "ended_at": 1_700_000_001.0, "duration_s": 1.0}],
    ids=["generated", "ended"],
)
def test_run_without_a_given_id_or_that_has_ended_is_not_renamed(
    open_another: Opener, fields: dict[str, Any]
) -> None:
    """Resumed runs and those of OTLP senders have no given id, either."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.start()
    second.write(second.build(**fields))
    runs = {each.run: each.operation_id for each in (*first.journal.active(), *first.journal.history())}
    assert runs == {"run of a": ID, "run of b": ID}
    assert second.asked == []


def test_run_that_ended_in_the_meantime_is_stored_under_its_id(open_another: Opener) -> None:
    """Its process reports the end with the next change set."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b", has_ended=True)
    first.start()
    second.start()
    second.write(ended(sequence=2, run="run of b", instance="b"))
    assert _read_ids(open_another()) == {"run of a": ID}
    assert [each.run for each in open_another().history()] == ["run of b"]
    assert second.take_renamed() == []


def test_runs_of_one_process_are_not_renamed(open_another: Opener) -> None:
    """The process itself renames them. One may have ended without being written."""
    process = _Process(open_another, "a")
    process.start(run="run-1")
    process.start(run="run-2")
    assert _read_ids(open_another()) == {"run-1": ID, "run-2": ID}
    assert process.asked == []


def test_run_that_is_written_again_is_not_renamed(open_another: Opener) -> None:
    """Only the first write of a run checks its id."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.start()
    second.start()
    renewed = _Process(open_another, "a")
    renewed.write(renewed.build(sequence=2, current=3))
    assert _read_ids(open_another()) == {"run of a": ID, "run of b": f"{ID}~2"}
    assert renewed.asked == []


def test_run_of_a_live_process_is_not_taken_from_its_resumed_session(
    open_another: Opener, fake_time: FakeTime
) -> None:
    """A session with ``resume=True`` keeps the id, and a run without is renamed."""
    resumed = _Process(open_another, "a")
    assert isinstance(resumed.journal, ResumableStorage)
    root = resumed.build(sequence=0, is_id_given=False)
    assert resumed.journal.claim_run(RunClaim(resumed.instance, root, fake_time.now, fake_time.clock)) is None
    resumed.write(resumed.build(is_id_given=False))
    second = _Process(open_another, "b")
    second.start()
    assert _read_ids(open_another()) == {"run of a": ID, "run of b": f"{ID}~2"}


def test_record_before_the_operation_does_not_hide_a_duplicate(open_another: Opener) -> None:
    """An event may be collected before its operation."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.start()
    second.write(events=[event(1, run="run of b")])
    second.start()
    reader = open_another()
    assert _read_ids(reader) == {"run of a": ID, "run of b": f"{ID}~2"}
    assert [each.run for each in reader.events(f"{ID}~2")] == ["run of b"]
    kept = reader.get(ID)
    assert kept is not None
    assert kept.run == "run of a"


def test_write_that_failed_after_the_rename_is_repeated_with_the_new_id(open_another: Opener) -> None:
    """The change set still has the old id. One warning follows."""
    first, third, second = (_Process(open_another, name) for name in "acb")
    first.start()
    third.start()
    second.failures = 1
    with pytest.raises(JournalError):
        second.start()
    reader = open_another()
    assert "run of b" not in _read_ids(reader)
    second.start()
    assert _read_ids(reader)["run of b"] == second.ids["run of b"] == f"{ID}~3"
    found = reader.get(f"{ID}~3")
    assert found is not None
    assert [level.info.operation_id for level in (found.root, *found.levels)] == [f"{ID}~3"] * 2
    (renamed,) = second.take_renamed()
    assert (renamed.before, renamed.operation_id, renamed.owner) == (ID, f"{ID}~3", first.instance)


def test_batch_counts_both_runs(open_another: Opener) -> None:
    """The renamed run stays in its batch."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    for process in (first, second):
        process.start(batch="night")
    batch = open_another().batch("night")
    assert batch is not None
    assert batch.counts[Status.RUNNING] == 2
    second.write(ended(sequence=2, run="run of b", instance="b", batch="night"))
    batch = open_another().batch("night")
    assert batch is not None
    assert (batch.counts[Status.RUNNING], batch.counts[Status.COMPLETED]) == (1, 1)


def test_many_ids_are_checked_together(open_another: Opener) -> None:
    """Only those that another process uses are renamed."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    first.write(*(first.build(run=f"a{n}", operation_id=f"job-{n}") for n in range(0, 1_200, 400)))
    second.write(
        *(second.build(run=f"b{n}", operation_id=f"job-{n}", id=f"job-{n}") for n in range(1_200)),
        *(second.build("song:1", run=f"b{n}", operation_id=f"job-{n}") for n in range(1_200)),
    )
    renamed = {run: id_ for run, id_ in _read_ids(open_another()).items() if "~" in id_}
    assert sorted(renamed) == ["b0", "b400", "b800"]
    assert len(open_another().active(levels=False)) == 1_203


def test_concurrent_processes_get_different_ids(open_another: Opener) -> None:
    """Exactly one keeps the id, whichever is first."""
    processes = [_Process(open_another, f"process-{n}") for n in range(6)]
    barrier = threading.Barrier(len(processes))
    failures: list[BaseException] = []

    def run(process: _Process) -> None:
        try:
            barrier.wait(60.0)
            process.start()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert failures == []
    ids = _read_ids(open_another())
    assert sorted(ids.values()) == [ID, *(f"{ID}~{n}" for n in range(2, 7))]
    for process in processes:
        id_ = ids[f"run of {process.instance.id}"]
        assert process.ids.get(f"run of {process.instance.id}", ID) == id_
        found = process.journal.get(id_)
        assert found is not None
        assert {level.info.operation_id for level in found.levels} == {id_}


def test_id_of_invalid_unicode_is_checked(open_another: Opener) -> None:
    """Its stored form has escapes. The run that cannot be renamed is stored."""
    first, second = _Process(open_another, "a"), _Process(open_another, "b")
    for process in (first, second):
        process.start(operation_id="bad\udc80", id="bad\udc80")
    assert len(_read_ids(open_another())) == 2
