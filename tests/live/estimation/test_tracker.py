"""Tests of the estimates that ticks and readers make."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import otel_progress as progress
import otel_progress.eta
from otel_progress import Condition, Eta, semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.errors import RejectedValueError
from otel_progress.live.estimation.tracker import EstimateTracker
from otel_progress.processes import host_class
from otel_progress.testing import Recorder, recording

Spy = Callable[..., Eta]


@pytest.fixture
def estimator_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the calls of the estimator."""
    calls: list[tuple[Any, ...]] = []
    real = otel_progress.eta.estimate

    def estimate(*args: Any, **options: Any) -> Eta:
        calls.append((*args, options))
        return real(*args, **options)

    monkeypatch.setattr(otel_progress.eta, "estimate", estimate)
    return calls


def run(recorder: Recorder, seconds: float = 1.0, steps: int = 10, type_: str = "job") -> None:
    """Work through an operation at a constant rate."""
    with progress.operation(type_, total=steps) as op:
        recorder.tick()
        for _ in range(steps):
            recorder.clock.advance(seconds)
            op.increment()
            recorder.tick()
    recorder.tick()


def replace_tracker(recorder: Recorder, **limits: int) -> EstimateTracker:
    """Replace the tracker of a recording by one with other limits. Return the new one."""
    state = recorder.runtime._store._state
    state.estimates = EstimateTracker(state.lock, state.estimates.trajectories, state.clock, **limits)
    return state.estimates


def test_level_is_estimated_at_most_once_per_second(
    recorder: Recorder, estimator_calls: list[tuple[Any, ...]]
) -> None:
    """Neither ticks nor readers make more estimates."""
    with progress.operation("o", id="o", total=1000) as op:
        for _ in range(100):
            recorder.clock.advance(0.1)
            op.increment()
            recorder.tick()
            recorder.operation("o")
            assert op.snapshot().eta == recorder.operation("o").root.eta
    assert 9 <= len(estimator_calls) <= 10


