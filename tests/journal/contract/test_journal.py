"""Behaviour of every journal."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.journal import Journal
from otel_progress.model import Eta, Failure, Outcome, Status
from otel_progress.operations import Condition
from otel_progress.processes import current_instance, this_host
from otel_progress.protocols import EventQuery, HistoryQuery, Reader, Sink
from tests.support.factories import (
    CLOCK,
    WALL,
    ended,
    event,
    instance,
    local_instance,
    make_change_set,
    snapshot,
)
from tests.support.fake_time import FakeTime


def test_journal_implements_all_protocols(journal: Journal) -> None:
    """A journal is a Sink, a Reader and a Controller."""
    assert isinstance(journal, Journal)
    assert isinstance(journal, Sink)
    assert isinstance(journal, Reader)


def test_empty_journal_returns_empty_results(journal: Journal) -> None:
    """Queries of an empty journal raise no errors."""
    assert journal.get("friday-42") is None
    assert list(journal.active()) == []
    assert list(journal.history()) == []
    assert list(journal.events("friday-42")) == []


def test_snapshot_after_write_is_read_unchanged(journal: Journal) -> None:
    """Every field of an operation and a level is stored."""
    root = snapshot(
        current=3,
        total=10.0,
        ratio=0.3,
        failed=1,
        skipped=1,
        message="Executing\x00\x1b[31m",
        metadata={"rate": 44100, "live": True, "tags": ("a", "b"), "gain": 0.5, "key": "H/%_"},
        error=Failure("ValueError", "bad", "Traceback"),
        stage="generation",
        eta=Eta(10.5, 9, None, "steady", "history", 5, CLOCK),
        advanced_at=WALL + 1,
        advanced_clock=CLOCK + 1,
        stall_after_s=2.5,
        deadline_at=WALL + 100,
        trace_id="0" * 32,
    )
    level = snapshot(
        "song:ü’%2F\x00", current=2**53 + 1, total=2**62, unit="byte", weight=0.25, declared=True
    )
    journal.write(make_change_set(root, level))
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root, found.levels) == (root, (level,))
    assert type(found.root.current) is int
    assert type(found.root.total) is float
    assert found.instance == instance()


def test_snapshot_with_higher_sequence_replaces_stored_one(journal: Journal) -> None:
    """The next query returns the change."""
    first = snapshot(sequence=1)
    journal.write(make_change_set(first))
    journal.write(make_change_set(replace(first, sequence=5, current=4, message="four")))
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root.sequence, found.root.current, found.message) == (5, 4, "four")


@pytest.mark.parametrize("seed", range(5))
def test_snapshots_in_any_order_keep_the_newest(open_another: Callable[..., Journal], seed: int) -> None:
    """The order of writes and processes does not matter."""
    numbers = list(range(1, 30))
    random.Random(seed).shuffle(numbers)
    writers = [open_another(), open_another()]
    for index, number in enumerate(numbers):
        root = snapshot(sequence=number, current=number, total=number * 2, message=str(number))
        writers[index % 2].write(make_change_set(root, snapshot("song:1", sequence=number, current=number)))
    found = open_another().get("friday-42")
    assert found is not None
    assert (found.root.current, found.root.total, found.message) == (29, 58, "29")
    assert [level.current for level in found.levels] == [29]


def test_late_running_snapshot_keeps_operation_ended(open_another: Callable[..., Journal]) -> None:
    """An older running snapshot does not move the operation out of the history."""
    one, other = open_another(), open_another()
    one.write(make_change_set(snapshot(sequence=1)))
    one.write(make_change_set(ended(sequence=9)))
    other.write(make_change_set(snapshot(sequence=4)))
    assert list(one.active()) == []
    assert [operation.root.sequence for operation in one.history()] == [9]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["older first", "newer first"])
def test_two_snapshots_of_a_root_in_one_change_set_keep_the_end(
    journal: Journal, order: tuple[int, int]
) -> None:
    """The end may arrive through a file, before the snapshots of the same change set."""
    roots = [snapshot(sequence=1), ended(sequence=5)]
    journal.write(make_change_set(*(roots[index] for index in order), snapshot("song:1")))
    journal.write(make_change_set(roots[1]))
    assert not journal.active()
    (found,) = journal.history()
    assert (found.status, found.root.sequence) == (Status.COMPLETED, 5)


def test_levels_are_returned_depth_first(journal: Journal) -> None:
    """Siblings are sorted by their order."""
    levels = [
        snapshot("song:b", order=0),
        snapshot("song:a", order=1),
        snapshot("song:b/action:z", order=0),
        snapshot("song:b/action:y", order=1),
        snapshot("song:a/action:x", order=0),
    ]
    journal.write(make_change_set(snapshot(), *reversed(levels)))
    found = journal.get("friday-42")
    assert found is not None
    expected = ["song:b", "song:b/action:z", "song:b/action:y", "song:a", "song:a/action:x"]
    assert [level.path for level in found.levels] == expected


def test_eviction_removes_level_with_subtree_only(journal: Journal) -> None:
    """Levels with similar names are kept."""
    names = [
        "song:1",
        "song:1/action:a",
        "song:1/action:a/block:0",
        "song:10",
        "song:1-b",
        "song:1.c",
        "Song:1",
        "song:_",
        "song:%",
    ]
    journal.write(
        make_change_set(snapshot(), *(snapshot(name, order=order) for order, name in enumerate(names)))
    )
    journal.write(
        make_change_set(evicted=[("run-1", "song:1"), ("run-1", "song:_"), ("no-such-run", "song:10")])
    )
    found = journal.get("friday-42")
    assert found is not None
    assert {level.path for level in found.levels} == {"song:10", "song:1-b", "song:1.c", "Song:1", "song:%"}


def test_level_evicted_and_started_in_one_tick_is_stored(journal: Journal) -> None:
    """Evictions are applied before snapshots."""
    journal.write(make_change_set(snapshot(), snapshot("song:1"), snapshot("song:1/action:a")))
    again = snapshot("song:1", sequence=7, attempt=2)
    journal.write(make_change_set(again, evicted=[("run-1", "song:1")]))
    journal.write(
        make_change_set(replace(again, sequence=8, current=1), snapshot("song:1/action:a", sequence=9))
    )
    found = journal.get("friday-42")
    assert found is not None
    assert [(level.info.attempt, level.sequence) for level in found.levels] == [(2, 8), (1, 9)]


def test_retried_level_replaces_constant_values(journal: Journal) -> None:
    """The level keeps its position and has the new attempt."""
    first = snapshot("song:1")
    journal.write(make_change_set(snapshot(), first))
    journal.write(
        make_change_set(replace(first, sequence=2, status=Status.FAILED, ended_at=WALL, duration_s=1.0))
    )
    journal.write(make_change_set(snapshot("song:1", sequence=3, attempt=2, name="again")))
    found = journal.get("friday-42")
    assert found is not None
    assert [(level.info.attempt, level.info.name, level.status) for level in found.levels] == [
        (2, "again", Status.RUNNING)
    ]


def test_operation_with_two_runs_returns_the_newest(journal: Journal) -> None:
    """Both runs are in the history."""
    journal.write(make_change_set(ended(run="run-1", current=1), ended("song:1", run="run-1")))
    journal.write(make_change_set(snapshot(run="run-2", current=2)))
    found = journal.get("friday-42")
    assert found is not None
    assert (found.run, found.root.current, found.levels) == ("run-2", 2, ())
    journal.write(make_change_set(ended(run="run-2", ended_at=WALL + 70)))
    assert [operation.run for operation in journal.history()] == ["run-2", "run-1"]


def test_active_and_history_are_separate_and_sorted(journal: Journal) -> None:
    """History is filtered by type and limited."""
    journal.write(
        make_change_set(
            *(snapshot(operation_id=f"o{n}", run=f"r{n}", operation_type=f"type{n % 2}") for n in range(4))
        )
    )
    journal.write(make_change_set(snapshot("song:1", operation_id="o3", run="r3")))
    assert [operation.operation_id for operation in journal.active()] == ["o3", "o2", "o1", "o0"]
    assert [len(operation.levels) for operation in journal.active()] == [1, 0, 0, 0]
    assert [len(operation.levels) for operation in journal.active(levels=False)] == [0, 0, 0, 0]
    for n in (2, 0, 3):
        done = ended(operation_id=f"o{n}", run=f"r{n}", operation_type=f"type{n % 2}", ended_at=WALL + 10 - n)
        journal.write(make_change_set(done))
    assert [operation.operation_id for operation in journal.active()] == ["o1"]
    assert [operation.operation_id for operation in journal.history()] == ["o0", "o2", "o3"]
    assert [operation.operation_id for operation in journal.history(HistoryQuery("type0"))] == ["o0", "o2"]
    assert [operation.operation_id for operation in journal.history(HistoryQuery(limit=1))] == ["o0"]
    assert list(journal.history(HistoryQuery("type9"))) == []
    assert list(journal.history(HistoryQuery(limit=0))) == []


def test_levels_of_child_process_before_root_are_kept(open_another: Callable[..., Journal]) -> None:
    """A child process may write its levels before the parent writes the root."""
    child, parent = open_another(), open_another()
    helper = instance("child")
    child.write(
        make_change_set(
            snapshot("song:1/block:1", instance="child"), instance=helper, events=[event(1, "song:1")]
        )
    )
    assert child.get("friday-42") is None
    assert list(child.active()) == []
    parent.write(make_change_set(snapshot(), events=[event(1, "song:2")]))
    found = child.get("friday-42")
    assert found is not None
    assert [level.path for level in found.levels] == ["song:1/block:1"]
    assert found.instance == instance()
    assert {item.path for item in child.events("friday-42")} == {"song:1", "song:2"}


def test_events_query_filters_by_path_outcome_and_time(journal: Journal) -> None:
    """The newest events are returned, oldest first."""
    failure = Failure("SyntaxError", "invalid syntax", None)
    written = [
        event(1, "song:1", outcome=Outcome.COMPLETED, name="a.wav"),
        event(
            2, "song:1/action:a", outcome=Outcome.FAILED, name="b.wav", error=failure, metadata={"line": 3}
        ),
        event(3, "song:10", outcome=Outcome.FAILED),
        event(4),
    ]
    journal.write(make_change_set(snapshot(), events=written))

    def numbers(**filters: object) -> list[int]:
        return [item.number for item in journal.events("friday-42", EventQuery(**filters))]

    assert list(journal.events("friday-42")) == written
    assert numbers(path="song:1") == [1, 2]
    assert numbers(path="") == [1, 2, 3, 4]
    assert numbers(outcome=Outcome.FAILED) == [2, 3]
    assert numbers(since=WALL + 3) == [3, 4]
    assert numbers(limit=2) == [3, 4]
    assert numbers(limit=0) == []
    assert numbers(path="song:1", outcome=Outcome.FAILED, since=WALL) == [2]


def test_event_written_twice_is_stored_once(journal: Journal) -> None:
    """A change set that is written again after an error duplicates no events."""
    journal.write(make_change_set(snapshot(), events=[event(1), event(2)]))
    journal.write(make_change_set(events=[event(2), event(3)]))
    assert [item.number for item in journal.events("friday-42")] == [1, 2, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"current": 2**70, "total": 2**80},
        {"current": -(10**400)},
        {"message": "half \ud83d a pair", "name": "\udcff"},
        {
            "metadata": {
                "k\udc00": "v\ud800",
                "nan": float("nan"),
                "all": (1.0, float("inf")),
                "big": 10**5000,
            }
        },
        {"error": Failure("E\ud800", "m", "d\udfff")},
        {"eta": Eta(float("nan"), 1.0, float("inf"), "steady", "history", 3, CLOCK)},
        {"observed_at": float("inf"), "stall_after_s": float("inf")},
    ],
)
def test_invalid_values_are_sanitized_alone(journal: Journal, fields: dict[str, object]) -> None:
    """Everything else in the change set is stored."""
    level = snapshot("song:1", **fields)
    journal.write(make_change_set(snapshot(), level, snapshot("song:2"), events=[event(1, name="x\ud800")]))
    found = journal.get("friday-42")
    assert found is not None
    assert [item.path for item in found.levels] == ["song:1", "song:2"]
    assert len(journal.events("friday-42")) == 1
    journal.write(make_change_set(replace(level, sequence=2, status=Status.COMPLETED)))
    found = journal.get("friday-42")
    assert found is not None
    assert found.levels[0].status is Status.COMPLETED


def test_process_of_another_host_without_heartbeat_is_abandoned(
    journal: Journal, fake_time: FakeTime
) -> None:
    """The clock of an abandoned operation stays at the last heartbeat."""
    journal.write(make_change_set(snapshot()))
    fake_time.pass_(14.0)
    journal.write(make_change_set(at=fake_time.now, clock=CLOCK + 14.0))
    fake_time.pass_(10.0)
    found = journal.get("friday-42")
    assert found is not None
    assert (found.alive, found.condition, found.elapsed_seconds) == (True, Condition.OK, 24.0)
    fake_time.pass_(6.0)
    found = journal.get("friday-42")
    assert found is not None
    assert (found.alive, found.condition, found.elapsed_seconds) == (False, Condition.ABANDONED, 14.0)


def test_step_of_wall_clock_on_same_boot_changes_nothing(journal: Journal, fake_time: FakeTime) -> None:
    """Elapsed time and liveness use the monotonic clock."""
    neighbour = instance(host=this_host() + "-other-container")
    journal.write(make_change_set(snapshot(), instance=neighbour))
    fake_time.clock += 5.0
    for step in (3600.0, -7200.0):
        fake_time.now += step
        found = journal.get("friday-42")
        assert found is not None
        assert (found.alive, found.elapsed_seconds) == (True, 5.0)


def test_living_process_without_heartbeat_is_not_abandoned(journal: Journal, fake_time: FakeTime) -> None:
    """A stopped process is stalled."""
    me = replace(current_instance("tests"), id="instance-1")
    journal.write(make_change_set(snapshot(), instance=me))
    fake_time.pass_(3600.0)
    found = journal.get("friday-42")
    assert found is not None
    assert (found.alive, found.condition) == (True, Condition.STALLED)


@pytest.mark.process
def test_dead_process_of_this_host_is_abandoned_immediately(journal: Journal) -> None:
    """No heartbeat timeout is necessary."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = replace(local_instance(process.pid), id="instance-1")
    journal.write(make_change_set(snapshot(), instance=dead))
    found = journal.get("friday-42")
    assert found is not None
    assert (found.alive, found.condition) == (False, Condition.ABANDONED)


def test_reused_process_id_is_another_process(journal: Journal) -> None:
    """The start time distinguishes both processes."""
    me = current_instance("tests")
    assert me.pid == os.getpid()
    if me.start is None:
        pytest.skip("this system does not tell when a process started")
    journal.write(make_change_set(snapshot(), instance=replace(me, id="instance-1", start=me.start - 1)))
    found = journal.get("friday-42")
    assert found is not None
    assert found.alive is False
