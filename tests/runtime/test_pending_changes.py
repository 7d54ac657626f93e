"""What waits in a lane: batches are merged into one, bounded every way, and each is handed on at once whatever it has."""

from __future__ import annotations

from typing import Any

import pytest

from otel_progress.batches import BatchDeclaration
from otel_progress.records import LogRecord, ResourceSample, ResourceUse
from otel_progress.runtime import sink_worker as lanes
from otel_progress.runtime.sink_worker import PendingChanges, SinkWorker
from otel_progress.testing import Recorder, wait_until
from tests.support.factories import WALL, batch, event, lesson, preview, snapshot


def test_waiting_batches_are_merged() -> None:
    """The newest snapshot of a level wins however they come; events and items add up; parents stand before children."""
    waiting = PendingChanges()
    assert waiting.drain() is None
    waiting.add(batch(snapshot("a:1", 5), events=[event(1)], items={("o", "a", "completed"): 2}, clock=10.0))
    waiting.add(
        batch(
            snapshot("", 7),
            snapshot("a:1", 4),
            events=[event(2)],
            items={("o", "a", "completed"): 3},
            clock=9.0,
        )
    )
    merged = waiting.drain()
    assert merged is not None
    assert [(one.path, one.sequence) for one in merged.snapshots] == [("", 7), ("a:1", 5)]
    assert [one.number for one in merged.events] == [1, 2]
    assert dict(merged.items) == {("o", "a", "completed"): 5}
    assert merged.clock == 10.0
    assert waiting.drain() is None


def test_evicted_levels_do_not_wait() -> None:
    """What was folded is taken out of what waits, and told; a level that is back is not told as gone."""
    waiting = PendingChanges()
    waiting.add(batch(snapshot("a:1"), snapshot("a:2")))
    waiting.add(batch(snapshot("a:2", 9), evicted=[("run-1", "a:1"), ("run-1", "a:2")]))
    merged = waiting.drain()
    assert merged is not None
    assert [one.path for one in merged.snapshots] == ["a:2"]
    assert merged.evicted == (("run-1", "a:1"),)


def test_lessons_and_previews_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs left to learn from and previews come in order when batches are merged; beyond a bound the oldest go, counted."""
    waiting = PendingChanges()
    waiting.add(batch(trajectories=[lesson("a")], previews=[preview(1)]))
    waiting.add(batch(trajectories=[lesson("b")], previews=[preview(2)]))
    merged = waiting.drain()
    assert merged is not None
    assert [one.run for one in merged.trajectories] == ["a", "b"]
    assert [one.number for one in merged.previews] == [1, 2]
    monkeypatch.setattr(lanes, "MAX_LESSONS", 2)
    monkeypatch.setattr(lanes, "MAX_PREVIEWS", 1)
    many = batch(trajectories=[lesson(str(n)) for n in range(5)], previews=[preview(n) for n in range(1, 4)])
    assert waiting.add(many) == 3 + 2
    left = waiting.drain()
    assert left is not None
    assert ([one.run for one in left.trajectories], [one.number for one in left.previews]) == (
        ["3", "4"],
        [3],
    )
    assert waiting.drain() is None


def record(number: int) -> LogRecord:
    """Return a log record."""
    return LogRecord("friday-42", "setlist", "run-1", "", number, WALL, 20, "INFO", "x", f"text {number}")


def sample(clock: float) -> ResourceSample:
    """Return a sample."""
    return ResourceSample(WALL, clock, 0.5, 1000)


def use(samples: int) -> ResourceUse:
    """Return a use of resources."""
    return ResourceUse(sample(samples), samples, 0.5, 0.5, 1000.0, 1000)


def test_observations_are_merged() -> None:
    """Log records add up in order, the newest sample and use win, declarations of one batch come together."""
    waiting = PendingChanges()
    info = BatchDeclaration("b", "thumbnails", "batch", 500, WALL, None, 1)
    closed = BatchDeclaration("b", "thumbnails", "batch", None, WALL, WALL + 9.0, 2)
    waiting.add(
        batch(logs=[record(1)], sample=sample(1.0), resources={"a": use(1), "b": use(1)}, batches=(info,))
    )
    waiting.add(batch(logs=[record(2)], sample=sample(2.0), resources={"a": use(2)}, batches=(closed,)))
    waiting.add(batch(logs=[record(3)]))
    taken = waiting.drain()
    assert taken is not None
    assert [one.number for one in taken.logs] == [1, 2, 3]
    assert taken.sample == sample(2.0)
    assert taken.resources == {"a": use(2), "b": use(1)}
    (merged,) = taken.batches
    assert (merged.total, merged.ended_at) == (500, WALL + 9.0)
    waiting.add(batch())
    empty = waiting.drain()
    assert empty is not None
    assert (list(empty.logs), empty.sample, dict(empty.resources), tuple(empty.batches)) == ([], None, {}, ())


def test_waiting_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest records make room, and are counted."""
    monkeypatch.setattr(lanes, "MAX_LOGS", 10)
    waiting = PendingChanges()
    assert waiting.add(batch(logs=[record(number) for number in range(25)])) == 15
    taken = waiting.drain()
    assert taken is not None
    assert [one.number for one in taken.logs] == list(range(15, 25))


@pytest.mark.parametrize(
    "fields",
    [
        {"logs": [record(1)]},
        {"sample": sample(1.0)},
        {"batches": (BatchDeclaration("b", "b", "batch", 1, WALL, None, 1),)},
    ],
)
def test_a_tick_hands_on_whatever_it_has(
    recorder: Recorder, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch with nothing but a record, a sample or a declaration goes to the lanes at once, not with the next sign of life."""
    told: list[Any] = []

    class Sink:
        def write(self, one: Any) -> None:
            told.append(one)

        def close(self) -> None:
            """Nothing to close."""

    lane = SinkWorker("told", Sink())
    recorder.runtime._sink_workers.append(lane)
    recorder.tick()
    wait_until(lambda: len(told) == 1, 60.0)
    monkeypatch.setattr(
        recorder.runtime._store, "collect", lambda: batch(clock=recorder.clock.monotonic(), **fields)
    )
    recorder.tick()
    wait_until(lambda: len(told) == 2, 60.0)
    monkeypatch.undo()


def test_trouble_with_requests_refuses_no_batch() -> None:
    """When nobody can be heard after a write, the batch is written all the same."""
    told: list[Any] = []

    class Sink:
        def write(self, one: Any) -> None:
            told.append(one)

        def close(self) -> None:
            """Nothing to close."""

    def deaf() -> None:
        raise OSError("no requests")

    lane = SinkWorker("deaf", Sink(), on_written=deaf)
    lane.submit(batch())
    assert lane.close(60.0)
    assert len(told) == 1
