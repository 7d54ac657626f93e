"""Iterating with progress: the elements are counted in C as they are handed out, and all we do in between is to look at one flag."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

from otel_progress.errors import OperationCancelledError
from otel_progress.live.node import Node

if TYPE_CHECKING:
    from otel_progress.instrument.level import Level


T = TypeVar("T")


STOPPED_EARLY = "stopped before the end"


def _length(iterable: Sized) -> int | None:
    try:
        return len(iterable)
    except Exception:  # a foreign __len__ may do anything; the total stays unknown
        return None


def _iterate(iterator: Iterator[T], level: Level, node: Node) -> Iterator[T]:
    # An element counts as handed out when the loop asks for it, but it is done only when the loop asks for the next one.
    ahead = 0 if _strict(level) else 1
    counter = node.ensure_counter()
    counter.shift(-ahead)
    node.tracked = True
    operation = node.operation
    try:
        _check(node)
        if ahead:
            # A line of Python for each element costs less here than one more iterator in C that could be told to stop.
            for element in counter.count(iterator):
                yield element
                if operation.cancel_requested_at is not None:
                    raise make_cancelled_error(node)
        else:
            yield from _checked(iterator, node)
    except GeneratorExit:
        _cancel_early(level)
        raise
    except BaseException as error:
        counter.shift(ahead)
        level.__exit__(type(error), error, error.__traceback__)
        raise
    counter.shift(ahead)
    level.__exit__(None, None, None)


def make_cancelled_error(node: Node) -> OperationCancelledError:
    """Return the error that says why the operation of a level was asked to stop."""
    return OperationCancelledError(node.operation.cancel_reason or "cancelled")


def _check(node: Node) -> None:
    if node.operation.cancel_requested_at is not None:
        raise make_cancelled_error(node)


def _cancel_early(level: Level) -> None:
    if level.recording:
        level.cancel(STOPPED_EARLY)


def _strict(level: Level) -> bool:
    return level._recording is not None and level._recording.strict


def _checked(iterator: Iterator[T], node: Node) -> Iterator[T]:
    """Count through the strict way, which refuses what goes beyond the total."""
    one = node.count_one  # now: when somebody ends the level in mid-loop, the loop goes on
    for element in iterator:
        yield element
        one()
        _check(node)


async def _iterate_async(iterator: AsyncIterator[T], level: Level) -> AsyncIterator[T]:
    node = level._node
    node.ensure_counter()
    node.tracked = True
    one = node.count_one
    try:
        _check(node)
        async for element in iterator:
            yield element
            one()
            _check(node)
    except GeneratorExit:
        _cancel_early(level)
        raise
    except BaseException as error:
        level.__exit__(type(error), error, error.__traceback__)
        raise
    level.__exit__(None, None, None)
