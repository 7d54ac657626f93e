"""Following a journal: what is active, then what changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from otel_progress.journal import Journal
from otel_progress.journal.sqlite import reader
from otel_progress.journal.sqlite.connection import StoppedByForkError
from otel_progress.operations import Condition, OperationSnapshot
from tests.support.factories import CLOCK, batch, ended, event, snapshot
from tests.support.fake_time import FakeTime


def _seen(operations: list[OperationSnapshot]) -> list[tuple[str, int]]:
    return sorted((operation.operation_id, operation.root.sequence) for operation in operations)


def test_the_first_view_is_all_that_is_active(journal: Journal) -> None:
    """The first view has the active operations with their levels, and comes at once."""
    journal.write(batch(snapshot(), snapshot("song:1"), ended(operation_id="old", run="r0")))
    (first,) = islice(journal.watch(), 1)
    assert [(operation.operation_id, len(operation.levels)) for operation in first] == [("friday-42", 1)]


def test_changes_come_once_and_folded(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    """Between two looks only the newest state counts, what did not change is left out, an end comes once."""
    writer, watch = open_another(), open_another().watch(interval=0.5)
    writer.write(batch(snapshot(), snapshot(operation_id="quiet", run="r2")))
    assert len(next(watch)) == 2
    for number in (2, 3, 4):
        writer.write(batch(snapshot(sequence=number)))
    assert _seen(next(watch)) == [("friday-42", 4)]
    assert list(next(watch)) == []
    writer.write(batch(events=[event(1)]))
    assert list(next(watch)) == []
    writer.write(batch(snapshot("song:1", sequence=5)))
    (changed,) = next(watch)
    assert [level.path for level in changed.levels] == ["song:1"]
    writer.write(batch(evicted=[("run-1", "song:1")]))
    (changed,) = next(watch)
    assert changed.levels == ()
    writer.write(batch(ended(sequence=6)))
    assert _seen(next(watch)) == [("friday-42", 6)]
    assert list(next(watch)) == []
    assert set(fake_time.naps) == {0.5}
    watch.close()


def test_an_operation_that_began_and_ended_between_two_looks_is_seen(
    open_another: Callable[..., Journal],
) -> None:
    """Nothing is too short to be seen."""
    writer, watch = open_another(), open_another().watch()
    writer.write(batch())
    assert list(next(watch)) == []
    writer.write(batch(ended(sequence=2)))
    assert _seen(next(watch)) == [("friday-42", 2)]


def test_a_worker_that_falls_silent_is_told_once(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Nobody writes when a worker dies, so time alone has to bring its operations up, with their levels."""
    writer, watch = open_another(), open_another().watch()
    writer.write(batch(snapshot(), snapshot("song:1")))
    assert [operation.condition for operation in next(watch)] == [Condition.OK]
    assert list(next(watch)) == []
    fake_time.pass_(20.0)
    (found,) = next(watch)
    assert (found.condition, len(found.levels)) == (Condition.ABANDONED, 1)
    assert list(next(watch)) == []
    writer.write(batch(snapshot(sequence=2), at=fake_time.now, clock=CLOCK + 25.0))
    assert [operation.condition for operation in next(watch)] == [Condition.OK]


def test_a_heartbeat_alone_brings_no_news(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    """Heartbeats keep an operation from being abandoned without being a change; standing still for long is one."""
    writer, watch = open_another(), open_another().watch(interval=10.0)
    root = snapshot()
    writer.write(batch(root))
    next(watch)
    told = []
    for _ in range(8):
        writer.write(batch(at=fake_time.now, clock=fake_time.clock))
        told += [operation.condition for operation in next(watch)]
    assert told == [Condition.STALLED]
    writer.write(
        batch(
            replace(root, sequence=2, advanced_clock=fake_time.clock), at=fake_time.now, clock=fake_time.clock
        )
    )
    assert [operation.condition for operation in next(watch)] == [Condition.OK]


def test_a_look_that_a_fork_stops_is_repeated(
    open_another: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that was stopped after it read the revision loses no change."""
    writer, watch = open_another(), open_another().watch()
    writer.write(batch(snapshot()))
    assert _seen(next(watch)) == [("friday-42", 1)]
    writer.write(batch(snapshot(sequence=2)))
    add_levels, stops = reader.add_levels, [1]

    def stopped(*arguments: Any) -> Any:
        if stops:
            stops.pop()
            raise StoppedByForkError
        return add_levels(*arguments)

    monkeypatch.setattr(reader, "add_levels", stopped)
    assert _seen(next(watch)) == [("friday-42", 2)]
    assert stops == []
    watch.close()
