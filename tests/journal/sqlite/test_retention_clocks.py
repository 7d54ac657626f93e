"""Deletion by age when the clocks of processes disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import retention
from otel_progress.model import Instance
from otel_progress.processes import this_host
from tests.support.factories import CLOCK, WALL, ended, instance, make_change_set, snapshot

DAY_S = 86_400.0


@dataclass
class _Process:
    """Process with a wall clock of its own. The monotonic clock is common to one boot."""

    path: Path
    ahead_s: float = 0.0
    host: str = ""
    elapsed_s: float = 0.0
    name: str = "a"

    def __post_init__(self) -> None:
        self.journal = SqliteJournal(
            self.path, now=lambda: self.now, clock=lambda: self.clock, retention_s=DAY_S
        )

    @property
    def now(self) -> float:
        """Wall clock in Unix seconds."""
        return WALL + self.ahead_s + self.elapsed_s

    @property
    def clock(self) -> float:
        """Monotonic clock in seconds."""
        return CLOCK + self.elapsed_s

    @property
    def instance(self) -> Instance:
        """Record of the process."""
        return instance(self.name, host=self.host or this_host(), pid=2**22 + 7, started_at=self.now)

    def end_operation(self, id_: str) -> None:
        """Write an operation that ends now."""
        times = {"ended_at": self.now, "observed_at": self.now, "observed_clock": self.clock}
        one = ended(operation_id=id_, run=id_, instance=self.name, **times)
        self.journal.write(make_change_set(one, instance=self.instance, at=self.now, clock=self.clock))

    def tick(self) -> None:
        """Write a heartbeat, which deletes what is expired."""
        self.journal.write(make_change_set(instance=self.instance, at=self.now, clock=self.clock))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with two ticks so that a deletion is due."""
        self.elapsed_s += seconds
        self.tick()
        self.elapsed_s += 2 * retention.IDLE_INTERVAL_S
        self.tick()

    def list_operations(self) -> Sequence[str]:
        """Return the ids of all ended operations."""
        return sorted(operation.operation_id for operation in self.journal.history())

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()


@pytest.mark.parametrize("ahead_s", [2 * DAY_S, 400 * DAY_S])
def test_process_whose_clock_is_ahead_deletes_no_history_of_others(path: Path, ahead_s: float) -> None:
    """The monotonic clock decides when history is expired."""
    right, wrong = _Process(path), _Process(path, ahead_s, name="b")
    right.end_operation("right")
    wrong.end_operation("wrong")
    wrong.pass_time(3600.0)
    assert wrong.list_operations() == ["right", "wrong"]
    wrong.pass_time(DAY_S)
    assert wrong.list_operations() == []
    right.close()
    wrong.close()


def test_process_whose_clock_is_behind_does_not_keep_history_for_others(path: Path) -> None:
    """The process with the correct clock deletes it in time."""
    wrong, right = _Process(path, -1000 * DAY_S, name="b"), _Process(path)
    wrong.end_operation("wrong")
    right.end_operation("right")
    right.pass_time(3600.0)
    assert right.list_operations() == ["right", "wrong"]
    right.pass_time(DAY_S)
    assert right.list_operations() == []
    right.close()
    wrong.close()


def test_history_from_before_the_boot_is_kept_by_a_process_whose_clock_is_ahead(path: Path) -> None:
    """The processes of this boot do not agree on its age."""
    before, right, wrong = (
        _Process(path, host="elsewhere/other-boot/1", name="c"),
        _Process(path),
        _Process(path, 2 * DAY_S, name="b"),
    )
    before.end_operation("before")
    right.tick()
    wrong.pass_time(3600.0)
    assert wrong.list_operations() == ["before"]
    right.pass_time(DAY_S)
    assert right.list_operations() == []
    for process in (before, right, wrong):
        process.close()


def test_clock_that_is_ahead_for_a_moment_deletes_nothing(path: Path) -> None:
    """The process had a correct clock at its first pass."""
    before, process = _Process(path, host="elsewhere/other-boot/1", name="c"), _Process(path)
    before.end_operation("before")
    process.end_operation("own")
    process.pass_time(300.0)
    process.ahead_s = 2 * DAY_S
    process.pass_time(300.0)
    assert process.list_operations() == ["before", "own"]
    process.ahead_s = 0.0
    process.pass_time(2 * DAY_S)
    assert process.list_operations() == []
    before.close()
    process.close()


def test_abandoned_operations_and_samples_of_others_are_kept_by_a_clock_that_is_ahead(path: Path) -> None:
    """Dead processes were alive recently."""
    dead, wrong = _Process(path, name="dead"), _Process(path, 2 * DAY_S, name="b")
    running = snapshot(operation_id="dead", run="d", instance="dead")
    dead.journal.write(make_change_set(running, instance=dead.instance, at=dead.now, clock=dead.clock))
    idle = _Process(path, name="idle")
    idle.tick()
    wrong.pass_time(3600.0)
    assert [operation.operation_id for operation in wrong.journal.active()] == ["dead"]
    with wrong.journal._reading.acquire() as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM instances")}
    assert found == {"dead", "idle", "b"}
    wrong.pass_time(2 * DAY_S)
    assert list(wrong.journal.active()) == []
    for process in (dead, wrong, idle):
        process.close()


def test_size_limit_deletes_the_operation_first_that_ended_first(path: Path) -> None:
    """The wall clocks of their processes do not matter."""
    wrong, right = _Process(path, 2 * DAY_S, name="b"), _Process(path)
    for process, id_ in ((wrong, "first"), (right, "second"), (wrong, "third")):
        process.end_operation(id_)
    with right.journal._reading.acquire() as connection:
        keys = [row[0] for row in connection.execute(retention._OLDEST, (2,))]
        ids = [
            connection.execute("SELECT operation_id FROM operations WHERE key = ?", (key,)).fetchone()[0]
            for key in keys
        ]
    assert ids == ["first", "second"]
    right.close()
    wrong.close()
