"""Levels entered again, at once, or below what has ended; and how much of them is kept."""

from __future__ import annotations

import gc

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import otel_progress as progress
from otel_progress import Status
from otel_progress.live.listener import NullListener
from otel_progress.live.node import Spec
from otel_progress.live.store import LiveStore
from otel_progress.live.tree import Limits
from otel_progress.protocols import EventQuery
from otel_progress.runtime.sink_worker import PendingChanges
from otel_progress.testing import Recorder, recording
from tests.support.factories import instance


def test_a_retry_is_the_same_level(recorder: Recorder) -> None:
    """Entering an ended level again is another attempt at the same place, and what the first one came to is taken back."""
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


def test_a_retry_begins_without_children(recorder: Recorder) -> None:
    """What was below the first attempt is gone from live state and, at once, from every sink; what is below now stays there."""
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
                told(sink)
                == ["song:1", "song:1/both:1"]
                == [one.path for one in recorder.operation("o").levels]
            )
            for number in range(1_000):
                level.level("filler", number).start().complete()
            sink.add(store.collect())
            assert "song:1/both:1" in told(sink)
            both.complete()
            sink.add(store.collect())
            assert told(sink) == sorted(one.path for one in recorder.operation("o").levels)


def told(sink: PendingChanges) -> list[str]:
    """Return the levels a sink has been told of and not told to forget."""
    return sorted(path for _, path in sink._snapshots if path)


def test_a_retry_within_one_tick_reaches_sinks_whole(recorder: Recorder) -> None:
    """A level and a retry of it between two ticks are told as the last attempt."""
    with progress.operation("o", id="o") as op:
        for _ in range(3):
            op.level("song", 1).start().complete()
        batch = recorder.runtime._store.collect()
    told = [(one.path, one.info.attempt) for one in batch.snapshots]
    assert told == [("", 1), ("song:1", 3)]


@pytest.mark.usefixtures("lenient")
def test_the_same_id_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Levels and operations that run at once under one id are told apart, with one warning."""
    with progress.operation("o", id="o") as op, op.level("song", 1) as first, op.level("song", 1) as second:
        assert (first.path, second.path) == ("song:1", "song:1~2")
        with progress.operation("o", id="o") as other, progress.operation("o", id="o") as third:
            assert [other.operation_id, third.operation_id] == ["o~2", "o~3"]
    assert len([record for record in caplog.records if record.name == "otel_progress"]) == 2  # one a line


def test_strict_refuses_the_same_id(recorder: Recorder) -> None:
    """Strict raises, and begins nothing."""
    with progress.operation("o", id="o") as op, op.level("song", 1):
        with pytest.raises(ValueError, match="Invalid song id '1': expected an id that is not in use"):
            op.level("song", 1).start()
        with pytest.raises(ValueError, match="Invalid operation id 'o'"):
            progress.operation("o", id="o").start()
    assert len(recorder.runtime.get_history()) == 1


def test_the_same_operation_again(recorder: Recorder) -> None:
    """An id that has ended can run again, as another run; asking for it finds the newest."""
    for total in (1, 2):
        with progress.operation("o", id="o", total=total) as op:
            op.increment()
    first, second = reversed(recorder.runtime.get_history())
    assert first.run != second.run
    assert recorder.operation("o").root.total == 2
    with progress.operation("o", id="o", total=3):
        assert recorder.operation("o").status is Status.RUNNING


def test_twelve_thousand_levels() -> None:
    """An operation keeps its counts exactly and only the most recent few hundred levels, however many it had."""
    with recording(sampler=ALWAYS_OFF, strict=False) as recorder:
        limits = recorder.runtime._store.limits
        with progress.operation("o", id="o", total=24_000) as op:
            begin_and_end(recorder, op, 2_000)
            before = living()
            begin_and_end(recorder, op, 10_000)
            assert living() - before < 1_000
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


def begin_and_end(recorder: Recorder, op: progress.Level, count: int) -> None:
    """Run levels one after the other, a tenth of which fail, with a tick now and then."""
    for number in range(count):
        level = op.level("file", total=1).start()
        if number % 10 == 0:
            level.fail("odd")
        else:
            level.increment()
            level.complete()
        if number % 500 == 0:
            recorder.tick()


def living() -> int:
    """Return the number of objects that the garbage collector knows."""
    gc.collect()
    return len(gc.get_objects())


def test_forty_thousand_events(lenient: Recorder) -> None:
    """Item events are bounded: what failed is kept apart, and what waits for a tick beyond the bound is counted."""
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


def test_hundreds_of_operations(recorder: Recorder) -> None:
    """Ended operations are kept up to a number, and their levels up to a number in all; the newest ones whole."""
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


def test_deep_trees(recorder: Recorder) -> None:
    """Hundreds of levels below each other roll up, end, and are read."""
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


def test_a_child_of_no_weight_fails_for_itself(recorder: Recorder) -> None:
    """What counts for no unit of the parent cannot be one of its failed units; its own status tells of it."""
    with progress.operation("o", id="o", total=2) as op:
        op.level("setup", 1, weight=0).fail("no room")
        op.level("half", 1, weight=0.5).fail("broken")
        root = recorder.operation("o").root
        assert (root.current, root.failed) == (0.5, 1)
    found = recorder.operation("o").get_level("setup:1")
    assert found is not None
    assert found.status is progress.Status.FAILED


@pytest.mark.parametrize("below", [False, True], ids=["operations", "levels"])
def test_what_waits_for_a_stuck_tick_is_bounded(below: bool) -> None:
    """Without a tick, ended operations and levels are let go beyond the bound, the oldest first, and that is told."""
    told: list[str] = []

    class Listener(NullListener):
        def on_late_rejection(self, reason: str, text: str) -> None:
            assert "left out of the journal" in text
            told.append(reason)

    store = LiveStore(instance(), limits=Limits(waiting_levels=3), listener=Listener())
    parent = store.start_level(None, spec("all", "all")) if below else None
    for number in range(10):
        node = store.start_level(parent, spec("one", str(number)))
        assert node is not None
        store.end_level(node, Status.COMPLETED)
    ended = [one.info.id for one in store.collect().snapshots if one.status.finished]
    assert ended == ["7", "8", "9"]
    assert told == ["waiting"] * 7


def spec(type_: str, id_: str) -> Spec:
    """Return what a caller asks for who gives a type and an id."""
    return Spec(type_, id_, None, None, None, 1, None, None, {})
