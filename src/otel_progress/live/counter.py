"""Lock-free counter of the hot path: one call of a C function per unit.

``itertools.repeat(True, N)`` decrements a C integer each time it is advanced, and its length hint
returns the rest. With the GIL one advance is atomic. So no unit is lost between threads, and
nothing can block: a signal handler may count while the main thread counts. Nothing is allocated,
and another thread may read at any time.

Steps other than one use ``itertools.accumulate`` over a queue. A caller appends its step and
advances the sum. Each call adds the next step in the queue. The result is exact, because a sum does
not depend on the order.

Without a GIL these iterators are not atomic, so a lock is used there. A signal handler that counts
while its thread holds the lock leaves its step to that thread.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, compress, repeat
from operator import length_hint
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from otel_progress.locking import CallerLock, create_once, store_together

if TYPE_CHECKING:
    from otel_progress.model import Number


T = TypeVar("T")


_FULL: Final = sys.maxsize


_ZERO: Final = (0, 0)


class GilCounter:
    """Counter of units of work.

    Exact across threads with the GIL. ``count_one`` is the hot path.
    """

    __slots__ = ("_left", "_start", "_steps", "count_one")

    def __init__(self) -> None:
        self._left: repeat[bool] = repeat(True, _FULL)
        self.count_one: Callable[[], object] = self._left.__next__
        """Counts one unit. A C function that takes about 20 ns."""
        self._start: tuple[Number, Number] = _ZERO
        """A count, and the value of the C counter at that count. One tuple, so that both change at
        once.
        """
        self._steps: _Steps | None = None
        """Queue of steps, and the function that returns their sum. None before the first step."""

    def add(self, step: Number) -> None:
        """Count ``step`` units. ``step`` is a finite number >= 0."""
        queue, next_sum = self._steps or create_once(self, "_steps", _create_steps)
        queue.append(step)
        try:
            next_sum()
        except IndexError:
            # Why: a reader drained the queue between the two calls, so the sum contains the step.
            return

    def count(self, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator in C that counts each element when it yields it."""
        return compress(iterable, self._left)

    def value(self, ahead: int = 0) -> Number:
        """Return the number of counted units plus ``ahead``, at least 0."""
        count, counted = self._start
        # Why this order: a count that was set is returned exactly, even if it is a fraction.
        value = count + ahead + (self._read_c_counter() - counted)
        return value if value > 0 else 0

    def has_counted(self) -> bool:
        """Return True when any unit was counted one by one."""
        return length_hint(self._left) != _FULL

    def shift(self, step: int) -> None:
        """Change the count by ``step``.

        A loop uses it, because an element is done one step after it was yielded.
        """
        count, counted = self._start
        self._start = (count + step, counted)

    def set(self, value: Number) -> None:
        """Set the number of counted units."""
        self._start = (value, self._read_c_counter())

    @property
    def touched(self) -> bool:
        """True when any unit was counted or the count was set."""
        return length_hint(self._left) != _FULL or self._steps is not None or self._start != _ZERO

    def _read_c_counter(self) -> Number:
        ones = _FULL - length_hint(self._left)
        return ones if self._steps is None else ones + _read_sum(*self._steps)


_Steps: TypeAlias = "tuple[deque[Number], Callable[[], Number]]"


def _create_steps() -> _Steps:
    queue: deque[Number] = deque()
    return queue, accumulate(iter(queue.popleft, _NEVER)).__next__


def _read_sum(queue: deque[Number], next_sum: Callable[[], Number]) -> Number:
    # Why drain: a thread may be interrupted between appending its step and advancing the sum.
    # Why append 0: another thread may consume the last step first, and the sum needs one step
    # to return.
    queue.append(0)
    while True:
        try:
            total = next_sum()
        except IndexError:
            queue.append(0)
            continue
        if not queue:
            return total


class LockCounter:
    """Counter for interpreters without a GIL: a lock around every change."""

    __slots__ = ("_lock", "_value", "touched")

    def __init__(self) -> None:
        self._lock = CallerLock()
        self._value: Number = 0
        self.touched = False
        """True when any unit was counted or the count was set."""

    def count_one(self) -> None:
        """Count one unit."""
        self.add(1)

    def add(self, step: Number) -> None:
        """Count ``step`` units. ``step`` is a finite number >= 0."""
        self._lock.run(self._add, step)

    def count(self, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator over ``iterable`` that counts each element when it yields it."""
        # Why not a generator: threads may share the iterator.
        return map(self._count_element, iterable)

    def _count_element(self, element: T) -> T:
        self.add(1)
        return element

    def value(self, ahead: int = 0) -> Number:
        """Return the number of counted units plus ``ahead``, at least 0."""
        if self._lock:
            self._lock.run_deferred()
        return max(0, self._value + ahead)

    def shift(self, step: int) -> None:
        """Change the count by ``step``.

        A loop uses it, because an element is done one step after it was yielded.
        """
        self._lock.run(self._add, step)

    def set(self, value: Number) -> None:
        """Set the number of counted units."""
        self._lock.run(self._set, value)

    def _add(self, step: Number) -> None:
        store_together((self, self), _VALUE, (self._value + step, True))

    def _set(self, value: Number) -> None:
        store_together((self, self), _VALUE, (value, True))


_VALUE: Final = ("_value", "touched")


_NEVER: Final = object()


def _is_gil_enabled() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


Counter = GilCounter if _is_gil_enabled() else LockCounter
"""The counter class for this interpreter."""
