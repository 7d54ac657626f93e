"""Watching a journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from otel_progress.journal import Journal
from otel_progress.operations import Condition, OperationSnapshot
from tests.support.factories import CLOCK, ended, event, make_change_set, snapshot
from tests.support.fake_time import FakeTime


def _get_sequences(operations: list[OperationSnapshot]) -> list[tuple[str, int]]:
    return sorted((operation.operation_id, operation.root.sequence) for operation in operations)


def test_watch_yields_active_operations_first(journal: Journal) -> None:
    """They have their levels."""
    journal.write(make_change_set(snapshot(), snapshot("song:1"), ended(operation_id="old", run="r0")))
    (first,) = islice(journal.watch(), 1)
    assert [(operation.operation_id, len(operation.levels)) for operation in first] == [("friday-42", 1)]


def test_watch_yields_only_newest_state_of_changes(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Unchanged operations are omitted, and an end is yielded once."""
    writer, watch = open_another(), open_another().watch(interval=0.5)
    writer.write(make_change_set(snapshot(), snapshot(operation_id="quiet", run="r2")))
    assert len(next(watch)) == 2
    for number in (2, 3, 4):
        writer.write(make_change_set(snapshot(sequence=number)))
    assert _get_sequences(next(watch)) == [("friday-42", 4)]
    assert list(next(watch)) == []
    writer.write(make_change_set(events=[event(1)]))
    assert list(next(watch)) == []
    writer.write(make_change_set(snapshot("song:1", sequence=5)))
    (changed,) = next(watch)
    assert [level.path for level in changed.levels] == ["song:1"]
    writer.write(make_change_set(evicted=[("run-1", "song:1")]))
    (changed,) = next(watch)
    assert changed.levels == ()
    writer.write(make_change_set(ended(sequence=6)))
    assert _get_sequences(next(watch)) == [("friday-42", 6)]
    assert list(next(watch)) == []
    assert set(fake_time.naps) == {0.5}
    watch.close()


def test_watch_yields_operation_that_started_and_ended_between_polls(
    open_another: Callable[..., Journal],
) -> None:
    """No operation is too short."""
    writer, watch = open_another(), open_another().watch()
    writer.write(make_change_set())
    assert list(next(watch)) == []
    writer.write(make_change_set(ended(sequence=2)))
    assert _get_sequences(next(watch)) == [("friday-42", 2)]


def test_watch_yields_abandoned_operation_once(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """The condition changes by time alone."""
    writer, watch = open_another(), open_another().watch()
    writer.write(make_change_set(snapshot(), snapshot("song:1")))
    assert [operation.condition for operation in next(watch)] == [Condition.OK]
    assert list(next(watch)) == []
    fake_time.pass_(20.0)
    (found,) = next(watch)
    assert (found.condition, len(found.levels)) == (Condition.ABANDONED, 1)
    assert list(next(watch)) == []
    writer.write(make_change_set(snapshot(sequence=2), at=fake_time.now, clock=CLOCK + 25.0))
    assert [operation.condition for operation in next(watch)] == [Condition.OK]


def test_watch_with_heartbeats_only_yields_stalled_operation(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """A heartbeat is not a change."""
    writer, watch = open_another(), open_another().watch(interval=10.0)
    root = snapshot()
    writer.write(make_change_set(root))
    next(watch)
    told = []
    for _ in range(8):
        writer.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
        told += [operation.condition for operation in next(watch)]
    assert told == [Condition.STALLED]
    writer.write(
        make_change_set(
            replace(root, sequence=2, advanced_clock=fake_time.clock), at=fake_time.now, clock=fake_time.clock
        )
    )
    assert [operation.condition for operation in next(watch)] == [Condition.OK]
