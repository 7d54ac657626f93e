"""Pending changes of a sink: merging, limits and delivery."""

from __future__ import annotations

from typing import Any

import pytest

from otel_progress.batches import BatchDeclaration
from otel_progress.records import LogRecord, ResourceSample, ResourceUse
from otel_progress.runtime.sink_worker import PendingChanges, PendingLimits, SinkWorker
from otel_progress.testing import Recorder, wait_until
from tests.support.factories import WALL, event, make_change_set, make_trajectory_entry, preview, snapshot


def test_pending_changes_merge_change_sets() -> None:
    """The newest snapshot of a level wins. Events and items add up."""
    pending = PendingChanges()
    assert pending.drain() is None
    pending.add(
        make_change_set(snapshot("a:1", 5), events=[event(1)], items={("o", "a", "completed"): 2}, clock=10.0)
    )
    pending.add(
        make_change_set(
            snapshot("", 7),
            snapshot("a:1", 4),
            events=[event(2)],
            items={("o", "a", "completed"): 3},
            clock=9.0,
        )
    )
    merged = pending.drain()
    assert merged is not None
    assert [(snapshot.path, snapshot.sequence) for snapshot in merged.snapshots] == [("", 7), ("a:1", 5)]
    assert [event.number for event in merged.events] == [1, 2]
    assert dict(merged.items) == {("o", "a", "completed"): 5}
    assert merged.clock == 10.0
    assert pending.drain() is None


def test_eviction_removes_waiting_snapshots() -> None:
    """A level with a newer snapshot is not reported as evicted."""
    pending = PendingChanges()
    pending.add(make_change_set(snapshot("a:1"), snapshot("a:2")))
    pending.add(make_change_set(snapshot("a:2", 9), evicted=[("run-1", "a:1"), ("run-1", "a:2")]))
    merged = pending.drain()
    assert merged is not None
    assert [snapshot.path for snapshot in merged.snapshots] == ["a:2"]
    assert merged.evicted == (("run-1", "a:1"),)


def test_trajectories_and_previews_beyond_limit_drop_the_oldest() -> None:
    """Merged ones stay in order."""
    pending = PendingChanges()
    pending.add(make_change_set(trajectories=[make_trajectory_entry("a")], previews=[preview(1)]))
    pending.add(make_change_set(trajectories=[make_trajectory_entry("b")], previews=[preview(2)]))
    merged = pending.drain()
    assert merged is not None
    assert [entry.run for entry in merged.trajectories] == ["a", "b"]
    assert [preview.number for preview in merged.previews] == [1, 2]
    bounded = PendingChanges(PendingLimits(trajectories=2, previews=1))
    many = make_change_set(
        trajectories=[make_trajectory_entry(str(n)) for n in range(5)],
        previews=[preview(n) for n in range(1, 4)],
    )
    assert bounded.add(many) == 3 + 2
    left = bounded.drain()
    assert left is not None
    assert ([entry.run for entry in left.trajectories], [preview.number for preview in left.previews]) == (
        ["3", "4"],
        [3],
    )
    assert pending.drain() is None


def record(number: int) -> LogRecord:
    """Return a log record."""
    return LogRecord("friday-42", "setlist", "run-1", "", number, WALL, 20, "INFO", "x", f"text {number}")


def sample(clock: float) -> ResourceSample:
    """Return a sample."""
    return ResourceSample(WALL, clock, 0.5, 1000)


def use(samples: int) -> ResourceUse:
    """Return a resource usage."""
    return ResourceUse(sample(samples), samples, 0.5, 0.5, 1000.0, 1000)


def test_logs_samples_and_batches_are_merged() -> None:
    """The newest sample and usage win, and declarations of one batch are merged."""
    pending = PendingChanges()
    info = BatchDeclaration("b", "thumbnails", "batch", 500, WALL, None, 1)
    closed = BatchDeclaration("b", "thumbnails", "batch", None, WALL, WALL + 9.0, 2)
    pending.add(
        make_change_set(
            logs=[record(1)], sample=sample(1.0), resources={"a": use(1), "b": use(1)}, batches=(info,)
        )
    )
    pending.add(
        make_change_set(logs=[record(2)], sample=sample(2.0), resources={"a": use(2)}, batches=(closed,))
    )
    pending.add(make_change_set(logs=[record(3)]))
    merged = pending.drain()
    assert merged is not None
    assert [record.number for record in merged.logs] == [1, 2, 3]
    assert merged.sample == sample(2.0)
    assert merged.resources == {"a": use(2), "b": use(1)}
    (declaration,) = merged.batches
    assert (declaration.total, declaration.ended_at) == (500, WALL + 9.0)
    pending.add(make_change_set())
    empty = pending.drain()
    assert empty is not None
    assert (list(empty.logs), empty.sample, dict(empty.resources), tuple(empty.batches)) == ([], None, {}, ())


def test_log_records_beyond_limit_drop_the_oldest() -> None:
    """The dropped records are counted."""
    pending = PendingChanges(PendingLimits(logs=10))
    assert pending.add(make_change_set(logs=[record(number) for number in range(25)])) == 15
    merged = pending.drain()
    assert merged is not None
    assert [record.number for record in merged.logs] == list(range(15, 25))


@pytest.mark.parametrize(
    "fields",
    [
        {"logs": [record(1)]},
        {"sample": sample(1.0)},
        {"batches": (BatchDeclaration("b", "b", "batch", 1, WALL, None, 1),)},
    ],
)
def test_tick_submits_change_set_with_a_single_record_immediately(
    recorder: Recorder, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the next heartbeat."""
    written: list[Any] = []

    class Sink:
        def write(self, change_set: Any) -> None:
            written.append(change_set)

        def close(self) -> None:
            """Do nothing."""

    worker = SinkWorker("recorder", Sink())
    recorder.runtime._sink_workers.append(worker)
    recorder.tick()
    wait_until(lambda: len(written) == 1, 60.0)
    monkeypatch.setattr(
        recorder.runtime._store,
        "collect",
        lambda: make_change_set(clock=recorder.clock.monotonic(), **fields),
    )
    recorder.tick()
    wait_until(lambda: len(written) == 2, 60.0)
    monkeypatch.undo()


def test_failing_on_written_does_not_reject_the_change_set() -> None:
    """The write counts as successful."""
    written: list[Any] = []

    class Sink:
        def write(self, change_set: Any) -> None:
            written.append(change_set)

        def close(self) -> None:
            """Do nothing."""

    def fail(_change_set: Any) -> None:
        raise OSError("no requests")

    worker = SinkWorker("failing", Sink(), on_written=fail)
    worker.submit(make_change_set())
    assert worker.close(60.0)
    assert len(written) == 1
