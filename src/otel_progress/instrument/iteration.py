"""Iteration with progress.

Elements are counted in C, and Python code only checks for cancellation.

A generator cannot be shared by threads. It serves ``for`` loops. Other callers receive an iterator
that threads may share. They may stop without a request for the end, as ``zip`` does. So such a loop
is complete when it is dropped after its last element.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sized
from enum import Enum
from functools import partial
from itertools import chain, repeat, takewhile
from opcode import opmap
from types import AsyncGeneratorType, FrameType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast
from weakref import ref

from otel_progress.errors import OperationCancelledError
from otel_progress.instrument.rejections import Rejection, reject_excess
from otel_progress.interrupts import is_interrupt
from otel_progress.live.counter import GilCounter, LockCounter
from otel_progress.live.node import (
    STOPPED_EARLY,
    LoopReference,
    Node,
    add_orphan,
    has_received_all,
)

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle


T = TypeVar("T")


_GET_ITER: Final = opmap["GET_ITER"]


_GET_AITER: Final = opmap["GET_AITER"]


_FOR: Final = (opmap["FOR_ITER"], opmap["EXTENDED_ARG"])
"""First instruction of a ``for`` statement. A long jump has an extended argument."""


class LoopKind(Enum):
    """Code that requests an iterator."""

    FOR = "for"
    """A ``for`` statement. Only it references the iterator, and only while its body runs."""
    COMPREHENSION = "comprehension"
    """A comprehension or a generator expression. Nothing else can use the iterator."""
    SHARED = "shared"
    """Any other code. It may store the iterator, or share it with other threads."""


# Why: reading a member of the class takes far longer, and each start of a loop does.
FOR: Final = LoopKind.FOR
COMPREHENSION: Final = LoopKind.COMPREHENSION
SHARED: Final = LoopKind.SHARED


def find_loop_kind(frame: FrameType | None) -> LoopKind:
    """Return the kind of code that requests an iterator in a frame."""
    if frame is None:
        return SHARED
    code, instruction = frame.f_code.co_code, frame.f_lasti
    if code[instruction] != _GET_ITER:
        return SHARED
    return FOR if code[instruction + 2] in _FOR else COMPREHENSION


def is_async_loop(frame: FrameType | None) -> bool:
    """Return whether a frame requests an async iterator for an ``async for`` loop."""
    return frame is not None and frame.f_code.co_code[frame.f_lasti] == _GET_AITER


_SAFE_ITERATORS: Final = frozenset(
    map(
        type,
        (
            iter([]),
            reversed([]),
            iter(()),
            iter(range(0)),
            iter(range(2**65)),
            iter(""),
            iter("é"),
            iter(b""),
        ),
    )
)
"""Types of iterators that raise no exception."""


_NO_ELEMENTS: Final[dict[object, Any]] = {}


_get_element: Final = cast("Callable[[object, Any], Any]", _NO_ELEMENTS.get)
"""Returns its second argument. A function in C."""


def get_length(iterable: Sized) -> int | None:
    """Return the length of an iterable, or None if its ``__len__`` raises."""
    try:
        return len(iterable)
    except Exception as failure:  # A foreign __len__ may raise any exception. The total stays unknown.
        if is_interrupt(failure):
            raise
        return None


def iterate(
    iterator: Iterator[T],
    level: LevelHandle,
    node: Node,
    guard: LoopGuard,  # noqa: ARG001 - its lifetime is that of the generator
    counted: Iterator[T] | None = None,
    is_exhausted: Callable[[], object] = bool,
    check: TotalCheck | None = None,
) -> Generator[T, None, None]:
    """Yield the elements of ``iterator``, count them on the node, and end the level.

    ``guard`` is that of :func:`watch_loop`. ``counted`` is an iterator over the same elements that
    counts them on the node. The count is one lower already then. When the generator is closed,
    ``is_exhausted`` returns whether all elements were yielded. ``check`` is called after each
    counted element. It raises if the total is exceeded.
    """
    # The loop requests an element before it processes it, but the element is done only when the
    # loop requests the next one. So the count is one lower while the loop runs.
    ahead = 0 if counted is None and _is_strict(level) else 1
    counter = node.ensure_counter()
    if counted is None:
        counter.shift(-ahead)
    node.tracked = True
    operation = node.operation
    try:
        check_cancelled(node)
        if counted is not None and check is not None:
            for element in counted:
                yield element
                check()
                check_cancelled(node)
        elif ahead:
            # Why: one line of Python per element costs less than one more iterator in C that
            # checks for cancellation.
            for element in counter.count(iterator) if counted is None else counted:
                yield element
                if operation.cancel_requested_at is not None:
                    raise make_cancelled_error(node)
        else:
            yield from _iterate_strict(iterator, node)
    except GeneratorExit:
        if is_exhausted():
            _end_count(counter, ahead, check)
            level.__exit__(None, None, None)
        elif counted is None or not has_received_all(node):
            _cancel_early(level)
        # Why nothing otherwise: the guard is collected. If an exception ends the operation before
        # the next tick, the last element was not done.
        raise
    except BaseException as error:
        _end_count(counter, ahead, check)
        level.__exit__(type(error), error, error.__traceback__)
        raise
    _end_count(counter, ahead, check)
    level.__exit__(None, None, None)


def _end_count(counter: GilCounter | LockCounter, ahead: int, check: TotalCheck | None) -> None:
    """Count the last element, which the loop has done."""
    if check is not None:
        check.ahead = 0
    counter.shift(ahead)


class TotalCheck:
    """Rejects an element of a strict loop that exceeds the total.

    It does not count then. The count of the loop is ``ahead`` lower than that of its elements.
    """

    __slots__ = ("_node", "_reject", "ahead")

    def __init__(self, node: Node, reject: Callable[[Rejection], None]) -> None:
        self._node = node
        self._reject = reject
        self.ahead = 1

    def __call__(self) -> None:
        """Raise RejectedValueError if the total is exceeded."""
        node, counter = self._node, self._node.ensure_counter()
        # Why this order: another thread may end the loop, which changes ``ahead`` first.
        current = counter.value() + self.ahead
        if node.total is not None and current > node.total:
            counter.shift(-1)
            self._reject(reject_excess(node, current))


def can_iterate_in_c(iterator: object, level: LevelHandle) -> bool:
    """Return whether :func:`iterate_in_c` accepts an iterator.

    An exception of the iterator must fail the level, which needs Python code.
    """
    return (
        type(iterator) in _SAFE_ITERATORS
        and isinstance(level._node.ensure_counter(), GilCounter)
        and not _is_strict(level)
    )


def iterate_in_c(iterator: Iterator[T], level: LevelHandle, node: Node, guard: LoopGuard) -> Iterator[T]:
    """Return an iterator like :func:`iterate` that runs no Python code per element.

    It takes the same time, and threads may share it.
    """
    counter = node.ensure_counter()
    counter.shift(-1)
    node.tracked = True
    flags = node.operation.get_running_flags()
    # A request to cancel clears the flags, which ends this iterator before the next element.
    while_running = chain.from_iterable(takewhile(bool, repeat(flags)))
    elements = map(_get_element, while_running, counter.count(iterator))
    guard.has_started = cast(GilCounter, counter).has_counted
    return cast("Iterator[T]", chain(elements, _LoopEnd(level, node, guard)))


class LoopGuard:
    """Object that only the iterator of a loop references.

    If it is collected before the level ended, the next tick or query ends the level.
    """

    __slots__ = ("__weakref__", "has_started", "kind", "level")

    has_started: Callable[[], object] | None
    """Returns whether an element was requested. None if the level is marked as tracked then."""

    def __init__(self, level: LevelHandle, kind: LoopKind) -> None:
        self.level = level
        self.kind = kind
        self.has_started = None


def watch_loop(
    level: LevelHandle, kind: LoopKind, reference_type: type[LoopReference] = LoopReference
) -> LoopGuard:
    """End the level when its loop was left without an end."""
    node = level._node
    guard = LoopGuard(level, kind)
    reference = reference_type(guard, add_orphan)
    reference.node, node.handle = node, reference
    return guard


class _LoopEnd:
    """Iterator without elements that ends the level of a loop in C.

    ``guard`` is that of :func:`watch_loop`. Why not a generator: several threads may receive the
    end at the same time. Why not ``iter(function, None)``: if another thread drops it during the
    call, CPython uses freed memory.
    """

    __slots__ = ("_guard", "_level", "_node", "_unended")

    def __init__(self, level: LevelHandle, node: Node, guard: LoopGuard) -> None:
        self._level = level
        self._node = node
        self._guard = guard
        self._unended = [True]
        """Empty after the first call. Removing its element is atomic."""

    def __iter__(self) -> _LoopEnd:
        return self

    def __next__(self) -> Any:
        """End the level. Raises StopIteration.

        Raises OperationCancelledError if cancellation was requested. Several threads may call it.
        The first call ends the level.
        """
        node, level = self._node, self._level
        is_cancelled = node.operation.cancel_requested_at is not None
        try:
            self._unended.pop()
        except IndexError:
            if is_cancelled:
                raise make_cancelled_error(node) from None
            raise StopIteration from None
        node.ensure_counter().shift(1)
        if not is_cancelled:
            level.__exit__(None, None, None)
            raise StopIteration
        error = make_cancelled_error(node)
        level.__exit__(type(error), error, None)
        raise error


class SharedIterator(Generic[T]):
    """Iterator with progress that several threads may share.

    It takes about 80 ns more per element than a generator.

    One thread at a time is in the generator, which ends the level. A thread that finds it in use
    requests an element from the iterable directly. So threads wait for each other only if the
    iterable makes them wait.
    """

    __slots__ = ("_exhausted", "_generator", "_next", "_next_directly")

    def __init__(self, iterator: Iterator[T], level: LevelHandle, node: Node, guard: LoopGuard) -> None:
        # Why also in strict mode: an element that is received and counted by one call of a C
        # function cannot be counted after another thread has ended the level.
        counter = node.ensure_counter()
        counted = counter.count(iterator)
        # Why here: another thread may receive elements before the generator has started.
        counter.shift(-1)
        self._exhausted: list[bool] = []
        """Not empty after a thread received the end directly."""
        backend = level._backend
        check = None if backend is None or not backend.strict else TotalCheck(node, backend.reject)
        self._generator = iterate(iterator, level, node, guard, counted, self._exhausted.__len__, check)
        self._next = self._generator.__next__
        self._next_directly: Callable[[], T] = (
            counted.__next__ if check is None else partial(_get_checked, counted, check)
        )

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self._next()
        except ValueError as error:
            # Why: an error of the iterable has passed a frame of the generator.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
        try:
            return self._next_directly()
        except StopIteration:
            self._exhausted[:] = (True,)
            raise

    def close(self) -> None:
        """End the iteration early."""
        self._generator.close()


def _get_checked(counted: Iterator[T], check: TotalCheck) -> T:
    element = next(counted)
    check()
    return element


class SharedAsyncIterator(Generic[T]):
    """Async iterator with progress that several tasks may share.

    See :class:`SharedIterator`.
    """

    __slots__ = ("_generator", "_iterator", "_node")

    def __init__(self, iterator: AsyncIterator[T], level: LevelHandle, guard: LoopGuard) -> None:
        self._iterator = iterator
        self._node = level._node
        generator = start_async_generator(iterator, level, guard)
        self._generator = cast("AsyncGeneratorType[T, None]", generator)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if not self._generator.ag_running:
            return await self._generator.__anext__()
        element = await self._iterator.__anext__()
        self._node.count_one()
        return element

    async def aclose(self) -> None:
        """End the iteration early."""
        await self._generator.aclose()


def start_async_generator(
    iterator: AsyncIterator[T], level: LevelHandle, guard: LoopGuard
) -> AsyncGenerator[T, None]:
    """Return an async generator with progress over the elements of an async iterator."""
    generator = _iterate_async(iterator, level, guard)
    # Why: the event loop closes a dropped async generator later, which keeps the guard until then.
    guard.has_started = partial(_is_iterating, ref(generator), level._node)
    return generator


def _is_iterating(generator: ref[object], node: Node) -> bool:
    return node.tracked and generator() is not None


async def _iterate_async(
    iterator: AsyncIterator[T],
    level: LevelHandle,
    guard: LoopGuard,  # noqa: ARG001 - its lifetime is that of the generator
) -> AsyncGenerator[T, None]:
    """Yield the elements of an async iterator, count them, and end the level."""
    node = level._node
    node.ensure_counter()
    node.tracked = True
    count_one = node.count_one
    try:
        check_cancelled(node)
        async for element in iterator:
            yield element
            count_one()
            check_cancelled(node)
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


def check_cancelled(node: Node) -> None:
    """Raise OperationCancelledError if cancellation was requested."""
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
        check_cancelled(node)
