"""Opaque steps: work that cannot report shows estimated progress, marked so, that is no advance and ends in what is true."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

import otel_progress as progress
from otel_progress import Condition, LevelSnapshot, Status, semconv
from otel_progress.errors import RejectedTypeError, RejectedValueError
from otel_progress.live.estimation.opaque import compute_expected_duration
from otel_progress.live.opaque import Opaque
from otel_progress.testing import Recorder, recording


def level(recorder: Recorder, path: str = "") -> LevelSnapshot:
    """Return a level of the operation ``o`` as the last tick left it."""
    recorder.tick()
    found = recorder.operation("o").get_level(path)
    assert found is not None
    return found


def test_a_stage_that_cannot_report(recorder: Recorder) -> None:
    """A stage that begins as an opaque step ends with it; its ratio is estimated, rises, stays below 1, and rolls up as estimated."""
    with progress.operation("o", id="o", stages={"decode": 1, "encode": 3}) as op:
        with op.stage("decode"):
            recorder.clock.advance(1.0)
        with op.stage("encode").opaque(expected=30) as stage:
            ratios = []
            for _ in range(60):
                recorder.clock.advance(1.0)
                shown = level(recorder, "stage:encode")
                assert (shown.estimated, shown.status) == (True, Status.RUNNING)
                assert shown.ratio is not None
                ratios.append(shown.ratio)
            root = level(recorder)
            assert root.estimated
            assert root.ratio == pytest.approx(0.25 + 0.75 * ratios[-1])
        assert not stage.recording
        assert ratios[14] == pytest.approx(0.5, abs=0.01)
        assert all(earlier < later for earlier, later in pairwise(ratios[:30]))
        assert max(ratios) <= 0.99
        ended = level(recorder, "stage:encode")
        assert (ended.status, ended.ratio, ended.estimated) == (Status.COMPLETED, 1.0, False)
        assert not level(recorder).estimated


def test_estimated_progress_is_no_advance(recorder: Recorder) -> None:
    """While only an estimate moves, the last advance stays; the step may be silent for three times what is expected of it."""
    with progress.operation("o", id="o", stages={"a": 1, "b": 1}) as op, op.stage("a").opaque(expected=100):
        began = level(recorder).advanced_clock
        for _ in range(30):
            recorder.clock.advance(10.0)
            assert level(recorder).advanced_clock == level(recorder, "stage:a").advanced_clock == began
        one = recorder.operation("o")
        assert (one.condition, one.root.stall_after_s) == (Condition.OK, 300.0)
        recorder.clock.advance(1.0)
        assert recorder.operation("o").condition is Condition.STALLED


def test_it_moves_four_times_a_second_at_most(recorder: Recorder) -> None:
    """Ticks in quick succession find the estimate where it was; a quarter of a second later it has moved."""
    with progress.operation("o", id="o"), progress.level("x").opaque(expected=10) as x:
        recorder.clock.advance(0.3)
        first = level(recorder, x.path)
        recorder.clock.advance(0.2)
        assert level(recorder, x.path).sequence == first.sequence
        recorder.clock.advance(0.06)
        assert (level(recorder, x.path).ratio or 0.0) > (first.ratio or 0.0)


def test_one_unit_of_a_level_that_runs(recorder: Recorder) -> None:
    """In a level with a total the block stands for the next unit; what is counted meanwhile is never hidden."""
    with progress.operation("o", id="o", total=4) as op:
        op.increment()
        with op.opaque(expected=timedelta(seconds=10)) as same:
            assert same is op
            recorder.clock.advance(5.0)
            assert level(recorder).ratio == pytest.approx((1 + 0.5) / 4, abs=0.01)
            assert (level(recorder).current, level(recorder).estimated) == (1, True)
            op.increment(2)
            assert level(recorder).ratio == 0.75
        assert (level(recorder).ratio, level(recorder).estimated, op.recording) == (0.75, False, True)


def test_the_end_of_a_block_is_an_advance(recorder: Recorder) -> None:
    """A step that is over is progress of the true kind, although nothing was counted."""
    with progress.operation("o", id="o") as op:
        with op.opaque(expected=30):
            recorder.tick()
            recorder.clock.advance(200.0)
            assert recorder.operation("o").condition is Condition.STALLED
        assert recorder.operation("o").condition is Condition.OK


def test_steps_within_steps(recorder: Recorder) -> None:
    """Blocks nest on one level, where the outer one counts, and across levels, where each has its own."""
    with progress.operation("o", id="o") as op, op.opaque(expected=10):
        with op.opaque(expected=1000):
            recorder.clock.advance(5.0)
            assert level(recorder).ratio == pytest.approx(0.5, abs=0.01)
        recorder.clock.advance(1.0)
        assert level(recorder).estimated
        with op.level("inner", 1).opaque(expected=2):
            recorder.clock.advance(1.0)
            assert level(recorder, "inner:1").ratio == pytest.approx(0.5, abs=0.01)
    assert recorder.operation("o").ratio == 1.0


def test_a_step_that_fails(recorder: Recorder) -> None:
    """A level that an exception leaves has failed, as far as it truly came."""
    op = progress.operation("o", id="o", stages={"a": 1, "b": 1}).start()

    def encode() -> None:
        with op.stage("a").opaque(expected=10):
            recorder.clock.advance(8.0)
            recorder.tick()
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        encode()
    stage = level(recorder, "stage:a")
    assert (stage.status, stage.ratio, stage.estimated) == (Status.FAILED, None, False)
    assert (level(recorder).ratio, level(recorder).estimated) == (0.0, False)


def test_async_with(recorder: Recorder) -> None:
    """The block works in ``async with`` as in ``with``."""

    async def work() -> float | None:
        async with progress.operation("o", id="o") as op, op.level("x", 1).opaque(expected=10):
            recorder.clock.advance(5.0)
            return level(recorder, "x:1").ratio

    assert asyncio.run(work()) == pytest.approx(0.5, abs=0.01)
    assert recorder.operation("o").status is Status.COMPLETED


def test_nothing_is_expected_and_nothing_known(recorder: Recorder) -> None:
    """Without a history and without an expectation there is no ratio, and nothing is called an estimate."""
    with progress.operation("o", id="o") as op, op.level("x", 1).opaque():
        recorder.clock.advance(5.0)
        shown = level(recorder, "x:1")
        assert (shown.ratio, shown.estimated, shown.eta) == (None, False, None)


def test_the_estimate_of_a_step(recorder: Recorder) -> None:
    """What is expected is what remains; beyond it nothing remains, and past three times of it only "still running" is known."""
    with progress.operation("o", id="o") as op, op.level("x", 1).opaque(expected=100) as step:
        told = []
        for wait in (25.0, 50.0, 125.0, 101.0):
            recorder.clock.advance(wait)
            recorder.tick()
            eta = step.eta
            assert eta is not None
            told.append((eta.remaining_s, eta.state, eta.basis))
        assert told == [
            (75.0, "estimated", "expected"),
            (25.0, "estimated", "expected"),
            (0.0, "holding", "expected"),
            (None, "stalled", "expected"),
        ]


def test_history_fills_in(recorder: Recorder) -> None:
    """A step of which nothing is said is expected to take as long as it did in past runs."""
    for seconds in (190.0, 200.0, 210.0):
        with progress.operation("job") as op, op.stage("encode").opaque():
            recorder.tick()
            recorder.clock.advance(seconds)
            recorder.tick()
        recorder.tick()
    with progress.operation("job", id="o") as op, op.stage("encode").opaque():
        recorder.clock.advance(100.0)
        assert level(recorder, "stage:encode").ratio == pytest.approx(0.5, abs=0.01)
        assert level(recorder).stall_after_s == 600.0


@pytest.mark.parametrize(
    ("given", "durations", "whole", "expected"),
    [
        (None, [], True, None),
        (30.0, [], True, 30.0),
        (None, [10.0], True, 10.0),
        (30.0, [10.0, 10.0], True, 30.0),
        (30.0, [10.0, 10.5, 11.0], True, 10.5),
        (30.0, [5.0, 10.0, 30.0, 60.0], True, 30.0),
        (30.0, [10.0, 10.0, 10.0], False, 30.0),
        (None, [10.0, 12.0, 14.0], False, 9.0),
        (None, [1.0, 2.0], False, None),
        (None, [0.0], True, None),
    ],
)
def test_who_knows_better(
    given: float | None, durations: list[float], whole: bool, expected: float | None
) -> None:
    """Past runs that agree know better than the caller how long a whole step takes; of a block within a level only the caller knows."""
    step = Opaque(0.0, given, 0, is_whole_level=whole)
    assert compute_expected_duration(step, durations, 3.0, None) == expected


def test_a_unit_of_the_past() -> None:
    """A block in a level with a total is expected to take a unit's part of what the whole took."""
    assert compute_expected_duration(Opaque(0.0, None, 0, is_whole_level=False), [40.0], 3.0, 4) == 10.0