def test_estimate_is_made_without_the_lock(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread can start a level during an estimate."""
    real, begun = otel_progress.eta.estimate, []

    def estimate(*args: Any, **options: Any) -> Eta:
        thread = threading.Thread(target=lambda: begun.append(op.level("x").start()))
        thread.start()
        thread.join(60.0)
        assert not thread.is_alive()
        return real(*args, **options)

    monkeypatch.setattr(otel_progress.eta, "estimate", estimate)
    with progress.operation("o", id="o", total=10) as op:
        for _ in range(3):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()
        assert op.eta is not None
    assert begun


def test_estimates_per_tick_are_limited(recorder: Recorder) -> None:
    """Operations come before levels."""
    store, _ = recorder.runtime._store, replace_tracker(recorder, max_estimates_per_tick=5)
    handles = [progress.operation("o", total=10).start() for _ in range(8)]
    levels = [handles[0].level("x", total=10).start() for _ in range(4)]
    for handle in (*levels, *handles):
        handle.increment()
    store.collect()
    recorder.clock.advance(1.0)
    for handle in (*levels, *handles):
        handle.increment()
    reported = []
    for _ in range(3):
        batch = store.collect()
        reported.append(sum(snapshot.eta is not None for snapshot in batch.snapshots))
        recorder.clock.advance(0.1)
    assert reported == [5, 5, 2]
    for handle in handles:
        handle.complete()


def test_stage_and_level_with_a_total_have_estimates(recorder: Recorder) -> None:
    """A level without any figures has none."""
    with progress.operation("o", id="o", stages=["a", "b"]) as op, op.stage("a") as stage:
        level, bare = stage.level("x", 1, total=10).start(), stage.level("y", 1).start()
        for _ in range(5):
            recorder.clock.advance(2.0)
            level.increment()
            recorder.tick()
        one = recorder.operation("o")
        found = one.get_level("stage:a/x:1")
        assert found is not None
        assert found.eta is not None
        assert found.eta.remaining_s == pytest.approx(10.0)
        assert level.eta == found.eta
        assert bare.eta is None
        assert bare.snapshot().eta is None
        level.complete()
        assert level.snapshot().eta is None


def test_new_estimate_gets_a_new_sequence_number(recorder: Recorder) -> None:
    """Equal sequence numbers mean equal snapshots."""
    seen: dict[int, progress.LevelSnapshot] = {}
    with progress.operation("o", id="o", total=100) as op:
        for number in range(100):
            recorder.clock.advance(0.4)
            if number % 3:
                op.increment()
            for snapshot in (
                *(recorder.runtime._store.collect().snapshots if number % 2 else ()),
                op.snapshot(),
            ):
                assert seen.setdefault(snapshot.sequence, snapshot) == snapshot


def test_estimate_of_parallel_children_simulates_the_workers(recorder: Recorder) -> None:
    """Remaining levels are distributed to the same number of workers."""
    with progress.operation("o", id="o", total=12) as op:
        for _ in range(2):
            recorder.clock.advance(0.1)
            level = [op.level("x").start() for _ in range(4)]
            recorder.tick()
            recorder.clock.advance(10.0)
            recorder.tick()
            for each in level:
                each.complete()
        level = [op.level("x").start() for _ in range(4)]
        recorder.tick()
        recorder.clock.advance(4.0)
        op.update(message="half way through the last round")
        recorder.tick()
        eta = recorder.operation("o").eta
        assert eta is not None
        assert eta.basis == "parallel"
        assert eta.remaining_s == pytest.approx(6.0, abs=1.5)
        for each in level:
            each.complete()


def test_operation_beyond_its_first_interval_is_overdue(recorder: Recorder) -> None:
    """The threshold is constant. Without a history there is no threshold."""
    for number in range(5):
        run(recorder, 1.0 + 0.1 * number)
        assert (recorder.runtime.get_history()[0].root.overdue_after_s is None) == (number < 3)
    with progress.operation("job", id="o", total=10) as op:
        recorder.clock.advance(1.0)
        op.increment()
        recorder.tick()
        eta = recorder.operation("o").eta
        assert eta is not None
        allowed = recorder.operation("o").root.overdue_after_s
        assert allowed is not None
        assert eta.remaining_s is not None
        assert eta.high_s is not None
        assert allowed == pytest.approx(1.0 + eta.high_s + 0.25 * (1.0 + eta.remaining_s))
        for _ in range(3):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()
            assert recorder.operation("o").root.overdue_after_s == allowed
        with op.paused():
            recorder.clock.advance(1000.0)
            assert recorder.operation("o").condition is Condition.PAUSED
        recorder.clock.advance(allowed - 4.05)
        assert recorder.operation("o").condition is not Condition.OVERDUE
        recorder.clock.advance(0.1)
        assert recorder.operation("o").condition is Condition.OVERDUE


def test_failed_estimate_is_counted_and_leaves_none(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work continues."""

    def estimate(*_: Any, **__: Any) -> Eta:
        raise ArithmeticError("sums")

    monkeypatch.setattr(otel_progress.eta, "estimate", estimate)
    before = internal_error_counts["eta"]
    run(recorder)
    assert internal_error_counts["eta"] > before
    with progress.operation("o", total=2) as op:
        op.increment()
        assert op.eta is None


def test_tracked_levels_are_limited(recorder: Recorder) -> None:
    """Other levels are tracked once some have ended."""
    estimates = replace_tracker(recorder, max_levels_per_operation=3)
    with progress.operation("o", id="o") as op:
        levels = [op.level("x", total=10).start() for _ in range(5)]
        for _ in range(3):
            recorder.clock.advance(1.0)
            for level in levels:
                level.increment()
            recorder.tick()
        assert [level.eta is not None for level in levels] == [True, True, True, False, False]
        levels[0].complete()
        # Why: this is a new attempt before a tick collected the end of the first.
        op.level("x", "1", total=10).start().complete()
        recorder.tick()
        for _ in range(3):
            recorder.clock.advance(1.0)
            levels[3].increment()
            recorder.tick()
        assert levels[3].eta is not None
    recorder.tick()
    assert (estimates._tracked, len(estimates._scheduler), estimates._level_count) == ({}, 0, 0)


def test_resumed_units_are_done_but_not_part_of_the_rate(recorder: Recorder) -> None:
    """They are not counted as items again."""
    with progress.operation("o", id="o", total=100) as op:
        recorder.clock.advance(1.0)
        op.resume_from(50)
        one = recorder.operation("o")
        assert (one.ratio, one.root.current, one.remaining_seconds) == (0.5, 50, None)
        for _ in range(10):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()
        assert recorder.operation("o").remaining_seconds == pytest.approx(40.0, rel=0.05)
        assert op._node.estimation is not None
        assert (op._node.estimation.origin, op._node.estimation.points[0]) == (1.0, (0.0, 0.5))
    items = recorder.runtime._totals.read().counters[semconv.ITEMS]
    assert sum(items.values()) == 10


def test_resumed_level_restarts_the_curves_of_its_parents(recorder: Recorder) -> None:
    """A total that is set later is not an advance either."""
    with progress.operation("o", id="o", total=2) as op:
        recorder.tick()
        with op.level("x", 1) as level:
            level.resume_from(80)
            level.set_total(100)
            recorder.tick()
            for _ in range(10):
                recorder.clock.advance(1.0)
                level.increment()
                recorder.tick()
            assert level.eta is not None
            assert level.eta.remaining_s == pytest.approx(10.0, rel=0.05)
            assert op._node.estimation is not None
            assert op._node.estimation.points[0][1] >= 0.4
        recorder.tick()


def test_invalid_resumed_count_is_rejected() -> None:
    """The rules are those of other counts."""
    with recording() as _, progress.operation("o", total=10) as op, pytest.raises(RejectedValueError):
        op.resume_from(11)
    with recording(strict=False) as lenient:
        with progress.operation("o", total=10) as op:
            for bad in (-1, float("nan"), "5", 11):
                op.resume_from(bad)  # type: ignore[arg-type]
            assert op.snapshot().current == 0
        op.resume_from(3)
        assert sum(lenient.runtime._totals.read().counters[semconv.UPDATES_REJECTED].values()) == 5


def test_span_of_a_completed_operation_has_prediction_errors(recorder: Recorder) -> None:
    """The number of attributes stays within its limit."""
    slow_start = [8.0] + [1.0] * 9
    with progress.operation("job", id="j", total=11, unit="file") as op:
        for seconds in slow_start:
            recorder.clock.advance(seconds)
            op.increment()
            recorder.tick()
        op.item("bad", outcome="failed", error="no")
        op.update(message="done")
        recorder.tick()
    attributes = dict(recorder.spans()[0].attributes or {})
    first, middle, last = (
        attributes[name]
        for name in (semconv.ETA_ERROR_FIRST, semconv.ETA_ERROR_MIDDLE, semconv.ETA_ERROR_LAST)
    )
    assert isinstance(first, float)
    assert isinstance(middle, float)
    assert isinstance(last, float)
    assert first > 0.5  # the prediction was eighty seconds
    assert middle == pytest.approx(first)  # still the current one at half, after 8.5 s of 17
    assert 0.0 <= last < 0.2
    assert (
        sum(
            name.startswith("progress.") and not name.startswith(semconv.METADATA_PREFIX)
            for name in attributes
        )
        <= 16
    )
    with progress.operation("job", total=10) as op:
        for _ in range(3):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()
        op.fail("no")
    assert semconv.ETA_ERROR_FIRST not in (recorder.spans()[-1].attributes or {})


@pytest.mark.process
def test_import_of_the_package_loads_no_estimator() -> None:
    """It loads no records module either."""
    script = "import sys, otel_progress; print([name for name in sys.modules if 'otel_progress' in name])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    for name in (
        "otel_progress.eta",
        "otel_progress.records",
        "otel_progress.live.estimation.tracker",
        "otel_progress.live.store",
    ):
        assert f"{name!r}" not in done.stdout


def test_host_class_has_system_machine_and_cores() -> None:
    """All are in lower case."""
    assert re.fullmatch(r"[a-z0-9]+-[a-z0-9_]+-\d+", host_class())
