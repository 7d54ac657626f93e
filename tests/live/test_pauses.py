"""Tests of pauses: paused time is excluded from estimates, curves and stalls."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Condition, Status, semconv
from otel_progress.journal.sqlite.journal import SqliteJournal
from otel_progress.live.pauses import Pauses
from otel_progress.testing import Recorder, recording


def test_paused_operation_is_not_stalled(recorder: Recorder) -> None:
    """The times without an advance before and after the pause are added."""
    with progress.operation("o", id="o", total=10) as op:
        op.increment()
        recorder.tick()
        recorder.clock.advance(40.0)
        with op.paused("waiting for a licence"):
            recorder.clock.advance(3600.0)
            one = recorder.operation("o")
            assert (one.condition, one.message) == (Condition.PAUSED, "waiting for a licence")
            assert one.root.paused_clock == one.clock - 3600.0
            assert one.root.active_seconds(one.clock) == 40.0
        one = recorder.operation("o")
        assert (one.condition, one.message, one.root.paused_s, one.root.paused_clock) == (
            Condition.OK,
            None,
            3600.0,
            None,
        )
        recorder.clock.advance(20.0)
        assert recorder.operation("o").condition is Condition.OK
        recorder.clock.advance(0.1)
        assert recorder.operation("o").condition is Condition.STALLED
        op.increment()
        assert recorder.operation("o").root.stall_after_s == pytest.approx(3 * 60.1)


def test_estimate_during_a_pause_is_constant(recorder: Recorder) -> None:
    """The rate is that of the active time."""
    with progress.operation("o", id="o", total=100) as op:
        for _ in range(50):
            recorder.clock.advance(2.0)
            op.increment()
            recorder.tick()
        before = recorder.operation("o").remaining_seconds
        assert before == pytest.approx(100.0, rel=0.02)
        with op.level("x").paused():
            for _ in range(10):
                recorder.clock.advance(60.0)
                recorder.tick()
                eta = op.eta
                assert eta is not None
                assert eta.remaining_s == before
                assert recorder.operation("o").remaining_seconds is None
        assert recorder.operation("o").remaining_seconds == before
        for _ in range(25):
            recorder.clock.advance(2.0)
            op.increment()
            recorder.tick()
        assert recorder.operation("o").remaining_seconds == pytest.approx(50.0, rel=0.05)


def test_nested_pauses_count_once(recorder: Recorder) -> None:
    """Each pause shows its message and restores the earlier one."""
    with progress.operation("o", id="o") as op:
        op.update(message="at work")
        outer, inner = op.paused("outer"), op.level("x").paused("inner")
        outer.__enter__()
        recorder.clock.advance(10.0)
        with inner:
            recorder.clock.advance(10.0)
            assert recorder.operation("o").message == "inner"
        assert recorder.operation("o").message == "outer"
        assert recorder.operation("o").condition is Condition.PAUSED
        recorder.clock.advance(10.0)
        outer.__exit__(None, None, None)
        assert (recorder.operation("o").root.paused_s, recorder.operation("o").message) == (30.0, "at work")


def test_message_set_during_a_pause_remains(recorder: Recorder) -> None:
    """The end of the pause does not restore the earlier one."""
    with progress.operation("o", id="o") as op:
        with op.paused("lunch"):
            op.update(message="woken up")
        assert recorder.operation("o").message == "woken up"


def test_end_of_a_paused_operation_ends_the_pause(recorder: Recorder) -> None:
    """An ended operation cannot be paused."""
    op = progress.operation("o", id="o").start()
    pause = op.paused("for good")
    pause.__enter__()
    recorder.clock.advance(100.0)
    op.complete()
    recorder.clock.advance(100.0)
    pause.__exit__(None, None, None)
    with op.paused():
        recorder.clock.advance(1.0)
    root = recorder.operation("o").root
    assert (root.status, root.paused_s, root.paused_clock, root.active_seconds(1e9)) == (
        Status.COMPLETED,
        100.0,
        None,
        0.0,
    )


def test_pauses_of_many_threads_end_completely(recorder: Recorder) -> None:
    """The operation is paused once and runs afterwards."""
    barrier = Barrier(8)
    with progress.operation("o", id="o") as op:

        def pause(_: int) -> None:
            with op.paused():
                barrier.wait(timeout=60)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(pause, range(8)))
        assert (recorder.operation("o").condition, recorder.operation("o").root.paused_clock) == (
            Condition.OK,
            None,
        )


def test_pause_in_async_with_works(recorder: Recorder) -> None:
    """An exception ends the pause."""

    async def work() -> None:
        async with progress.operation("o", id="o") as op, op.paused("queue"):
            assert recorder.operation("o").condition is Condition.PAUSED
            raise KeyError("gone")

    with pytest.raises(KeyError):
        asyncio.run(work())
    assert recorder.operation("o").root.paused_clock is None


def test_opaque_ratio_during_a_pause_is_constant(recorder: Recorder) -> None:
    """Paused time is not part of the step."""
    with progress.operation("o", id="o") as op, op.level("x", 1).opaque(expected=100) as step:
        recorder.clock.advance(20.0)
        recorder.tick()
        with op.paused():
            recorder.clock.advance(500.0)
            recorder.tick()
        recorder.clock.advance(20.0)
        recorder.tick()
        assert step.snapshot().ratio == pytest.approx(0.4, abs=0.01)


def test_trajectory_of_a_paused_run_excludes_the_pause(recorder: Recorder) -> None:
    """Durations of stages exclude it, too."""
    with progress.operation("o", total=4) as op, op.stage("a"):
        for number in range(4):
            recorder.clock.advance(5.0)
            op.increment()
            recorder.tick()
            if number == 1:
                with op.paused():
                    recorder.clock.advance(600.0)
                    recorder.tick()
    entries = recorder.runtime._store.collect().trajectories
    whole = next(entry.trajectory for entry in entries if not entry.key.level)
    assert (whole.duration_s, dict(whole.stages)) == (20.0, {"a": 20.0})
    assert whole.points == ((0.0, 0.0), (5.0, 0.25), (10.0, 0.5), (15.0, 0.75), (20.0, 1.0))


def test_prediction_errors_are_measured_against_active_time(recorder: Recorder) -> None:
    """The errors are span attributes."""
    with progress.operation("o", id="o", total=10) as op:
        for number in range(10):
            recorder.clock.advance(2.0)
            op.increment()
            recorder.tick()
            if number == 6:
                with op.paused():
                    recorder.clock.advance(1000.0)
    (span,) = recorder.spans()
    assert (span.attributes or {})[semconv.ETA_ERROR_MIDDLE] == pytest.approx(0.0, abs=0.02)


def test_pauses_ending_in_any_order_restore_the_message(recorder: Recorder) -> None:
    """A message that the work set during a pause remains."""
    with progress.operation("o", id="o") as op:
        for last, first in ((0, 1), (1, 0)):
            op.update(message="working")
            blocks = [op.paused("disk"), op.paused("network")]
            for block in blocks:
                block.__enter__()
            blocks[first].__exit__(None, None, None)
            blocks[last].__exit__(None, None, None)
            assert recorder.operation("o").message == "working"
        with op.paused("disk"), op.paused("network"):
            op.update(message="of my own")
        assert recorder.operation("o").message == "of my own"


def test_pause_block_entered_again_works(recorder: Recorder) -> None:
    """It may also be entered within itself."""
    with progress.operation("o", id="o", total=2) as op:
        for block in (op.paused("disk"), op.opaque(expected=5.0)):
            for _ in range(2):
                with block, block:
                    recorder.clock.advance(1.0)
        root = recorder.operation("o").root
        assert (root.paused_clock, root.paused_s, root.estimated, root.message) == (None, 2.0, False, None)
        step = op.level("x").opaque(expected=5.0)
        with step as level, step:
            recorder.clock.advance(1.0)
            assert level.snapshot().estimated
        assert level.snapshot().status is progress.Status.COMPLETED


@given(
    st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), max_size=20),
    st.floats(0.0, 3000.0),
    st.floats(0.0, 3000.0),
)
def test_paused_seconds_between_two_times_are_the_overlap_with_all_pauses(
    given_pauses: list[tuple[float, float]], one: float, other: float
) -> None:
    """A simple sum defines the result."""
    start, end = min(one, other), max(one, other)
    pauses, clock, expected = Pauses(), 0.0, 0.0
    for work, pause in given_pauses:
        clock += work
        pauses.start("outer", clock)
        pauses.start("inner", clock)
        assert pauses.end("inner", clock) == 0.0
        expected += max(0.0, min(end, clock + pause) - max(start, clock))
        assert pauses.end("outer", clock + pause) == pytest.approx(pause)
        clock += pause
    assert pauses.seconds_between(start, end) == pytest.approx(expected, abs=1e-9)
    assert pauses.ended_seconds == pytest.approx(sum(pause for _, pause in given_pauses))


def test_pauses_beyond_the_limit_are_merged() -> None:
    """The two oldest pauses become one of the same length, so the sum is exact."""
    pauses = Pauses(max_pauses=10)
    for number in range(100):
        pauses.start("key", 10.0 * number)
        pauses.end("key", 10.0 * number + 1.0)
    assert len(pauses._starts) == len(pauses._ends) == len(pauses._sums) == 10
    assert pauses.seconds_before(10_000.0) == pytest.approx(100.0)
    assert pauses.seconds_between(905.0, 995.0) == pytest.approx(9.0)


def test_active_seconds_of_a_level_exclude_pauses_during_it(tmp_path: Path) -> None:
    """The live store and the journal return the same."""
    with recording(store=f"sqlite:///{tmp_path}/p.db") as recorder:
        clock = recorder.clock
        journal = SqliteJournal(tmp_path / "p.db", now=clock.wall, clock=clock.monotonic)

        def worked() -> list[float]:
            assert recorder.runtime.force_flush(60.0)
            read = [reader.get("job") for reader in (recorder.runtime.reader, journal)]
            found = [
                [round(one.active_seconds_of(level), 6) for level in (one.root, *one.levels)]
                for one in read
                if one is not None
            ]
            assert found[0] == found[1]
            return found[0]

        op = progress.operation("job", id="job", total=100).start()
        clock.advance(10.0)
        first = op.level("song", 1, total=20).start()
        clock.advance(10.0)
        first.increment(5)
        assert worked() == [20, 10]
        with op.paused():
            clock.advance(500.0)
            second = op.level("song", 2, total=20).start()
            clock.advance(100.0)
            assert worked() == [20, 10, 0]
        clock.advance(5.0)
        assert worked() == [25, 15, 5]
        with op.paused():
            clock.advance(50.0)
            first.complete()
            clock.advance(50.0)
        clock.advance(5.0)
        second.complete()
        assert worked() == [30, 15, 10]
        clock.advance(5.0)
        assert worked() == [35, 15, 10]
        op.complete()
        journal.close()
