"""Tests of the consistency of an operation's estimate with its running levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Eta
from otel_progress.live.estimation.bounds import NO_BOUNDS, Bounds, raise_eta
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


LEEWAY_S = 1e-8
"""Rounding errors of the tests' clocks, in seconds."""


def _combine(levels: list[Eta], clock: float) -> Bounds:
    bounds = NO_BOUNDS
    for level in levels:
        bounds = bounds.include(level, clock)
    return bounds


@given(etas(), st.lists(etas(), max_size=4), st.floats(6000.0, 7000.0), st.lists(SECONDS, max_size=5))
def test_raised_estimate_is_never_below_its_levels_and_stays_ordered(
    eta: Eta, levels: list[Eta], clock: float, waits: list[float]
) -> None:
    """The same is true later, without an advance of any level."""
    bounds = _combine(levels, clock)
    raised = raise_eta(eta, bounds, clock)
    assert raise_eta(raised, bounds, clock) == raised
    for wait in (0.0, *waits):
        one = raised.at(clock + wait)
        ordered = [value for value in (one.low_s, one.remaining_s, one.high_s) if value is not None]
        assert ordered == sorted(ordered)
        for level in (level.at(clock + wait) for level in levels):
            bound = level.remaining_s if level.low_s is None else level.low_s
            assert bound is not None  # stalled levels have a lower bound
            if one.remaining_s is not None:
                assert one.remaining_s >= bound - LEEWAY_S
    for wait in (0.0, *waits):
        for level in (level for level in levels if level.low_s is not None):
            low_s, own = level.at(clock + wait).low_s, raised.at(clock + wait).low_s
            assert low_s is not None
            assert own is None or own >= low_s - LEEWAY_S


@given(st.lists(etas(), min_size=1, max_size=5), st.floats(6000.0, 7000.0), SECONDS)
def test_bounds_of_levels_are_the_highest_at_every_later_time(
    levels: list[Eta], clock: float, wait: float
) -> None:
    """So the levels between need no bounds of their own."""
    bounds = _combine(levels, clock)
    known = max(bounds.remaining_s - wait, bounds.final_remaining_s)
    highest = 0.0
    for level in levels:
        later = level.at(clock + wait)
        bound = later.remaining_s if level.low_s is None else later.low_s
        highest = max(highest, (later.low_s or 0.0) if bound is None else bound)
    assert known >= highest - LEEWAY_S


def test_estimate_that_agrees_with_its_levels_is_unchanged() -> None:
    """A difference by rounding does not change it either."""
    eta = Eta(100.0, 90.0, 110.0, "estimated", "history", 4, 5000.0)
    low = Eta(50.0, 40.0, 60.0, "estimated", "history", 4, 5000.0)
    assert raise_eta(eta, _combine([low], 5001.0), 5001.0) is eta
    rate = Eta(99.0 + 1e-11, None, None, "estimated", "rate", 0, 5001.0)
    assert raise_eta(eta, _combine([low, rate], 5001.0), 5001.0) is eta


def test_level_without_an_interval_raises_the_remaining_time_only() -> None:
    """Its remaining time is not a lower bound in the sense of an interval."""
    eta = Eta(0.0, 0.0, 2.0, "holding", "history", 4, 5000.0, 0.0)
    rate = Eta(16.0, None, None, "estimated", "rate", 0, 5000.0, 4.0)
    raised = raise_eta(eta, _combine([rate], 5000.0), 5000.0)
    assert raised.remaining_s == pytest.approx(16.0)
    assert (raised.low_s, raised.high_s) == (0.0, raised.remaining_s)
    assert raised.at(5100.0).remaining_s == pytest.approx(12.0)


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


def _assert_no_contradiction(recorder: Recorder, identifier: str) -> int:
    """Assert that no level ends before one below it. Return the number of pairs."""
    seen, pairs = recorder.operation(identifier), 0
    levels = [seen.root, *seen.levels]
    for below in levels:
        bound = seen.eta_of(below)
        seconds = None if bound is None else bound.remaining_s if bound.low_s is None else bound.low_s
        for above in levels:
            is_above = above is not below and below.path.startswith(f"{above.path}/" if above.path else "")
            whole = seen.eta_of(above)
            if seconds is None or bound is None or whole is None or not is_above:
                continue
            if whole.remaining_s is None:  # stalled: only the lower bounds are comparable
                assert bound.low_s is None or (whole.low_s or 0.0) >= bound.low_s - 1e-6, (whole, bound)
                continue
            pairs += 1
            assert whole.remaining_s >= seconds - 1e-6, (above.path, whole, below.path, bound)
            assert (whole.low_s or 0.0) <= whole.remaining_s <= (whole.high_s or whole.remaining_s)
    return pairs


