"""Tests of the tree: new attempts, duplicate ids, and memory limits."""

from __future__ import annotations

import gc
import itertools
import math
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import otel_progress as progress
from otel_progress import Status
from otel_progress.live.listener import NullListener
from otel_progress.live.node import CallSite, Node, Spec
from otel_progress.live.store import LiveStore
from otel_progress.live.tree import Limits
from otel_progress.model import Failure
from otel_progress.protocols import EventQuery
from otel_progress.records import MAX_TRAJECTORIES_PER_KEY
from otel_progress.runtime.sink_worker import PendingChanges
from otel_progress.testing import Recorder, recording
from tests.support.factories import instance


def test_new_attempt_of_a_level_has_the_same_path(recorder: Recorder) -> None:
    """The counts of the earlier attempt are subtracted."""
    with progress.operation("o", id="o", total=2) as op:
        with pytest.raises(OSError, match="gone"), op.level("song", 1, "First") as level:
            raise OSError("gone")
        assert (op.snapshot().current, op.snapshot().failed) == (1, 1)
        with op.level("song", 1) as level:
            assert (op.snapshot().current, op.snapshot().failed) == (0, 0)
            assert (level.snapshot().info.attempt, level.snapshot().info.name) == (2, "First")
        with op.level("song", 2) as other:
            other.skip()
        with op.level("song", 1):
            assert (op.snapshot().current, op.snapshot().skipped) == (1, 1)
    levels = recorder.operation("o").levels
    assert [(one.path, one.info.attempt, one.status) for one in levels] == [
        ("song:1", 3, Status.COMPLETED),
        ("song:2", 1, Status.SKIPPED),
    ]
    assert (op.snapshot().current, op.snapshot().failed) == (2, 0)


def test_new_attempt_starts_without_children(recorder: Recorder) -> None:
    """Sinks drop the levels below the earlier attempt at once."""
    store, sink = recorder.runtime._store, PendingChanges()
    with progress.operation("o", id="o") as op:
        with op.level("song", 1) as level:
            level.level("old", 1).start().level("deep", 1).start().complete()
            level.level("both", 1).start().complete()
            sink.add(store.collect())
        with op.level("song", 1) as level:
            both = level.level("both", 1).start()
            sink.add(store.collect())
            assert (
                list_reported_paths(sink)
                == ["song:1", "song:1/both:1"]
                == [one.path for one in recorder.operation("o").levels]
            )
            for number in range(1_000):
                level.level("filler", number).start().complete()
            sink.add(store.collect())
            assert "song:1/both:1" in list_reported_paths(sink)
            both.complete()
            sink.add(store.collect())
            assert list_reported_paths(sink) == sorted(one.path for one in recorder.operation("o").levels)


def list_reported_paths(sink: PendingChanges) -> list[str]:
    """Return the levels that a sink has received and not dropped."""
    return sorted(path for _, path in sink._snapshots if path)


def test_new_attempt_within_one_tick_is_reported_as_the_last_attempt(recorder: Recorder) -> None:
    """The earlier attempt is not reported."""
    with progress.operation("o", id="o") as op:
        for _ in range(3):
            op.level("song", 1).start().complete()
        batch = recorder.runtime._store.collect()
    reported = [(one.path, one.info.attempt) for one in batch.snapshots]
    assert reported == [("", 1), ("song:1", 3)]


