"""Tests of the counter: exact in every interleaving, and readable at any time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from otel_progress.live.counter import GilCounter, LockCounter
from tests.support.examples import scale_examples

Counter = GilCounter | LockCounter
KINDS = [GilCounter, LockCounter]


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    """Switch threads every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run(*targets: object) -> None:
    """Run each function in its own thread, all started at once."""
    barrier = threading.Barrier(len(targets))
    errors: list[BaseException] = []

    def work(target: object) -> None:
        barrier.wait()
        try:
            target()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("tiny_switch_interval")
def test_counter_with_many_threads_loses_no_unit(kind: type[Counter]) -> None:
    """A reader never receives a smaller value than before."""
    counter, done, seen = kind(), threading.Event(), [0.0]

    def ones() -> None:
        for _ in range(20_000):
            counter.count_one()

    def steps() -> None:
        for step in range(1, 2_001):
            counter.add(step)

    def iterate() -> None:
        for _ in counter.count(range(20_000)):
            pass

    def read() -> None:
        while not done.is_set():
            value = float(counter.value())
            assert value >= seen[-1]
            seen.append(value)
            del seen[:-1]

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run(ones, ones, ones, steps, steps, steps, iterate, iterate)
    finally:
        done.set()
        reader.join()
    assert counter.value() == 5 * 20_000 + 3 * 2_001_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("tiny_switch_interval")
def test_first_steps_of_many_threads_share_one_queue(kind: type[Counter]) -> None:
    """No step is lost."""
    for _ in range(100):
        counter = kind()
        run(*[lambda counter=counter: counter.add(3)] * 6)
        assert counter.value() == 18


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("tiny_switch_interval")
def test_counter_with_many_readers_and_writers_is_exact(kind: type[Counter]) -> None:
    """Readers may consume the steps of writers."""
    counter = kind()

    def write() -> None:
        for _ in range(3_000):
            counter.add(2)

    def read() -> None:
        for _ in range(3_000):
            counter.value()

    run(write, write, write, read, read, read)
    assert counter.value() == 18_000


class CounterMachine(RuleBasedStateMachine):
    """Applies the same steps to both counters and to a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = [kind() for kind in KINDS]
        self.expected = Fraction(0)
        self.untouched = True

    @rule(times=st.integers(1, 5))
    def count_ones(self, times: int) -> None:
        """Count one unit each."""
        for counter in self.counters:
            for _ in range(times):
                counter.count_one()
        self.expected += times
        self.untouched = False

    @rule(step=st.integers(0, 10**9) | st.sampled_from([0.5, 0.25, 1024.0]))
    def add(self, step: float) -> None:
        """Count a step."""
        for counter in self.counters:
            counter.add(step)
        self.expected += Fraction(step)
        self.untouched = False

    @rule(value=st.integers(1, 10**9) | st.sampled_from([0.5, 7.25]))
    def set(self, value: float) -> None:
        """Set the count."""
        for counter in self.counters:
            counter.set(value)
        self.expected = Fraction(value)
        self.untouched = False

    @rule(elements=st.integers(1, 6))
    def iterate(self, elements: int) -> None:
        """Count elements as a loop does: what is handed out last is not done yet."""
        for counter in self.counters:
            counter.shift(-1)
            before = counter.value()
            for index, _ in enumerate(counter.count(iter(range(elements)))):
                assert counter.value() >= before + (index if self.expected else 0) - 1
            counter.shift(1)
        self.expected += elements
        self.untouched = False

    @invariant()
    def agrees(self) -> None:
        """Both counters return the plain number without rounding errors."""
        for counter in self.counters:
            assert Fraction(counter.value()) == max(0, self.expected)
            assert counter.touched is not self.untouched


TestCounter = CounterMachine.TestCase
TestCounter.__doc__ = "Any sequence of counting, setting and iterating leaves what a plain number has."
TestCounter.settings = settings(max_examples=scale_examples(80), stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
@given(before=st.lists(st.floats(0, 1e6), max_size=5), value=st.floats(0, 1e9))
def test_counter_after_set_returns_the_same_number(
    kind: type[Counter], before: list[float], value: float
) -> None:
    """Earlier counts cause no rounding error."""
    counter = kind()
    for step in before:
        counter.add(step)
        counter.count_one()
    counter.set(value)
    assert counter.value() == value


@pytest.mark.parametrize("kind", KINDS)
def test_counter_shifted_below_zero_returns_zero(kind: type[Counter]) -> None:
    """A loop without elements has counted nothing."""
    counter = kind()
    assert not counter.touched
    counter.shift(-1)
    assert counter.value() == 0
    counter.shift(1)
    assert counter.value() == 0
