"""Tests of counts and ratios against a simple model of their definition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import otel_progress as progress
from otel_progress import Level, LevelSnapshot, Stages, Status
from otel_progress.live import rollup
from otel_progress.testing import Recorder, recording
from tests.support.examples import scale_examples

ENDS = {
    "complete": Status.COMPLETED,
    "fail": Status.FAILED,
    "cancel": Status.CANCELLED,
    "skip": Status.SKIPPED,
}
PARTLY = (Status.RUNNING, Status.CANCELLED)


@dataclass
class Model:
    """A level by definition: everything is computed from its complete history."""

    handle: Level
    parent: Model | None
    total: float | None
    weight: float
    own: float | None = None
    failed_items: int = 0
    status: Status = Status.RUNNING
    children: list[Model] = field(default_factory=list)

    def current(self) -> float:
        """The own count, or the weight of done children, at most the total."""
        ended = sum(
            child.weight
            for child in self.children
            if child.status.finished and child.status is not Status.CANCELLED
        )
        current = ended if self.own is None else self.own
        return current if self.total is None else min(current, self.total)

    def ratio(self) -> float | None:
        """The count with running and cancelled children over the total, or 1.

        It is the count over the total for a level that completed below its total.
        """
        if self.status is Status.COMPLETED and self.total:
            return self.current() / self.total
        if self.status in (Status.COMPLETED, Status.SKIPPED):
            return 1.0
        if not self.total:
            return None
        parts = 0.0
        if self.own is None:
            parts = sum(
                child.weight * (child.ratio() or 0.0) for child in self.children if child.status in PARTLY
            )
        return min(1.0, (self.current() + parts) / self.total)

    def below(self) -> Iterator[Model]:
        """Yield this level and all levels below it."""
        yield self
        for child in self.children:
            yield from child.below()


class RollUp(RuleBasedStateMachine):
    """Starts, counts in and ends levels of one operation, and compares with the model."""

    def __init__(self) -> None:
        super().__init__()
        self._recording = recording(strict=False)
        self.recorder: Recorder = self._recording.__enter__()
        self.nodes: list[Model] = []

    def teardown(self) -> None:
        """Shut the recorder down."""
        self._recording.__exit__(None, None, None)

    @initialize(total=st.none() | st.integers(0, 6))
    def start_operation(self, total: int | None) -> None:
        """Start the operation."""
        handle = progress.operation("o", id="o", total=total).start()
        self.nodes.append(Model(handle, None, total, 1))

    def _running(self) -> list[Model]:
        return [node for node in self.nodes if node.status is Status.RUNNING]

    @precondition(lambda self: self._running())
    @rule(data=st.data(), total=st.none() | st.integers(0, 5), weight=st.sampled_from([None, 0, 1, 2, 0.5]))
    def child(self, data: st.DataObject, total: int | None, weight: float | None) -> None:
        """Start a level below a running one."""
        parent = data.draw(st.sampled_from(self._running()))
        handle = parent.handle.level("level", total=total, weight=weight).start()
        made = Model(handle, parent, total, 1 if weight is None else weight)
        parent.children.append(made)
        self.nodes.append(made)

    @precondition(lambda self: self._running())
    @rule(data=st.data(), step=st.sampled_from([1, 2, 0.5]))
    def count(self, data: st.DataObject, step: float) -> None:
        """Count in a level."""
        node = data.draw(st.sampled_from(self._running()))
        node.handle.increment(step)
        node.own = (node.own or 0) + step

    @precondition(lambda self: self._running())
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "failed"]))
    def item(self, data: st.DataObject, outcome: str) -> None:
        """Count an item."""
        node = data.draw(st.sampled_from(self._running()))
        node.handle.item("x", outcome=outcome)
        node.own = (node.own or 0) + 1
        node.failed_items += outcome == "failed"

    @precondition(lambda self: self._running())
    @rule(data=st.data(), current=st.integers(1, 5))
    def put(self, data: st.DataObject, current: int) -> None:
        """Set the count. More than the total is rejected."""
        node = data.draw(st.sampled_from(self._running()))
        node.handle.update(current=current)
        if node.total is None or current <= node.total:
            node.own = current

    @precondition(lambda self: self._running())
    @rule(data=st.data(), total=st.none() | st.integers(0, 8))
    def change_total(self, data: st.DataObject, total: int | None) -> None:
        """Set, change or remove a total."""
        node = data.draw(st.sampled_from(self._running()))
        node.handle.set_total(total)
        node.total = total

    @precondition(lambda self: self._running())
    @rule(data=st.data(), how=st.sampled_from(sorted(ENDS)))
    def end(self, data: st.DataObject, how: str) -> None:
        """End a level. Its running levels are cancelled."""
        node = data.draw(st.sampled_from(self._running()))
        for below in reversed(list(node.below())):
            if below.status is Status.RUNNING:
                below.status = ENDS[how] if below is node else Status.CANCELLED
        getattr(node.handle, how)(*(["x"] if how == "fail" else []))

    @rule()
    def tick(self) -> None:
        """Collect."""
        self.recorder.tick()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def read_level(self, data: st.DataObject) -> None:
        """Read one level, as a reader may at any time."""
        node = data.draw(st.sampled_from(self.nodes))
        check(node, node.handle.snapshot())

    @invariant()
    def everything_agrees(self) -> None:
        """Every level has the figures of the model. Sampled, because a read is an event."""
        if len(self.nodes) % 3 == 0:
            self._compare()

    def _compare(self) -> None:
        one = self.recorder.operation("o")
        for node in self.nodes:
            found = one.get_level(node.handle.path)
            assert found is not None
            check(node, found)
        assert one.get_overall_progress().completed >= 0


def check(node: Model, found: LevelSnapshot) -> None:
    """Compare a snapshot with the model."""
    assert found.status is node.status
    assert found.current == pytest.approx(node.current())
    assert found.total == node.total
    expected = node.ratio()
    assert found.ratio == (None if expected is None else pytest.approx(expected, abs=1e-9))
    assert 0 <= found.completed <= found.current
    assert found.failed >= node.failed_items


TestRollUp = RollUp.TestCase
TestRollUp.__doc__ = "Any sequence of what can be done to a tree of levels rolls up as defined."
TestRollUp.settings = settings(max_examples=scale_examples(40), stateful_step_count=30, deadline=None)


STATUSES = st.sampled_from(list(Status))
RATIOS = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(st.floats(0, 1e6), STATUSES, RATIOS), max_size=30))
def test_stages_ratio_is_a_weighted_mean(stages: list[tuple[float, Status, float | None]]) -> None:
    """It is None when the total weight is 0, and 1 when all stages are done."""
    ratio = rollup.compute_stages_ratio(stages)
    whole = math.fsum(weight for weight, _, _ in stages)
    if whole == 0:
        assert ratio is None
        return
    assert ratio is not None
    assert 0.0 <= ratio <= 1.0
    assert rollup.compute_stages_ratio(
        [(weight, Status.COMPLETED, None) for weight, _, _ in stages]
    ) == pytest.approx(1.0)
    assert rollup.compute_stages_ratio([(weight, Status.PENDING, None) for weight, _, _ in stages]) == 0.0


@given(st.floats(0, 1e300), st.none() | st.floats(0, 1e300), st.floats(0, 1e300))
def test_count_ratio_is_between_zero_and_one_or_none(
    current: float, total: float | None, partial: float
) -> None:
    """It is never NaN."""
    ratio = rollup.compute_count_ratio(current, total, partial)
    if not total:
        assert ratio is None
    else:
        assert ratio is not None
        assert 0.0 <= ratio <= 1.0


@settings(
    max_examples=scale_examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 4), st.sampled_from(sorted(ENDS))), max_size=8
    ),
)
def test_stages_in_any_order_have_the_weighted_ratio(
    weights: list[int], steps: list[tuple[int, int, str]]
) -> None:
    """The ratio never falls at the next stage, and ends at 1."""
    names = [f"s{index}" for index in range(len(weights))]
    shares = [weight / sum(weights) for weight in weights]
    state: list[tuple[Status, float]] = [(Status.PENDING, 0.0)] * len(weights)
    with recording(strict=False) as recorder:
        stages = Stages(dict(zip(names, weights, strict=True)))
        with progress.operation("o", id="o", stages=stages) as op:
            for index, done, how in steps:
                index %= len(weights)
                reached = max(
                    (at for at, (status, _) in enumerate(state) if status is not Status.PENDING), default=-1
                )
                again = state[index][0] in (Status.FAILED, Status.CANCELLED)
                stage = op.stage(names[index]).start()
                assert stage.recording == (index > reached or (index == reached and again))
                if not stage.recording:
                    continue
                for earlier in range(index):
                    if state[earlier][0] is Status.PENDING:
                        state[earlier] = (Status.SKIPPED, 1.0)
                stage.update(current=done, total=4)
                getattr(stage, how)(*(["x"] if how == "fail" else []))
                state[index] = (ENDS[how], 1.0 if how in ("complete", "skip") else done / 4)
                expected = math.fsum(share * ratio for share, (_, ratio) in zip(shares, state, strict=True))
                live = recorder.operation("o")
                assert live.ratio == pytest.approx(expected)
                assert [level.status for level in live.levels] == [status for status, _ in state]
        assert recorder.operation("o").ratio == 1.0