@pytest.mark.usefixtures("lenient")
def test_duplicate_id_gets_another_id_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Both levels or operations run."""
    with progress.operation("o", id="o") as op, op.level("song", 1) as first, op.level("song", 1) as second:
        assert (first.path, second.path) == ("song:1", "song:1~2")
        with progress.operation("o", id="o") as other, progress.operation("o", id="o") as third:
            assert [other.operation_id, third.operation_id] == ["o~2", "o~3"]
    assert len([record for record in caplog.records if record.name == "otel_progress"]) == 2


def test_duplicate_id_in_strict_mode_raises(recorder: Recorder) -> None:
    """Nothing starts."""
    with progress.operation("o", id="o") as op, op.level("song", 1):
        with pytest.raises(ValueError, match="Invalid song id '1': expected an id that is not in use"):
            op.level("song", 1).start()
        with pytest.raises(ValueError, match="Invalid operation id 'o'"):
            progress.operation("o", id="o").start()
    assert len(recorder.runtime.get_history()) == 1


def test_ended_operation_can_run_again_under_its_id(recorder: Recorder) -> None:
    """A query returns the newest run."""
    for total in (1, 2):
        with progress.operation("o", id="o", total=total) as op:
            op.increment()
    first, second = reversed(recorder.runtime.get_history())
    assert first.run != second.run
    assert recorder.operation("o").root.total == 2
    with progress.operation("o", id="o", total=3):
        assert recorder.operation("o").status is Status.RUNNING


def test_operation_with_many_levels_has_bounded_memory_and_exact_counts() -> None:
    """Only the newest levels stay in memory."""
    with recording(sampler=ALWAYS_OFF, strict=False) as recorder:
        limits = recorder.runtime._store.limits
        with progress.operation("o", id="o", total=24_000) as op:
            run_levels(recorder, op, 2_000)
            before = count_objects()
            run_levels(recorder, op, 10_000)
            assert count_objects() - before < 1_000
            one = recorder.operation("o")
            assert (one.root.current, one.root.failed, one.ratio) == (12_000, 1_200, 0.5)
            assert len(one.levels) == limits.levels + limits.failed_levels
            assert sum(level.status is Status.FAILED for level in one.levels) == limits.failed_levels
        recorder.tick()
        items = {
            key: units
            for series in recorder.runtime._totals.read().counters.values()
            for key, units in series.items()
        }
        assert items["o", "file", "completed"] == 10_800


def run_levels(recorder: Recorder, op: progress.Level, count: int) -> None:
    """Run levels one after the other with some ticks. One in ten fails."""
    for number in range(count):
        level = op.level("file", total=1).start()
        if number % 10 == 0:
            level.fail("odd")
        else:
            level.increment()
            level.complete()
        if number % 500 == 0:
            recorder.tick()


def count_objects() -> int:
    """Return the number of objects that the garbage collector tracks."""
    gc.collect()
    return len(gc.get_objects())


def test_item_events_are_bounded(lenient: Recorder) -> None:
    """Failed items have their own limit, and dropped events are counted."""
    limits = lenient.runtime._store.limits
    with progress.operation("o", id="o") as op:
        for number in range(40_000):
            op.item(f"i{number}", outcome="failed" if number % 1000 == 0 else "completed")
            if number % 10_000 == 0 and number < 20_000:
                lenient.tick()
        assert op.snapshot().current == 40_000
        events = lenient.runtime.get_events("o")
    assert (
        len(lenient.runtime._store.reader.events("o", EventQuery(limit=10_000)))
        <= limits.events + limits.failed_events
    )
    assert len(events) <= 1_000
    dropped = {
        key: units for one in lenient.runtime._totals.read().counters.values() for key, units in one.items()
    }
    assert dropped["event",] == 40_000 - 10_001 - limits.waiting_events


def test_ended_operations_are_bounded(recorder: Recorder) -> None:
    """Their levels have a limit in all. The newest operations are complete."""
    limits = recorder.runtime._store.limits
    for number in range(220):
        with progress.operation("o", id=number) as op:
            for child in range(30):
                op.level("x", child).start().complete()
    recorder.tick()
    history = recorder.runtime.get_history(limit=5_000)
    assert len(history) == limits.history
    assert history[0].operation_id == "219"
    kept = [len(recorder.operation(one.operation_id).levels) for one in history]
    assert kept[0] == 30
    assert limits.history_levels - 30 <= sum(kept) <= limits.history_levels
    assert {one.root.current for one in history} == {30}


def test_deep_tree_works(recorder: Recorder) -> None:
    """Hundreds of nested levels roll up, end and are read."""
    handles = [progress.operation("o", id="o", total=1).start()]
    for _ in range(400):
        handles.append(handles[-1].level("x", total=2).start())
    handles[-1].increment()
    recorder.tick()
    assert recorder.operation("o").ratio == pytest.approx(2.0**-400)
    handles[0].complete()
    assert len(recorder.operation("o").levels) == 400
    assert {level.status for level in recorder.operation("o").levels} == {Status.CANCELLED}
    assert len(recorder.spans()) == 401


def test_failed_child_without_weight_adds_no_failed_unit(recorder: Recorder) -> None:
    """Its own status is failed."""
    with progress.operation("o", id="o", total=2) as op:
        op.level("setup", 1, weight=0).fail("no room")
        op.level("half", 1, weight=0.5).fail("broken")
        root = recorder.operation("o").root
        assert (root.current, root.failed) == (0.5, 1)
    found = recorder.operation("o").get_level("setup:1")
    assert found is not None
    assert found.status is progress.Status.FAILED


class ReasonListener(NullListener):
    """Stores the reasons of rejections."""

    def __init__(self) -> None:
        self.reported: list[str] = []

    def on_late_rejection(self, reason: str, text: str, call_site: CallSite | None) -> None:
        """Store the reason."""
        assert "left out of the journal" in text
        assert call_site is None
        self.reported.append(reason)


def end_many(store: LiveStore, count: int, parent: Node | None = None) -> None:
    """Start and end levels with the ids 0, 1 and so on."""
    for number in range(count):
        node = store.start_level(parent, spec("one", str(number)))
        assert node is not None
        store.end_level(node, Status.COMPLETED)


def collect_ended(store: LiveStore) -> list[str]:
    """Return the ids of the ended levels of one tick."""
    return [one.info.id for one in store.collect().snapshots if one.status.finished]


def test_ended_levels_without_a_tick_drop_and_report_the_oldest() -> None:
    """Their number is bounded."""
    listener = ReasonListener()
    store = LiveStore(instance(), limits=Limits(waiting_levels=3), listener=listener)
    end_many(store, 10, store.start_level(None, spec("all", "all")))
    assert collect_ended(store) == ["7", "8", "9"]
    assert listener.reported == ["waiting"] * 7
    assert store.dropped_ends == 7


def test_ended_operation_among_too_many_levels_is_not_dropped() -> None:
    """Only levels below operations are dropped."""
    store = LiveStore(instance(), limits=Limits(waiting_levels=3))
    parent = store.start_level(None, spec("all", "all"))
    end_many(store, 2)
    end_many(store, 10, parent)
    assert sorted(collect_ended(store)) == ["0", "1", "9"]


def test_ended_operations_without_a_tick_are_reduced_and_all_collected() -> None:
    """The reduced ones have the same values as those that a tick collects at once."""
    snapshots = []
    for limit in (100, 4):
        ids = iter(f"{number:016x}" for number in itertools.count())
        store = LiveStore(
            instance(),
            clock=itertools.count(10.0).__next__,
            now=itertools.count(1_000.0).__next__,
            ids=ids.__next__,
            limits=Limits(waiting_operations=limit),
        )
        for number in range(10):
            node = store.start_level(None, spec("one", str(number)))
            assert node is not None
            node.message, node.metadata = "odd \ud800", {"rate": math.inf, "tags": ("a", "b")}
            store.end_level(node, Status.FAILED, error=Failure("ValueError", "no", "Traceback"))
        assert (store.waiting_ends > 0) is (limit == 4)
        assert not store.idle
        snapshots.append(sorted(store.collect().snapshots, key=lambda one: one.info.id))
        assert store.idle
        assert store.dropped_ends == 0
    plain, reduced = snapshots
    assert [one.info.id for one in plain] == [str(number) for number in range(10)]
    assert [one.info for one in reduced] == [one.info for one in plain]
    assert [replace(one, sequence=0) for one in reduced] == [replace(one, sequence=0) for one in plain]


def test_reduced_operations_beyond_the_memory_limit_drop_and_report_the_oldest() -> None:
    """A store without a file has no other place for them."""
    listener = ReasonListener()
    store = LiveStore(
        instance(), limits=Limits(waiting_operations=0, waiting_end_bytes=2_000), listener=listener
    )
    end_many(store, 100)
    ended = collect_ended(store)
    assert 0 < len(ended) < 20
    assert ended == [str(number) for number in range(100 - len(ended), 100)]
    assert store.dropped_ends == len(listener.reported) == 100 - len(ended)


def test_reduced_operation_leaves_its_duration_to_later_runs() -> None:
    """The change set has the newest entries of a key only, as sinks store no more."""
    store = LiveStore(instance(), limits=Limits(waiting_operations=0), has_trajectory_store=True)
    end_many(store, MAX_TRAJECTORIES_PER_KEY + 5)
    change_set = store.collect()
    runs = [one.info.run for one in change_set.snapshots]
    assert [entry.run for entry in change_set.trajectories] == runs[5:]


def spec(type_: str, id_: str) -> Spec:
    """Return a request with a type and an id."""
    return Spec(type_, id_, None, None, None, 1, None, None, {})
