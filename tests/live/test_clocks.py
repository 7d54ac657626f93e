"""Two clocks: durations, conditions and estimates from the monotonic one, so that a step of the wall clock changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

import otel_progress as progress
from otel_progress import Condition, Status
from otel_progress.testing import WALL, FakeClock, Recorder, recording


def test_elapsed_and_duration(recorder: Recorder) -> None:
    """Elapsed time runs until the end and then stands still; wall times are those of the moment."""
    op = progress.operation("o", id="o").start()
    recorder.clock.advance(90.0)
    assert recorder.operation("o").elapsed_seconds == 90.0
    op.complete()
    recorder.clock.advance(1_000.0)
    ended = recorder.operation("o")
    assert (ended.elapsed_seconds, ended.remaining_seconds) == (90.0, 0.0)
    assert (ended.root.info.started_at, ended.root.ended_at) == (WALL, WALL + 90.0)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.0])
def test_a_step_of_the_wall_clock(step: float) -> None:
    """An hour forward or back in mid-work changes no elapsed time, estimate, condition or deadline."""
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


def test_stalled_and_going_again(recorder: Recorder) -> None:
    """What has not advanced for longer than expected is stalled until it advances; talking is not advancing."""
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
def test_what_happens_below_is_an_advance(recorder: Recorder, below: str) -> None:
    """An operation whose levels begin, count or end is alive."""
    with progress.operation("o", id="o") as op:
        level = op.level("x").start()
        recorder.tick()
        recorder.clock.advance(100.0)
        assert recorder.operation("o").condition is Condition.STALLED
        {"begin": lambda: level.level("y").start(), "count": level.increment, "end": level.complete}[below]()
        assert recorder.operation("o").condition is Condition.OK


def test_the_shortest_stall_can_be_set() -> None:
    """The setting stall_after says from when on nothing is too long."""
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
        lambda: datetime.fromtimestamp(WALL + 30),  # noqa: DTZ006 - a naive moment is what is tested
    ],
)
def test_deadlines(recorder: Recorder, deadline: Callable[[], object]) -> None:
    """A deadline is seconds from now, a duration or a moment; after it the operation is overdue."""
    with progress.operation("o", id="o", deadline=deadline()) as op:  # type: ignore[arg-type]
        assert op.snapshot().info.deadline_at == WALL + 30
        recorder.clock.advance(30.0)
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(0.1)
        assert recorder.operation("o").condition is Condition.OVERDUE


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Live where clocks change between summer and winter."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_a_naive_deadline_beyond_a_change_of_the_clocks() -> None:
    """A local moment is meant as local clocks will show it then, in summer and in winter."""
    with recording(clock=FakeClock(wall=datetime(2026, 1, 10, tzinfo=timezone.utc).timestamp())):
        for month, offset in ((2, 1), (7, 2)):
            with progress.operation("o", deadline=datetime(2026, month, 1, 12)) as op:  # noqa: DTZ001 - naive on purpose
                expected = datetime(2026, month, 1, 12 - offset, tzinfo=timezone.utc).timestamp()
                assert op.snapshot().info.deadline_at == expected


@pytest.mark.parametrize(
    "deadline",
    [datetime.max, datetime.min, timedelta(days=-1), "tomorrow", float("nan")],  # noqa: DTZ901 - naive on purpose
)
def test_deadlines_that_cannot_be(lenient: Recorder, deadline: object) -> None:
    """A deadline that is no moment is refused, and the operation runs without; one in the past is overdue at once."""
    with progress.operation("o", id="o", deadline=deadline) as op:  # type: ignore[arg-type]
        at = op.snapshot().info.deadline_at
        lenient.clock.advance(0.1)
        assert lenient.operation("o").condition is (
            Condition.OVERDUE if at is not None and at < WALL else Condition.OK
        )
    assert lenient.operation("o").status is Status.COMPLETED


def test_an_estimate_counts_down_and_goes(recorder: Recorder) -> None:
    """An estimate appears when there is a pace, counts down between ticks, and is gone at the end."""
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


def test_points_of_a_long_run_are_few(recorder: Recorder) -> None:
    """However long a run, the curve its estimate is made from keeps to its bound, and the estimate stays right."""
    with progress.operation("o", id="o", total=2_000) as op:
        for _ in range(1_000):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.runtime._store.collect()
        assert recorder.operation("o").remaining_seconds == pytest.approx(1_000.0, rel=0.02)
        assert op._node.estimation is not None
        assert 32 <= len(op._node.estimation.points) <= 64
