"""Queries of the active configuration, and their independence of ticks."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import Outcome, Status
from otel_progress.journal import open_journal
from otel_progress.protocols import EventQuery, Reader
from otel_progress.testing import CountingIds, FakeClock, Recorder, recording


@pytest.mark.usefixtures("recorder")
def test_query_without_tick_returns_own_writes() -> None:
    """Every write is in the next result."""
    with progress.operation("job", "Job", id="j", total=4, unit="file") as op:
        for count in range(1, 4):
            op.increment()
            one = progress.get_operation("j")
            assert one is not None
            assert (one.root.current, one.ratio) == (count, count / 4)
        op.update(message="now", key="value")
        with op.level("x", 1) as level:
            level.item("a", outcome="failed")
            (active,) = progress.get_active_operations()
            assert (active.message, dict(active.metadata)) == ("now", {"key": "value"})
            found = active.get_level("x:1")
            assert found is not None
            assert (found.current, found.failed) == (1, 1)
            assert [event.name for event in progress.get_events("j", path="x:1", outcome=Outcome.FAILED)] == [
                "a"
            ]
        assert progress.get_history() == []
    overall = progress.get_history("job")[0].get_overall_progress()
    assert (overall.percentage, overall.completed, overall.failed, overall.total) == (75.0, 3, 1, 4)
    assert progress.get_active_operations() == []


def test_queries_with_filters_return_matching_results(recorder: Recorder) -> None:
    """Type, limit, time and unknown ids are covered."""
    for number in range(5):
        with progress.operation("even" if number % 2 == 0 else "odd", id=number) as op:
            recorder.clock.advance(1.0)
            op.item("x")
    assert [one.operation_id for one in progress.get_history()] == ["4", "3", "2", "1", "0"]
    assert [one.operation_id for one in progress.get_history("odd")] == ["3", "1"]
    assert [one.operation_id for one in progress.get_history(limit=2)] == ["4", "3"]
    assert (
        progress.get_history(limit=0) == progress.get_history(limit=-1) == progress.get_history("none") == []
    )
    assert progress.get_operation("5") is None
    assert progress.get_events("5") == []
    at = progress.get_events("2")[0].at
    assert progress.get_events("2", since=at)
    assert progress.get_events("2", since=at + 1) == []


def test_events_query_with_path_returns_subtree(recorder: Recorder) -> None:
    """A level with a longer id of the same prefix is not included."""
    with progress.operation("o", id="o") as op:
        for id_ in ("1", "10"):
            with op.level("x", id_) as level:
                level.item(id_)
                with level.level("y", 1) as below:
                    below.item(f"{id_} below")
    assert [event.name for event in progress.get_events("o", path="x:1")] == ["1", "1 below"]
    assert [event.name for event in progress.get_events("o", path="")] == ["1", "1 below", "10", "10 below"]
    assert recorder.runtime._store.reader.events("o", EventQuery(limit=1))[0].name == "10 below"
    assert recorder.runtime._store.reader.events("o", EventQuery(limit=0)) == []


def test_query_before_tick_keeps_changes_for_sinks(recorder: Recorder) -> None:
    """Sinks, callbacks and spans still receive them."""
    store = recorder.runtime._store
    with progress.operation("o", id="o", total=4) as op, op.level("x", 1, total=4) as level:
        store.collect()
        level.increment()
        op.update(message="seen")
        recorder.operation("o")
        level.snapshot()
        told = {one.path: one for one in store.collect().snapshots}
        assert set(told) == {"", "x:1"}
        assert (told[""].message, told[""].ratio, told["x:1"].current) == ("seen", 0.0625, 1)
        assert [event.name for span in (op.span, level.span) for event in span.events] == ["progress.updated"]  # type: ignore[attr-defined]
        assert store.collect().snapshots == []
        level.item("a")
        recorder.runtime.get_events("o")
        assert [event.name for event in store.collect().events] == ["a"]


def test_sequences_increase_and_change_sets_have_newest_state(recorder: Recorder) -> None:
    """Parents come before children."""
    store, last = recorder.runtime._store, 0
    with progress.operation("o", id="o", total=10) as op:
        for number in range(10):
            with op.level("x", number) as level:
                level.increment()
                batch = store.collect()
                assert [one.info.depth for one in batch.snapshots] == sorted(
                    one.info.depth for one in batch.snapshots
                )
                assert min(one.sequence for one in batch.snapshots) > 0
                newest = max(one.sequence for one in batch.snapshots)
                assert newest > last
                last = newest
    final = store.collect()
    assert final.snapshots[0].status is Status.COMPLETED
    assert store.idle


def test_change_set_has_process_and_clocks(recorder: Recorder) -> None:
    """An idle store has no changes."""
    batch = recorder.runtime._store.collect()
    assert (batch.at, batch.clock) == (recorder.clock.wall(), recorder.clock.monotonic())
    assert batch.instance is recorder.runtime._store.instance
    assert not any((batch.snapshots, batch.events, batch.evicted, batch.items))


def test_live_store_is_a_reader(recorder: Recorder) -> None:
    """Its watch yields active operations, changes and ends."""
    reader: Reader = recorder.runtime._store.reader
    assert isinstance(reader, Reader)
    with progress.operation("a", id="a", total=3) as a, progress.operation("b", id="b"):
        watching = reader.watch(0.0)
        assert [one.operation_id for one in next(watching)] == ["a", "b"]
        assert list(next(watching)) == []
        a.increment()
        assert [(one.operation_id, one.ratio) for one in next(watching)] == [("a", 1 / 3)]
        assert [one.levels for one in reader.active(levels=False)] == [[], []]
    assert sorted(one.operation_id for one in next(watching)) == ["a", "b"]
    assert list(next(watching)) == []
    watching.close()  # type: ignore[attr-defined]


def test_watch_yields_run_that_started_and_ended_between_polls(recorder: Recorder) -> None:
    """It is yielded once."""
    watching = recorder.runtime._store.reader.watch(0.0)
    assert list(next(watching)) == []
    with progress.operation("quick", id="q"):
        pass
    assert [(one.operation_id, one.status) for one in next(watching)] == [("q", Status.COMPLETED)]
    assert list(next(watching)) == []


def test_query_of_dropped_run_is_answered_by_journal(tmp_path: Path) -> None:
    """Live runs are read from memory."""
    store = f"sqlite:///{tmp_path}/progress.db"
    clock, ids = FakeClock(wall=time.time()), CountingIds()
    with recording(store=store, clock=clock, ids=ids, ticking=True) as recorder:
        with progress.operation("o", id="before") as op:
            op.item("a", outcome="failed")
        assert recorder.runtime.force_flush(60.0)
    with recording(store=store, clock=clock, ids=ids):
        with progress.operation("o", id="now"):
            pass
        assert progress.get_history()[0].operation_id in ("now", "before")
        assert {one.operation_id for one in progress.get_history("o")} == {"now", "before"}
        assert [event.name for event in progress.get_events("before")] == ["a"]
        one = progress.get_operation("before")
        assert one is not None
        assert (one.status, one.root.failed) == (Status.COMPLETED, 1)


@pytest.mark.usefixtures("caplog")
def test_query_with_unreadable_journal_returns_live_results(tmp_path: Path) -> None:
    """The error is only reported."""
    path = tmp_path / "progress.db"
    with (
        recording(store=f"sqlite:///{path}", strict=False) as recorder,
        progress.operation("o", id="o") as op,
    ):
        op.item("x")
        recorder.runtime._components.journal.get = _fail  # type: ignore[method-assign, union-attr, assignment]
        recorder.runtime._components.journal.history = _fail  # type: ignore[method-assign, union-attr, assignment]
        assert progress.get_operation("nothing") is None
        assert progress.get_history() == []
        assert progress.get_events("o")


def _fail(*_: object, **__: object) -> None:
    raise progress.JournalError("the disk is gone")


def test_module_functions_use_active_configuration() -> None:
    """Without a configuration the results are empty."""
    assert progress.get_logs("j") == []
    assert progress.request_cancel("j") is False
    with recording(capture_logs="INFO"), progress.operation("job", id="j") as op:
        logging.getLogger("work").warning("disk %d%% full", 91)
        assert [(one.message, one.severity_text) for one in progress.get_logs("j")] == [
            ("disk 91% full", "WARNING")
        ]
        assert progress.get_logs("j", severity=logging.ERROR) == []
        assert progress.request_cancel("other") is False
        assert not op.cancel_requested
        assert progress.request_cancel("j", "no longer needed") is True
        assert op.cancel_requested
        with pytest.raises(progress.OperationCancelledError, match="no longer needed"):
            op.check_cancelled()


def test_flush_and_shutdown_without_configuration_return_true() -> None:
    """There is nothing to send and nothing to end."""
    assert progress.flush() is True
    assert progress.flush(0.0) is True
    assert progress.shutdown() is True
    assert progress.shutdown(timeout=0.0) is True


def test_flush_writes_all_progress_to_the_journal(tmp_path: Path) -> None:
    """It needs no tick."""
    with recording(store=f"sqlite:///{tmp_path}/p.db"):
        op = progress.operation("job", id="j", total=4).start()
        op.increment()
        assert progress.flush(60.0) is True
        with closing(open_journal(f"sqlite:///{tmp_path}/p.db")) as journal:
            stored = journal.get("j")
        assert stored is not None
        assert (stored.status, stored.root.current) == (Status.RUNNING, 1)
        op.complete()


@pytest.mark.usefixtures("recorder")
def test_flush_returns_false_when_a_receiver_takes_too_long() -> None:
    """The time limit is in seconds."""
    entered, release = threading.Event(), threading.Event()

    def block(*_event_and_operation: object) -> None:
        entered.set()
        release.wait(60.0)

    progress.add_callback(block)
    progress.operation("job", id="j").start().complete()
    assert entered.wait(60.0)
    assert progress.flush(0.01) is False
    release.set()
    assert progress.flush(60.0) is True


def test_shutdown_is_idempotent_and_allows_another_configuration(tmp_path: Path) -> None:
    """Active operations end as cancelled, and later calls do nothing."""
    store = f"sqlite:///{tmp_path}/p.db"
    with recording(store=store) as recorder:
        op = progress.operation("job", id="j").start()
        assert progress.shutdown(60.0) is True
        assert not op.recording
        assert recorder.runtime.is_shut_down
        assert progress.shutdown() is True
        assert progress.flush() is True
        assert progress.get_operation("j") is None
        progress.operation("job", id="ignored").start().complete()
    with recording(store=store):
        found = progress.get_operation("j")
        assert found is not None
        assert found.status is Status.CANCELLED
        assert progress.get_operation("ignored") is None