@pytest.mark.parametrize("expected", [0, -1.0, float("nan"), float("inf"), "30", True, None.__class__])
def test_bad_expectations(expected: object) -> None:
    """What is no time above zero is counted and left out; strict raises at the call, before anything begins."""
    with recording() as strict, pytest.raises((RejectedValueError, RejectedTypeError)):
        progress.operation("o").opaque(expected=expected)  # type: ignore[arg-type]
    assert strict.spans() == ()
    with recording(strict=False) as lenient:
        with progress.operation("o", id="o").opaque(expected=expected) as op:  # type: ignore[arg-type]
            lenient.clock.advance(1.0)
            assert (op.snapshot().ratio, op.recording) == (None, True)
        refused = lenient.runtime._totals.read().counters[semconv.UPDATES_REJECTED]
        assert sum(refused.values()) == 1


def test_without_configure() -> None:
    """Where nothing is recorded the block does nothing, and the work runs."""
    with progress.operation("o").opaque(expected=3) as op, op.paused("never mind"):
        assert (op.recording, op.eta) == (False, None)
    with progress.operation("o") as op, op.opaque(), op.stage("a").opaque():
        op.resume_from(3)
        assert op.snapshot().current == 0


def test_updates_say_that_they_are_estimated(recorder: Recorder) -> None:
    """The event of a passed quarter carries the mark; the span's final attributes, which are true, do not."""
    with progress.operation("o", id="o").opaque(expected=10):
        recorder.clock.advance(6.0)
        recorder.tick()
    (span,) = recorder.spans()
    (event,) = span.events
    assert (event.name, (event.attributes or {})[semconv.ESTIMATED]) == (semconv.EVENT_UPDATED, True)
    assert semconv.ESTIMATED not in (span.attributes or {})
