"""The counter: exact in every interleaving, readable at any moment."""

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

Counter = GilCounter | LockCounter
KINDS = [GilCounter, LockCounter]


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    """Let threads take turns every few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run(*targets: object) -> None:
    """Run each in a thread of its own, begun at once."""
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
def test_threads_lose_nothing(kind: type[Counter]) -> None:
    """Eight threads that count ones and steps, while others read, lose not a unit, and a reader never sees less than before."""
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
def test_the_first_step_of_many_threads(kind: type[Counter]) -> None:
    """Threads whose first steps meet make one queue, and lose none."""
    for _ in range(100):
        counter = kind()
        run(*[lambda counter=counter: counter.add(3)] * 6)
        assert counter.value() == 18


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("tiny_switch_interval")
def test_readers_drain_for_writers(kind: type[Counter]) -> None:
    """Many readers beside many writers of steps: whoever takes a step out of the queue, the sum is right."""
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
    """Does to both counters what it does to a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = [kind() for kind in KINDS]
        self.expected = Fraction(0)
        self.untouched = True

    @rule(times=st.integers(1, 5))
    def one(self, times: int) -> None:
        """Count ones."""
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
        """Both counters say what the plain number says, without a trace of binary fractions."""
        for counter in self.counters:
            assert Fraction(counter.value()) == max(0, self.expected)
            assert counter.touched is not self.untouched


TestCounter = CounterMachine.TestCase
TestCounter.__doc__ = "Any sequence of counting, setting and iterating leaves what a plain number has."
TestCounter.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
@given(before=st.lists(st.floats(0, 1e6), max_size=5), value=st.floats(0, 1e9))
def test_what_is_set_is_read_exactly(kind: type[Counter], before: list[float], value: float) -> None:
    """The very number that was set comes back, whatever was counted before."""
    counter = kind()
    for step in before:
        counter.add(step)
        counter.count_one()
    counter.set(value)
    assert counter.value() == value


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_is_never_below_zero(kind: type[Counter]) -> None:
    """A loop that has been handed nothing has done nothing, not minus one."""
    counter = kind()
    assert not counter.touched
    counter.shift(-1)
    assert counter.value() == 0
    counter.shift(1)
    assert counter.value() == 0
