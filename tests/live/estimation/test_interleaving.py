"""Tests of ticks, readers and callers that interrupt each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.live.node import Node, Spec
from otel_progress.live.store import LiveStore
from otel_progress.model import NO_METADATA, Instance, Outcome, Status
from otel_progress.testing import FakeClock
from tests.support.examples import scale_examples

ACTIONS = (
    "advance",
    "count",
    "read",
    "collect",
    "eta",
    "start",
    "end",
    "pause",
    "unpause",
    "resume",
    "opaque",
    "measured",
    "item",
    "set back",
    "tick",
)


class Interleaving:
    """Live store whose clocks run other actions before they return.

    So an action continues with a time that is older than what the other actions stored. It models a
    thread that is interrupted after it has read a clock. With the store's lock held no other thread
    can run, so nothing interrupts then.
    """

    def __init__(self) -> None:
        self.time = FakeClock()
        self.interruptions: list[str] = []
        self.store = LiveStore(
            Instance("i", 1, "h", "s", 0.0),
            clock=self.read_clock,
            now=self.read_now,
            ids=lambda: "1234567890",
        )
        root = self.store.start_level(None, _make_spec("job", 50))
        assert root is not None
        self.root = root
        self.nodes: list[Node] = [root]
        self.seen: dict[Node, tuple[float, ...]] = {}
        self.pauses = 0

    def read_clock(self) -> float:
        """Return the monotonic clock as of before the interruption."""
        return self._interrupt(self.time.monotonic)

    def read_now(self) -> float:
        """Return the wall clock as of before the interruption."""
        return self._interrupt(self.time.wall)

    def _interrupt(self, read: Callable[[], float]) -> float:
        value = read()
        if self.interruptions and not self.store._state.lock._is_owned():  # type: ignore[attr-defined]
            action = self.interruptions.pop()
            self.time.advance(0.7)
            self.run(action)
        return value

    def run(self, action: str) -> None:
        """Run one action and check all levels."""
        store, newest, operation = self.store, self.nodes[-1], self.root.operation
        match action:
            case "advance":
                self.time.advance(1.3)
            case "count":
                newest.ensure_counter().count_one()
            case "item":
                store.add_item(newest, "a", Outcome.COMPLETED, None, NO_METADATA)
            case "read":
                store.reader.get(operation.id)
            case "collect":
                store.collect()
            case "eta":
                store.reader.get_eta(newest)
            case "start":
                node = store.start_level(newest, _make_spec("step", 9))
                if node is not None:
                    self.nodes.append(node)
            case "end" if len(self.nodes) > 1:
                store._state.end_level(self.nodes.pop(), Status.COMPLETED)
            case "pause":
                self.pauses += 1
                store.start_pause(operation, self.pauses, None)
            case "unpause" if self.pauses:
                store.end_pause(operation, self.pauses, None)
                self.pauses -= 1
            case "resume":
                store.resume_from(newest, 3)
            case "opaque":
                store.start_opaque(newest, "step", 20.0, is_whole_level=False)
            case "measured":
                store.end_opaque(newest, "step")
            case "tick":  # of another thread, between two counts of the work
                waiting, self.interruptions = self.interruptions, []
                for part in ("count", "collect", "count"):
                    self.run(part)
                self.interruptions = waiting
            case "set back":
                self.time.step_wall(-100.0)
        self.check()

    def check(self) -> None:
        """Assert that no time of a level has decreased, and that its curve ascends."""
        for node in self.nodes:
            started_at, started_clock = node.started_at, node.started_clock
            assert started_at is not None
            assert started_clock is not None
            assert node.advanced_at is not None
            assert node.advanced_clock is not None
            assert started_clock <= node.advanced_clock
            assert started_at <= node.advanced_at
            if not node.sequence:
                continue
            times: tuple[float, ...] = (node.observed_clock, node.observed_at, node.advanced_clock)
            estimation = node.estimation
            if estimation is not None:
                points = [at for at, _ in estimation.points]
                assert points == sorted(points)
                assert min(points, default=0.0) >= 0.0
            before = self.seen.get(node, (started_clock, started_at, started_clock))
            assert all(new >= old for new, old in zip(times, before, strict=True)), (node.path, before, times)
            self.seen[node] = times


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the package, which include failed estimates."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("otel_progress")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def _make_spec(type_: str, total: int) -> Spec:
    return Spec(type_, None, None, total, None, 1, None, None, NO_METADATA)


@settings(max_examples=scale_examples(300))
@given(
    st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.lists(st.sampled_from(ACTIONS), max_size=3)),
        min_size=5,
        max_size=40,
    )
)
def test_times_of_a_level_with_interrupted_readers_never_decrease(
    steps: list[tuple[str, list[str]]],
) -> None:
    """No estimate fails, because the curve that it uses ascends."""
    work = Interleaving()
    with capture_warnings() as warnings:
        for action, interruptions in steps:
            work.time.advance(0.4)
            work.interruptions = list(interruptions)
            work.run(action)
        work.interruptions = []
        work.run("collect")
    for node in reversed(work.nodes):
        work.store._state.end_level(node, Status.COMPLETED)
        assert node.ended_at is not None
        assert node.started_at is not None
        assert node.duration is not None
        assert node.ended_at - node.started_at >= node.duration - 0.01
        assert node.ended_at >= node.observed_at >= node.started_at
    assert all(event.at >= (work.root.started_at or 0.0) for event in work.store.collect().events)
    assert warnings == []


def test_slow_reader_after_a_newer_point_leaves_an_ascending_curve() -> None:
    """A query reads the clock, then the tick updates the level."""
    work = Interleaving()
    for _ in range(4):
        work.time.advance(1.0)
        work.run("count")
        work.run("collect")
    for readings in range(3):  # of a clock, before the tick
        work.time.advance(1.0)
        work.interruptions = ["tick", *["advance"] * readings]
        work.run("read")
    estimation = work.root.estimation
    assert estimation is not None
    times = [at for at, _ in estimation.points]
    assert len(times) > 4
    assert times == sorted(times)
