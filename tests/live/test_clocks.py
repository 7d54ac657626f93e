"""Tests of durations, conditions and estimates on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

import otel_progress as progress
from otel_progress import Condition, Status
from otel_progress.testing import WALL, FakeClock, Recorder, recording


def test_elapsed_time_after_the_end_is_constant(recorder: Recorder) -> None:
    """The wall clock times are those of the start and the end."""
    op = progress.operation("o", id="o").start()
    recorder.clock.advance(90.0)
    assert recorder.operation("o").elapsed_seconds == 90.0
    op.complete()
    recorder.clock.advance(1_000.0)
    ended = recorder.operation("o")
    assert (ended.elapsed_seconds, ended.remaining_seconds) == (90.0, 0.0)
    assert (ended.root.info.started_at, ended.root.ended_at) == (WALL, WALL + 90.0)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.0])
def test_step_of_the_wall_clock_changes_no_elapsed_time_or_condition(step: float) -> None:
    """Estimates and deadlines do not change either."""
    with recording() as recorder:
        with progress.operation("o", id="o", total=100, deadline=600) as op:
            for count in range(10):
                recorder.clock.advance(10.0)
                op.increment()
                recorder.tick()
                if count == 4:
                    recorder.clock.step_wall(step)
            one = recorder.operation("o")
            assert one.elapsed_seconds == 100.0
            assert one.remaining_seconds == pytest.approx(900.0, rel=0.2)
            assert one.condition is Condition.OK
            assert one.root.stall_after_s == 60.0
            recorder.clock.advance(55.0)
            assert recorder.operation("o").condition is Condition.OK
            recorder.clock.advance(446.0)
            assert recorder.operation("o").condition is Condition.OVERDUE
        assert recorder.operation("o").root.duration_s == 601.0
        assert recorder.operation("o").condition is Condition.OK


def test_operation_without_an_advance_is_stalled_until_the_next_one(recorder: Recorder) -> None:
    """A new message is not an advance."""
    with progress.operation("o", id="o", total=10) as op:
        op.increment()
        recorder.tick()
        recorder.clock.advance(60.0)
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(0.1)
        assert recorder.operation("o").condition is Condition.STALLED
        op.update(message="still here")
        recorder.tick()
        assert recorder.operation("o").condition is Condition.STALLED
        op.increment()
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(3 * 60.1)
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(1.0)
        assert recorder.operation("o").condition is Condition.STALLED


@pytest.mark.parametrize("below", ["begin", "count", "end"])
def test_start_count_or_end_of_a_level_is_an_advance_of_its_operation(recorder: Recorder, below: str) -> None:
    """An operation with active levels is not stalled."""
    with progress.operation("o", id="o") as op:
        level = op.level("x").start()
        recorder.tick()
        recorder.clock.advance(100.0)
        assert recorder.operation("o").condition is Condition.STALLED
        {"begin": lambda: level.level("y").start(), "count": level.increment, "end": level.complete}[below]()
        assert recorder.operation("o").condition is Condition.OK


def test_stall_after_sets_the_shortest_stall() -> None:
    """The setting defines the minimum time without an advance."""
    with recording(stall_after=5.0) as recorder, progress.operation("o", id="o"):
        recorder.tick()
        recorder.clock.advance(5.5)
        assert recorder.operation("o").condition is Condition.STALLED


@pytest.mark.parametrize(
    "deadline",
    [
        lambda: 30,
        lambda: 30.0,
        lambda: timedelta(seconds=30),
        lambda: datetime.fromtimestamp(WALL + 30, timezone.utc),
        lambda: datetime.fromtimestamp(WALL + 30, timezone(timedelta(hours=-7))),
        lambda: datetime.fromtimestamp(WALL + 30),  # noqa: DTZ006
    ],
)
def test_operation_after_its_deadline_is_overdue(recorder: Recorder, deadline: Callable[[], object]) -> None:
    """A deadline is a number of seconds, a duration or a time."""
    with progress.operation("o", id="o", deadline=deadline()) as op:  # type: ignore[arg-type]
        assert op.snapshot().info.deadline_at == WALL + 30
        recorder.clock.advance(30.0)
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(0.1)
        assert recorder.operation("o").condition is Condition.OVERDUE


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a time zone with summer and winter time."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_naive_deadline_after_a_clock_change_is_local_time() -> None:
    """The deadline uses the offset at its own time."""
    with recording(clock=FakeClock(wall=datetime(2026, 1, 10, tzinfo=timezone.utc).timestamp())):
        for month, offset in ((2, 1), (7, 2)):
            with progress.operation("o", deadline=datetime(2026, month, 1, 12)) as op:  # noqa: DTZ001
                expected = datetime(2026, month, 1, 12 - offset, tzinfo=timezone.utc).timestamp()
                assert op.snapshot().info.deadline_at == expected


@pytest.mark.parametrize(
    "deadline",
    [datetime.max, datetime.min, timedelta(days=-1), "tomorrow", float("nan")],  # noqa: DTZ901
)
def test_invalid_deadline_is_rejected(lenient: Recorder, deadline: object) -> None:
    """The operation runs without it. A deadline in the past is valid."""
    with progress.operation("o", id="o", deadline=deadline) as op:  # type: ignore[arg-type]
        at = op.snapshot().info.deadline_at
        lenient.clock.advance(0.1)
        assert lenient.operation("o").condition is (
            Condition.OVERDUE if at is not None and at < WALL else Condition.OK
        )
    assert lenient.operation("o").status is Status.COMPLETED


def test_estimate_counts_down_between_ticks_and_ends_with_the_operation(recorder: Recorder) -> None:
    """It exists once there is a rate."""
    with progress.operation("o", id="o", total=100) as op:
        assert recorder.operation("o").remaining_seconds is None
        for _ in range(50):
            recorder.clock.advance(2.0)
            op.increment()
            recorder.tick()
        first = recorder.operation("o").remaining_seconds
        assert first == pytest.approx(100.0, rel=0.05)
        recorder.clock.advance(1.0)
        later = recorder.operation("o").remaining_seconds
        assert later == pytest.approx(first - 1.0)
    assert recorder.operation("o").root.eta is None


def test_curve_of_a_long_run_stays_bounded(recorder: Recorder) -> None:
    """The estimate stays correct."""
    with progress.operation("o", id="o", total=2_000) as op:
        for _ in range(1_000):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.runtime._store.collect()
        assert recorder.operation("o").remaining_seconds == pytest.approx(1_000.0, rel=0.02)
        assert op._node.estimation is not None
        assert 32 <= len(op._node.estimation.points) <= 64