def test_operation_that_counts_itself_is_not_due_before_its_running_level(recorder: Recorder) -> None:
    """The report: ``any moment`` for the operation, 16 s for its only level."""
    with progress.operation("job", id="o", total=4) as op:
        recorder.tick()
        for _ in range(3):
            with op.level("table", total=10) as level:
                recorder.clock.advance(0.5)
                level.increment(10)
                recorder.tick()
            op.increment()
        slow = op.level("index", total=100).start()
        pairs = 0
        for _ in range(40):
            recorder.clock.advance(0.2)
            slow.increment()
            recorder.tick()
            pairs += _assert_no_contradiction(recorder, "o")
        assert pairs
        assert slow.eta is not None
        assert slow.eta.low_s is None
        assert slow.eta.remaining_s == pytest.approx(12.0, rel=0.1)
        assert op.eta is not None
        assert op.eta.state == "stalled", "it has not counted for a long time"
        assert op.eta.low_s == pytest.approx(12.0, rel=0.1)
        for _ in range(20):  # the level holds, then stalls
            recorder.clock.advance(3.0)
            _assert_no_contradiction(recorder, "o")
            recorder.tick()
            _assert_no_contradiction(recorder, "o")
        slow.increment(60)
        slow.complete()
        recorder.clock.advance(1.0)
        recorder.tick()
        assert op.eta is not None
        assert (op.eta.remaining_s or op.eta.low_s or 0.0) < 1.0, "the bound ended with the level"


def test_early_rate_of_a_level_does_not_refute_the_history_of_its_operation(recorder: Recorder) -> None:
    """A slow first unit of 1,000 would predict an hour for an operation of 100 s."""
    with progress.operation("job", id="o", total=4) as op:
        recorder.tick()
        _load_history(recorder, {"": 100.0})
        recorder.clock.advance(25.0)
        op.increment()
        recorder.tick()
        slow = op.level("index", total=1_000).start()
        estimates: list[Eta | None] = []
        for count in (1, 1, 8, 40, 50, 100):
            recorder.clock.advance(2.0)
            slow.increment(count)
            recorder.tick()
            _assert_no_contradiction(recorder, "o")
            estimates.append(slow.eta)
        assert estimates[0] is None
        assert estimates[-1] is not None
        assert op.eta is not None
        assert op.eta.remaining_s is not None
        assert op.eta.remaining_s < 200.0


ACTIONS = st.tuples(
    st.sampled_from(["start", "start", "count", "count", "count", "own", "end", "opaque", "pause", "wait"]),
    st.integers(0, 30),
    st.sampled_from([0.05, 0.4, 1.0, 1.0, 3.0, 20.0]),
)


STALLED_BETWEEN: Final = [
    ("count", 0, 0.4),
    ("start", 14, 0.05),
    ("start", 0, 0.05),
    ("end", 1, 0.05),
    ("start", 1, 1.0),
    ("opaque", 2, 0.05),
]
"""A stalled level is between the operation and the level that raises both."""


@settings(max_examples=40)
@example(STALLED_BETWEEN, False, False)
@given(st.lists(ACTIONS, min_size=5, max_size=40), st.booleans(), st.booleans())
def test_no_tree_of_running_levels_contradicts_itself(
    actions: list[tuple[str, int, float]], has_history: bool, counts_itself: bool
) -> None:
    """Parallel levels of several depths, after and between ticks."""
    with recording() as recorder:
        recorder.runtime._store._state.estimates.trajectories.has_backend = True
        op = progress.operation("job", id="o", total=8).start()
        recorder.tick()
        if has_history:
            _load_history(recorder, {"": 30.0, "a": 60.0, "a/b": 5.0, "a/b/a": 90.0})
        running = [op]
        for action, number, seconds in actions:
            level = running[number % len(running)]
            if action == "start" and level.snapshot().info.depth < 3:
                total = None if number % 5 == 4 else 20
                running.append(level.level("ab"[number % 2], total=total).start())
            elif action == "count" and level is not op:
                level.increment()
            elif action == "own" and counts_itself and op.snapshot().current < 8:
                op.increment()
            elif action == "end" and level is not op:
                level.complete()
                path = level.snapshot().info.path
                running = [
                    each for each in running if not f"{each.snapshot().info.path}/".startswith(f"{path}/")
                ]
            elif action == "opaque" and level is not op:
                with level.opaque(expected=float(1 + number)):
                    recorder.clock.advance(seconds)
                    recorder.tick()
                    _assert_no_contradiction(recorder, "o")
            elif action == "pause":
                with op.paused():
                    recorder.clock.advance(seconds)
                    recorder.tick()
            recorder.clock.advance(seconds)
            _assert_no_contradiction(recorder, "o")
            recorder.tick()
            _assert_no_contradiction(recorder, "o")
        op.cancel()
