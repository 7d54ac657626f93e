"""Iterating with progress: the elements are counted in C as they are handed out, and all we do in between is to look at one flag."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from otel_progress.errors import OperationCancelledError
from otel_progress.instrument.begin import INERT
from otel_progress.live.node import Node
from otel_progress.model import Number

if TYPE_CHECKING:
    from otel_progress.instrument.handle import Level

T = TypeVar("T")
STOPPED_EARLY = "stopped before the end"


class Track(Generic[T]):
    """An iterable, or async iterable, whose iteration is a level: begun with the first element, ended with the last.

    ``level`` is the handle of the iteration that is under way, for messages and item outcomes. It is never the current level:
    nothing leaks into the caller's context. Leaving the loop early ends the level as cancelled. Once somebody has asked for the
    operation to stop, OperationCancelledError is raised between two elements.
    """

    __slots__ = ("_handle", "_iterable", "_make", "_total")

    def __init__(
        self, iterable: Iterable[T] | AsyncIterable[T], total: Number | None, make: Callable[[Number | None], Level]
    ) -> None:
        self._iterable = iterable
        self._total = total if total is not None or not isinstance(iterable, Sized) else _length(iterable)
        self._make = make
        self._handle: Level | None = None

    @property
    def level(self) -> Level:
        """The handle of the iteration under way, or of the next one."""
        if self._handle is None:
            self._handle = self._make(self._total)
        return self._handle

    def __len__(self) -> int:
        return len(cast(Sized, self._iterable))

    def __bool__(self) -> bool:
        return bool(self._iterable)

    def __iter__(self) -> Iterator[T]:
        iterable = iter(cast("Iterable[T]", self._iterable))
        level = self._begin()
        if level._node is INERT:
            return iterable
        return _iterate(iterable, level, level._node)

    def __aiter__(self) -> AsyncIterator[T]:
        iterator = cast("AsyncIterable[T]", self._iterable).__aiter__()
        level = self._begin()
        if level._node is INERT:
            return iterator
        return _iterate_async(iterator, level)

    def _begin(self) -> Level:
        if self._handle is not None and (self._handle._node.tracked or self._handle._node.status.finished):
            self._handle = None  # of an iteration before, or of one that is under way: each is a level of its own
        return self.level.start()


def _length(iterable: Sized) -> int | None:
    try:
        return len(iterable)
    except Exception:  # a foreign __len__ may do anything; the total stays unknown
        return None


def _iterate(iterator: Iterator[T], level: Level, node: Node) -> Iterator[T]:
    # An element counts as handed out when the loop asks for it, but it is done only when the loop asks for the next one.
    ahead = 0 if _strict(level) else 1
    counter = node.counting()
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
                    raise cancelled(node)
        else:
            yield from _checked(iterator, node)
    except GeneratorExit:
        _stop(level)
        raise
    except BaseException as error:
        counter.shift(ahead)
        level.__exit__(type(error), error, error.__traceback__)
        raise
    counter.shift(ahead)
    level.__exit__(None, None, None)


def cancelled(node: Node) -> OperationCancelledError:
    """Return the error that says why the operation of a level was asked to stop."""
    return OperationCancelledError(node.operation.cancel_reason or "cancelled")


def _check(node: Node) -> None:
    if node.operation.cancel_requested_at is not None:
        raise cancelled(node)


def _stop(level: Level) -> None:
    if level.recording:
        level.cancel(STOPPED_EARLY)


def _strict(level: Level) -> bool:
    return level._recording is not None and level._recording.strict


def _checked(iterator: Iterator[T], node: Node) -> Iterator[T]:
    """Count through the strict way, which refuses what goes beyond the total."""
    one = node.one  # now: when somebody ends the level in mid-loop, the loop goes on
    for element in iterator:
        yield element
        one()
        _check(node)


async def _iterate_async(iterator: AsyncIterator[T], level: Level) -> AsyncIterator[T]:
    node = level._node
    node.counting()
    node.tracked = True
    one = node.one
    try:
        _check(node)
        async for element in iterator:
            yield element
            one()
            _check(node)
    except GeneratorExit:
        _stop(level)
        raise
    except BaseException as error:
        level.__exit__(type(error), error, error.__traceback__)
        raise
    level.__exit__(None, None, None)
