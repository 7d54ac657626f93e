"""Tests of the consistency of an operation's estimate with its running levels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Eta
from otel_progress.live.estimation.bounds import raise_eta
from otel_progress.model import LevelSnapshot
from otel_progress.records import Trajectory, TrajectoryKey
from otel_progress.testing import Recorder, recording

SECONDS = st.floats(0.0, 1e5)


@st.composite
def etas(draw: st.DrawFn) -> Eta:
    """Return any estimate of a running level."""
    low, remaining, high = sorted(draw(st.tuples(SECONDS, SECONDS, SECONDS)))
    limits = [draw(st.none() | st.floats(0.0, remaining)), draw(st.none() | SECONDS)]
    clock = draw(st.floats(5000.0, 6000.0))
    if draw(st.booleans()):
        return Eta(remaining, None, None, "estimated", "rate", 0, clock, *limits)
    return Eta(remaining, low, high, "estimated", "history", 5, clock, *limits)


@given(etas(), etas(), st.floats(6000.0, 7000.0), st.lists(SECONDS, max_size=5))
def test_raised_estimate_is_never_below_the_bound_and_stays_ordered(
    eta: Eta, below: Eta, clock: float, waits: list[float]
) -> None:
    """The same is true later, without an advance of any level."""
    raised = raise_eta(eta, below, clock)
    assert raise_eta(raised, below, clock) == raised
    for wait in (0.0, *waits):
        one, bound = raised.at(clock + wait), below.at(clock + wait)
        if below.low_s is not None:
            assert bound.low_s is not None
            if one.remaining_s is not None:
                assert one.remaining_s >= bound.low_s
            if one.low_s is not None:
                assert one.low_s >= bound.low_s
        ordered = [value for value in (one.low_s, one.remaining_s, one.high_s) if value is not None]
        assert ordered == sorted(ordered)
    if not below.at(clock).low_s:
        assert raised is eta


def test_estimate_that_agrees_with_its_levels_is_unchanged() -> None:
    """A level without an interval does not change it either."""
    eta = Eta(100.0, 90.0, 110.0, "estimated", "history", 4, 5000.0)
    low = Eta(50.0, 40.0, 60.0, "estimated", "history", 4, 5000.0)
    assert raise_eta(eta, low, 5001.0) is eta
    assert raise_eta(eta, Eta(500.0, None, None, "estimated", "rate", 0, 5000.0), 5001.0) is eta


def _load_history(recorder: Recorder, durations: dict[str, float]) -> None:
    """Add past runs of ``job``, with these durations by the kind of level."""

    def load(key: TrajectoryKey) -> list[Trajectory]:
        duration = durations.get(key.level)
        if duration is None:
            return []
        runs = (duration * factor for factor in (0.97, 1.0, 1.01, 1.02))
        return [Trajectory(run, ((0.0, 0.0), (run / 2, 0.5), (run, 1.0))) for run in runs]

    recorder.runtime._store.load_trajectories(load)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record with a place from which past runs are loaded."""
    with recording() as made:
        made.runtime._store._state.estimates.trajectories.has_backend = True
        yield made


def _assert_consistent(recorder: Recorder) -> tuple[Eta | None, list[Eta]]:
    """Assert that no level contradicts the operation. Return both estimates."""
    seen = recorder.operation("o")
    levels: list[LevelSnapshot] = [seen.root, *seen.levels]
    found = []
    for level in levels:
        eta = seen.eta_of(level)
        if seen.is_paused:
            assert eta is None
            continue
        if level is seen.root or level.eta is None or level.eta.low_s is None:
            continue
        assert eta is not None
        assert eta.low_s is not None
        found.append(eta)
        for above in levels:
            if level.path.startswith(f"{above.path}/" if above.path else "") and above is not level:
                whole = seen.eta_of(above)
                if whole is not None and whole.remaining_s is not None:
                    assert whole.remaining_s >= eta.low_s, (above.path, whole, level.path, eta)
                    assert (whole.low_s or 0.0) <= whole.remaining_s
                    assert whole.remaining_s <= (whole.high_s or whole.remaining_s)
    return seen.eta, found


def test_operation_is_not_shorter_than_its_only_running_level(recorder: Recorder) -> None:
    """The report: 40 s left for the operation, 2 min 58 s for its only running level."""
    with progress.operation("job", id="o", total=10) as op:
        recorder.tick()
        for _ in range(9):
            with op.level("quick"):
                recorder.clock.advance(1.0)
            recorder.tick()
        with op.level("slow", total=100) as slow:
            recorder.tick()
            _load_history(recorder, {"slow": 200.0})
            for count in range(20):
                recorder.clock.advance(1.0)
                if count % 4 == 0:
                    slow.increment(2)
                recorder.tick()
                eta, bounds = _assert_consistent(recorder)
            assert bounds
            assert eta is not None
            assert eta.remaining_s is not None
            assert eta.remaining_s > 100.0
            recorder.clock.advance(500.0)
            _assert_consistent(recorder)


def test_nested_and_parallel_levels_bound_all_levels_above(recorder: Recorder) -> None:
    """So do levels below a level without an estimate. A pause changes nothing."""
    with progress.operation("job", id="o", total=4) as op:
        recorder.tick()
        with op.level("plain"):
            recorder.clock.advance(2.0)
        recorder.tick()
        outer = op.level("outer").start()
        middle = outer.level("middle", total=4).start()
        workers = [middle.level("inner", number, total=100).start() for number in range(3)]
        recorder.tick()
        _load_history(recorder, {"outer/middle/inner": 300.0, "outer/middle": 20.0, "": 15.0})
        for count in range(30):
            recorder.clock.advance(1.0)
            if count % 3 == 0:
                workers[count % 2].increment()
            recorder.tick()
            _, bounds = _assert_consistent(recorder)
        assert len(bounds) >= 3
        with op.paused():
            recorder.clock.advance(1000.0)
            recorder.tick()
            _assert_consistent(recorder)
        recorder.clock.advance(1.0)
        recorder.tick()
        eta, _ = _assert_consistent(recorder)
        assert eta is not None
        assert (eta.remaining_s or eta.low_s or 0.0) > 200.0
        with workers[2].opaque(expected=50):
            recorder.clock.advance(5.0)
            recorder.tick()
            _assert_consistent(recorder)
        for worker in workers:
            worker.complete()
        for _ in range(3):  # one level per second
            recorder.clock.advance(1.0)
            recorder.tick()
        eta, _ = _assert_consistent(recorder)
        assert eta is not None
        assert (eta.remaining_s or eta.low_s or 0.0) < 200.0
        middle.complete()
        outer.complete()
