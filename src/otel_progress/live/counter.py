"""The hot-path counter: one call into C per unit of work, no lock, no Python bytecode between reading and writing.

``itertools.repeat(True, N)`` counts *down* a C integer each time it is advanced, and tells what is left through its length
hint. Under the GIL one advance is atomic, so no unit is lost between threads, nothing can block or deadlock (a signal handler may
count while the main thread counts), nothing is allocated, and another thread may read at any time. Steps other than one go through
``itertools.accumulate`` over a queue: put the step in, take the sum out; each call adds whatever step is next in the queue,
which is just as exact because a sum does not care for order.

Without a GIL these iterators give no such promise; there a lock does the work.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, compress, repeat
from operator import length_hint
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from otel_progress.fork import fork_safe_lock

if TYPE_CHECKING:
    from otel_progress.model import Number


T = TypeVar("T")


_FULL: Final = sys.maxsize


_ZERO: Final = (0, 0)


_creating: Final = fork_safe_lock()


class GilCounter:
    """Counts units of work; ``one()`` is the hot path. Exact across threads under the GIL."""

    __slots__ = ("_left", "_start", "_steps", "_sum", "count_one")

    def __init__(self) -> None:
        self._left: repeat[bool] = repeat(True, _FULL)
        self.count_one: Callable[[], object] = self._left.__next__
        """Count one unit. A C function: about 20 ns."""
        self._start: tuple[Number, Number] = _ZERO
        """The count, and what had been counted in C when it was so: a pair, so that both change in one step."""
        self._steps: deque[Number] | None = None
        self._sum: Callable[[], Number] | None = None

    def add(self, step: Number) -> None:
        """Count ``step`` units, a finite number that is not negative."""
        if self._steps is None:
            self._make_steps()
        self._steps.append(step)  # type: ignore[union-attr]
        try:
            self._sum()  # type: ignore[misc]
        except IndexError:  # a reader drained the queue between the two calls: the step is in the sum already
            return

    def count(self, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator over ``iterable`` that counts each element as it is handed out, in C."""
        return compress(iterable, self._left)

    def value(self) -> Number:
        """Return the units counted so far, never below 0."""
        count, counted = self._start
        value = count + (self._counted() - counted)  # exactly the count that was set, also of fractions
        return value if value > 0 else 0

    def shift(self, step: int) -> None:
        """Move the count by ``step`` without counting: what a loop hands out is done only a step later."""
        count, counted = self._start
        self._start = (count + step, counted)

    def set(self, value: Number) -> None:
        """Make ``value`` the number of units counted so far."""
        self._start = (value, self._counted())

    @property
    def touched(self) -> bool:
        """True once anything was counted or set."""
        return length_hint(self._left) != _FULL or self._steps is not None or self._start != _ZERO

    def _counted(self) -> Number:
        ones = _FULL - length_hint(self._left)
        return ones if self._steps is None else ones + self._summed()

    def _summed(self) -> Number:
        # A thread interrupted between putting its step in and taking the sum out leaves the step in the queue: drain it.
        # Another thread may take the last step first; then the sum is there for the asking with a step of 0.
        steps, summed = self._steps, self._sum
        steps.append(0)  # type: ignore[union-attr]
        while True:
            try:
                total = summed()  # type: ignore[misc]
            except IndexError:
                steps.append(0)  # type: ignore[union-attr]
                continue
            if not steps:
                return total

    def _make_steps(self) -> None:
        with _creating:
            if self._steps is None:
                steps: deque[Number] = deque()
                self._sum = accumulate(iter(steps.popleft, _NEVER)).__next__
                self._steps = steps


class LockCounter:
    """The same counter for interpreters without a GIL: a lock around every change."""

    __slots__ = ("_lock", "_value", "touched")

    def __init__(self) -> None:
        self._lock = Lock()
        self._value: Number = 0
        self.touched = False
        """True once anything was counted or set."""

    def count_one(self) -> None:
        """Count one unit."""
        self.add(1)

    def add(self, step: Number) -> None:
        """Count ``step`` units, a finite number that is not negative."""
        with self._lock:
            self._value += step
            self.touched = True

    def count(self, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator over ``iterable`` that counts each element as it is handed out."""
        for element in iterable:
            self.add(1)
            yield element

    def value(self) -> Number:
        """Return the units counted so far, never below 0."""
        return max(0, self._value)

    def shift(self, step: int) -> None:
        """Move the count by ``step`` without counting: what a loop hands out is done only a step later."""
        with self._lock:
            self._value += step
            self.touched = True

    def set(self, value: Number) -> None:
        """Make ``value`` the number of units counted so far."""
        with self._lock:
            self._value = value
            self.touched = True


_NEVER: Final = object()


def _gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


Counter = GilCounter if _gil() else LockCounter
"""The counter for this interpreter."""
