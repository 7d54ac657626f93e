"""Tests of the times of a run when the wall clock is set."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.live.node import Operation
from otel_progress.protocols import EventQuery
from otel_progress.testing import WALL, Recorder, recording


def test_times_after_the_clock_was_set_back_follow_the_monotonic_clock(recorder: Recorder) -> None:
    """No time precedes the start of the operation or an earlier time."""
    logger = logging.getLogger("app")
    with progress.operation("o", id="o", total=2) as op:
        recorder.clock.advance(10.0)
        op.item("before")
        recorder.tick()
        recorder.clock.step_wall(-3600.0)
        recorder.clock.advance(10.0)
        op.item("after")
        with op.level("a", 1):
            recorder.clock.advance(10.0)
            recorder.runtime.request_cancel("o", "stop")
            logger.warning("late")
        running = recorder.operation("o")
    ended = recorder.operation("o")
    level = ended.get_level("a:1")
    assert level is not None
    assert ended.root.info.started_at == WALL
    assert [event.at for event in recorder.runtime.reader.events("o", EventQuery())] == [WALL + 10, WALL + 20]
    assert (level.info.started_at, level.ended_at, level.duration_s) == (WALL + 20, WALL + 30, 10.0)
    assert running.cancel_requested_at == WALL + 30
    assert (running.root.observed_at, running.root.advanced_at) == (WALL + 30, WALL + 30)
    assert (ended.root.ended_at, ended.root.duration_s) == (WALL + 30, 30.0)


def test_times_of_log_records_after_the_clock_was_set_back_do_not_decrease() -> None:
    """They use the clock of their operation."""
    logger = logging.getLogger("app")
    with recording(capture_logs=True) as recorder:
        with progress.operation("o", id="o"):
            logger.warning("first")
            recorder.clock.step_wall(-3600.0)
            recorder.clock.advance(1.0)
            logger.warning("second")
        records = recorder.runtime.get_logs("o")
    assert [record.at for record in records] == [WALL, WALL + 1.0]


def test_times_after_a_suspension_are_those_of_the_wall_clock(recorder: Recorder) -> None:
    """The monotonic clock stops while the machine is suspended."""
    with progress.operation("o", id="o") as op:
        recorder.clock.advance(10.0)
        op.increment()
        recorder.tick()
        recorder.clock.step_wall(7200.0)
        recorder.clock.advance(5.0)
    ended = recorder.operation("o").root
    assert (ended.ended_at, ended.duration_s) == (WALL + 7215.0, 15.0)


def test_times_after_the_clock_was_ahead_for_a_moment_stay_in_order(recorder: Recorder) -> None:
    """A level of that moment ends after its start, and before its parent."""
    with progress.operation("o", id="o") as op:
        recorder.clock.step_wall(172_800.0)
        with op.level("a", 1):
            recorder.clock.step_wall(-172_800.0)
            recorder.clock.advance(1.0)
        recorder.clock.advance(1.0)
    ended = recorder.operation("o")
    level = ended.get_level("a:1")
    assert level is not None
    started = level.info.started_at
    assert started is not None
    assert (level.ended_at, ended.root.ended_at) == (started + 1.0, started + 2.0)
    with progress.operation("o", id="next"):
        pass
    assert recorder.operation("next").root.info.started_at == WALL + 2.0


def test_batch_after_the_clock_was_set_back_has_its_duration(recorder: Recorder) -> None:
    """It ends after its start and after its operations."""
    with progress.batch("night", id="b", total=1) as batch:
        with batch.operation("o"):
            recorder.clock.advance(5.0)
            recorder.clock.step_wall(-3600.0)
            recorder.clock.advance(5.0)
        recorder.clock.advance(1.0)
    ended = batch.snapshot()
    assert ended.ended_at is not None
    assert (ended.started_at, ended.ended_at, ended.elapsed_seconds) == (WALL, WALL + 11.0, 11.0)


def test_span_after_the_clock_was_set_back_ends_after_its_start(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are between them, and the spans of its levels too."""
    moment = [1_800_000_000 * 10**9]

    def read_ns() -> int:
        moment[0] += 1000
        return moment[0]

    monkeypatch.setattr("opentelemetry.sdk.trace.time_ns", read_ns)
    monkeypatch.setattr("otel_progress.instrument.spans.time_ns", read_ns)

    def work() -> None:
        moment[0] -= 3600 * 10**9
        recorder.clock.step_wall(-3600.0)
        recorder.clock.advance(1.0)
        moment[0] += 10**9
        with progress.level("a"):
            progress.current_level().item("x", outcome="failed", error="bad")
            recorder.clock.advance(1.0)
            moment[0] += 10**9
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), progress.operation("o", id="o"):
        work()
    level, operation = recorder.spans()
    for span in (level, operation):
        assert span.start_time is not None
        assert span.end_time is not None
        times = [span.start_time, *[event.timestamp for event in span.events], span.end_time]
        assert times == sorted(times)
    assert operation.start_time is not None
    assert operation.end_time is not None
    assert level.start_time is not None
    assert level.end_time is not None
    assert operation.start_time <= level.start_time
    assert level.end_time <= operation.end_time
    assert operation.end_time - operation.start_time == pytest.approx(2 * 10**9, rel=0.01)


@given(
    st.lists(
        st.tuples(st.floats(0.0, 1e5), st.sampled_from([0.0, 0.0, -3600.0, 7200.0, -1e6, 1e6])), min_size=2
    )
)
def test_times_of_a_run_with_any_steps_of_the_wall_clock_ascend(steps: list[tuple[float, float]]) -> None:
    """They are never behind the wall clock or the monotonic clock."""
    operation = Operation("o", "o", "r", "i")
    now, clock = WALL, 5000.0
    before = start = operation.date(now, clock)
    started = clock
    for seconds, step in steps:
        clock += seconds
        now += seconds + step
        at = operation.date(now, clock)
        assert at >= before
        assert at >= now
        assert at - start >= clock - started - 0.01
        before = at
