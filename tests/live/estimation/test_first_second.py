"""Tests of estimates in the first second of a run, and of overdue runs."""

from __future__ import annotations

import random

import pytest

import otel_progress as progress
from otel_progress import Condition
from otel_progress.model import Eta
from otel_progress.testing import Recorder, recording

FAST_START = (*(0.1,) * 60, *(1.225,) * 240)
SLOW_START = (8.0, *(1.0,) * 300)


def run(recorder: Recorder, weights: tuple[float, ...], seconds: float) -> list[tuple[float, Eta | None]]:
    """Work through these steps. Return the estimates with the true remaining time."""
    seen, passed, tick = [], 0.0, 0.0
    with progress.operation("survey", id="o", total=len(weights)) as op:
        for weight in weights:
            step = seconds * weight / sum(weights)
            recorder.clock.advance(step)
            passed += step
            op.increment()
            if passed >= tick:
                tick = passed + 0.1
                recorder.tick()
                seen.append((seconds - passed, op.eta))
    return seen


@pytest.mark.parametrize("weights", [FAST_START, SLOW_START], ids=["fast start", "slow start"])
def test_estimate_of_a_short_run_uses_past_runs_from_the_first_tick(
    recorder: Recorder, weights: tuple[float, ...]
) -> None:
    """Its first steps do not change it."""
    for seconds in (1.3, 1.4, 1.5):
        run(recorder, weights, seconds)
    seen = run(recorder, weights, 1.4)
    assert len(seen) > 10
    for left, eta in seen:
        assert eta is not None
        assert eta.remaining_s == pytest.approx(left, abs=0.1)
        assert eta.runs == 3  # including the one that has just ended


@pytest.mark.parametrize("weights", [FAST_START, SLOW_START], ids=["fast start", "slow start"])
def test_estimate_without_history_is_missing_in_the_first_second(
    recorder: Recorder, weights: tuple[float, ...]
) -> None:
    """It exists at the end of that second without an advance."""
    seen = run(recorder, weights, 0.9)
    assert len(seen) > 5
    assert {eta for _, eta in seen} == {None}
    with progress.operation("import", total=10) as op:
        for _ in range(5):
            recorder.clock.advance(0.1)
            op.increment()
            recorder.tick()
        assert op.eta is None
        recorder.clock.advance(0.6)
        recorder.tick()
        assert op.eta is not None
        assert op.eta.basis == "rate"


def test_estimate_of_resumed_work_ignores_past_runs_in_the_first_second(recorder: Recorder) -> None:
    """Past durations are those of complete runs."""
    for _ in range(3):
        run(recorder, (1.0,) * 10, 20.0)
    with progress.operation("survey", total=10) as op:
        op.resume_from(5)
        recorder.clock.advance(0.2)
        op.increment()
        recorder.tick()
        assert op.eta is None
        recorder.clock.advance(1.8)
        op.increment()
        recorder.tick()
        assert op.eta is not None
        assert op.eta.remaining_s is not None
        assert op.eta.remaining_s < 10.0


@pytest.mark.parametrize("total", [20, None], ids=["known total", "unknown total"])
@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_ordinary_run_is_rarely_overdue(total: int | None, spread: float) -> None:
    """A run of twice the usual duration is overdue."""
    late = runs = 0
    for seed in range(3):
        chance = random.Random(seed)
        with recording() as recorder:
            for number in range(16):
                over = work(recorder, chance.gauss(100.0, 100.0 * spread), total)
                if number >= 3:
                    late, runs = late + over, runs + 1
            assert work(recorder, 200.0, total)
    assert late <= runs / 30


def work(recorder: Recorder, seconds: float, total: int | None) -> bool:
    """Work through an operation. Return True when it was overdue at its end."""
    with progress.operation("job", id="o", total=total) as op:
        recorder.tick()
        for _ in range(20):
            recorder.clock.advance(seconds / 20)
            op.increment()
            recorder.tick()
        return recorder.operation("o").condition is Condition.OVERDUE
