"""Iteration with progress.

Elements are counted in C, and Python code only checks for cancellation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sized
from typing import TYPE_CHECKING, Final, TypeVar

from otel_progress.errors import OperationCancelledError
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import Node

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle


T = TypeVar("T")


STOPPED_EARLY: Final = "stopped before the end"
"""Message of a level whose loop ended before its last element."""


def get_length(iterable: Sized) -> int | None:
    """Return the length of an iterable, or None if its ``__len__`` raises."""
    try:
        return len(iterable)
    except Exception as failure:  # A foreign __len__ may raise any exception. The total stays unknown.
        if is_interrupt(failure):
            raise
        return None


def iterate(iterator: Iterator[T], level: LevelHandle, node: Node) -> Iterator[T]:
    """Yield the elements of ``iterator``, count them on the node, and end the level."""
    # The loop requests an element before it processes it, but the element is done only when the
    # loop requests the next one. So the count is one lower while the loop runs.
    ahead = 0 if _is_strict(level) else 1
    counter = node.ensure_counter()
    counter.shift(-ahead)
    node.tracked = True
    operation = node.operation
    try:
        _check_cancelled(node)
        if ahead:
            # Why: one line of Python per element costs less than one more iterator in C that
            # checks for cancellation.
            for element in counter.count(iterator):
                yield element
                if operation.cancel_requested_at is not None:
                    raise make_cancelled_error(node)
        else:
            yield from _iterate_strict(iterator, node)
    except GeneratorExit:
        _cancel_early(level)
        raise
    except BaseException as error:
        counter.shift(ahead)
        level.__exit__(type(error), error, error.__traceback__)
        raise
    counter.shift(ahead)
    level.__exit__(None, None, None)


async def iterate_async(iterator: AsyncIterator[T], level: LevelHandle) -> AsyncIterator[T]:
    """Yield the elements of an async iterator, count them, and end the level."""
    node = level._node
    node.ensure_counter()
    node.tracked = True
    count_one = node.count_one
    try:
        _check_cancelled(node)
        async for element in iterator:
            yield element
            count_one()
            _check_cancelled(node)
    except GeneratorExit:
        _cancel_early(level)
        raise
    except BaseException as error:
        level.__exit__(type(error), error, error.__traceback__)
        raise
    level.__exit__(None, None, None)


def make_cancelled_error(node: Node) -> OperationCancelledError:
    """Return the error with the reason given when cancellation was requested."""
    return OperationCancelledError(node.operation.cancel_reason or "cancelled")


def _check_cancelled(node: Node) -> None:
    if node.operation.cancel_requested_at is not None:
        raise make_cancelled_error(node)


def _cancel_early(level: LevelHandle) -> None:
    if level.recording:
        level.cancel(STOPPED_EARLY)


def _is_strict(level: LevelHandle) -> bool:
    return level._backend is not None and level._backend.strict


def _iterate_strict(iterator: Iterator[T], node: Node) -> Iterator[T]:
    """Yield elements with strict counting, which rejects a count above the total."""
    # Read before the loop: if another thread ends the level, the loop continues with this counter.
    count_one = node.count_one
    for element in iterator:
        yield element
        count_one()
        _check_cancelled(node)
