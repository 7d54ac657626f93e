"""Tests of the locks that defer calls, and of atomic changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from otel_progress import locking
from otel_progress.interrupts import is_interrupt
from otel_progress.live.counter import LockCounter
from otel_progress.locking import CallerLock, create_once, store_together
from tests.support.interruptions import Interrupter, fail_on_deadlock

PATIENCE_S = 60.0


@pytest.fixture
def locking_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test count as a function of the package that holds a lock."""
    monkeypatch.setattr(locking, "_has_locking_frame", lambda frame: True)


class Box:
    """Object with two values."""

    def __init__(self) -> None:
        self.first: object = None
        self.second = 0


@pytest.mark.usefixtures("locking_caller")
def test_run_while_the_thread_holds_the_lock_defers_the_call_until_the_release() -> None:
    lock, order = CallerLock(), []
    with lock:
        lock.run(order.append, "deferred")
        order.append("owner")
        assert lock
    assert order == ["owner", "deferred"]
    assert not lock


def test_run_while_another_thread_holds_the_lock_waits_for_it() -> None:
    lock, order, held = CallerLock(), [], threading.Event()

    def hold() -> None:
        with lock.lock:
            held.set()
            order.append("owner")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE_S)
    lock.run(order.append, "caller")
    thread.join()
    assert order == ["owner", "caller"]


def test_defer_beyond_the_limit_drops_and_counts_the_call() -> None:
    dropped: list[None] = []
    lock = CallerLock(max_calls=2, on_dropped=lambda: dropped.append(None))
    with lock.lock:
        assert [lock.defer(str) for _ in range(3)] == [True, True, False]
    assert len(dropped) == 1


def test_deferred_call_that_raises_is_repeated_and_then_dropped() -> None:
    lock = CallerLock()
    calls: list[None] = []

    def fail() -> None:
        calls.append(None)
        raise TimeoutError

    lock.defer(fail)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            lock.run_deferred()
    lock.run_deferred()
    assert len(calls) == 3


def test_lock_that_a_left_frame_holds_is_released() -> None:
    """Only a tracer can raise between the end of a block and the release."""
    lock = CallerLock()
    lock.lock.acquire()
    assert lock.is_owned()
    assert not _check_interrupting(lock)
    assert not lock.is_owned()


def _check_interrupting(mutex: CallerLock) -> bool:
    return mutex.is_interrupting()


def test_create_once_interrupted_by_itself_returns_one_object() -> None:
    """A handler that counts first and the interrupted work use the same counter."""
    for target in range(1, 60):
        box = Box()
        found: list[object] = []

        def create(box: Box = box, found: list[object] = found) -> None:
            found.append(create_once(box, "first", object))

        calls = count(1)

        def interrupt(
            target: int = target, create: Callable[[], None] = create, calls: Iterator[int] = calls
        ) -> None:
            if next(calls) == target:
                create()

        interrupter = Interrupter(interrupt, event="opcode")
        interrupter.run(create)
        assert interrupter.errors == []
        assert interrupter.calls > 5
        assert len(set(map(id, found))) == 1


def test_store_together_sets_each_attribute() -> None:
    box, other = Box(), Box()
    store_together((box, other), ("first", "second"), (1, 2))
    assert (box.first, other.second) == (1, 2)


def test_counter_with_a_lock_counts_calls_that_interrupt_it() -> None:
    """An interpreter without a GIL uses it. A handler that counts does not wait."""
    with fail_on_deadlock():
        counter = LockCounter()
        interrupter = Interrupter(counter.count_one, event="opcode")

        def count() -> None:
            counter.count_one()
            counter.add(5)
            counter.shift(-1)

        interrupter.run(count)
        assert interrupter.errors == []
        assert interrupter.calls > 50
        assert counter.value() == 5 + interrupter.calls


def _raise_in_handler(signum: int, frame: object) -> None:  # noqa: ARG001 - a handler's signature
    raise LookupError


def test_exception_of_a_called_function_is_no_interrupt() -> None:
    with pytest.raises(LookupError) as caught:
        _raise_in_handler(1, None)
    assert not is_interrupt(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit()])
def test_exception_that_no_function_may_catch_is_an_interrupt(error: BaseException) -> None:
    assert is_interrupt(error)


def test_exception_of_a_signal_handler_is_an_interrupt() -> None:
    """The interpreter passes the interrupted frame to the handler."""
    with pytest.raises(LookupError) as caught:
        _raise_in_handler(1, sys._getframe())
    assert is_interrupt(caught.value)
