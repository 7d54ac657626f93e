"""Iteration with keys, without the elements of earlier sessions.

The key of an element is recorded when the loop requests the next one, because only then it is done.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import ref

from otel_progress.instrument.iteration import LoopGuard, check_cancelled
from otel_progress.instrument.rejections import Rejection
from otel_progress.resumption import digest_key

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.live.completed_work import CompletedWork


T = TypeVar("T")


_OPERATION_PATH: Final = "\0"
"""Path of the level above a loop that is an operation. No level has it."""


class KeyedLoop(Generic[T]):
    """Keys of one loop: those of earlier sessions, and those that it records.

    Threads may share it.
    """

    __slots__ = (
        "_count_skipped",
        "_earlier",
        "_earlier_count",
        "_get_key",
        "_level",
        "_scope",
        "_unended",
        "_work",
    )

    def __init__(self, level: LevelHandle, work: CompletedWork, get_key: Callable[[T], object]) -> None:
        self._level: LevelHandle = level
        self._scope: bytes
        node = level._node
        path = _OPERATION_PATH if node.parent is None else node.parent.path
        enclosing = _find_enclosing(work)
        if enclosing is not None:
            # Why: the number of the loop depends on the elements that this session leaves out.
            outer, key = enclosing
            above = "" if node.parent is outer._level._node else path
            path = f"{above}\0{outer._scope.hex()}{key.hex()}"
        self._scope = work.create_loop_scope(
            path, node.spec.type, node.spec.name or "", is_nested=enclosing is not None
        )
        self._earlier = work.get_earlier_keys(self._scope)
        # Why a limit: the iterable may have fewer elements than in the earlier sessions.
        self._earlier_count = (
            len(self._earlier) if node.total is None else min(len(self._earlier), int(node.total))
        )
        self._work = work
        self._get_key = get_key
        self._count_skipped = itertools.count().__next__
        self._unended = [True]

    @property
    def level(self) -> LevelHandle:
        """The level of the loop."""
        return self._level

    def register(self, iterator: KeyedIterator[T] | KeyedAsyncIterator[T]) -> None:
        """Register the iterator for loops in the body of this one."""
        loops, number = self._work.running_loops, id(iterator)
        loops.pop(number, None)

        def drop(reference: object) -> None:
            if loops.get(number) is reference:
                loops.pop(number, None)

        loops[number] = ref(iterator, drop)

    @property
    def earlier_count(self) -> int:
        """Number of elements of earlier sessions that count from the start on."""
        return self._earlier_count

    def digest(self, element: T) -> bytes | None:
        """Return the digest of an element's key. None for an element without one."""
        key = self._get_key(element)
        return None if key is None else digest_key(key if type(key) is str else str(key))

    def leaves_out(self, key: bytes | None) -> bool:
        """Return True if an earlier session completed an element, and count it."""
        if key is None or key not in self._earlier:
            return False
        self._count_skipped()
        return True

    def finish(self, key: bytes | None) -> None:
        """Record an element that is done, and count it."""
        if key is not None and not self._work.add(self._scope, key):
            text = "Invalid key: expected a key that no other element of the loop has. Return unique keys."
            backend = self._level._backend
            if backend is not None:
                backend.report_rejection("duplicate_id", text)
        self._level._node.count_one()

    def end(self) -> None:
        """Complete the level.

        Elements that are not part of the iterable any more do not count.
        """
        try:
            # Why: several threads may receive the end at the same time.
            self._unended.pop()
        except IndexError:
            return
        node, skipped = self._level._node, self._count_skipped()
        if skipped != self._earlier_count:
            node.ensure_counter().shift(skipped - self._earlier_count)
            node.dirty = True
        self._level.__exit__(None, None, None)


def _find_enclosing(work: CompletedWork) -> tuple[KeyedLoop[Any], bytes] | None:
    """Return the keyed loop whose body this thread or task runs.

    The second value is the key of its current element. The newest loop has precedence.
    """
    for reference in reversed(list(work.running_loops.values())):
        iterator: Any = reference()
        if iterator is None:
            continue
        key = iterator.get_current_key()
        if key is not None and iterator.keys.level.recording:
            return iterator.keys, key
    return None


def start_keyed_loop(
    level: LevelHandle, get_key: Callable[[Any], object] | None, resume: bool | None
) -> KeyedLoop[Any] | None:
    """Return the keys of a loop that starts. None if its elements have no keys.

    ``resume`` is that of the loop. None is that of the operation.
    """
    backend, node = level._backend, level._node
    if resume is False or backend is None:
        return None
    work = node.operation.completed_work
    if get_key is not None and not callable(get_key):
        text = (
            f"Invalid key of type {type(get_key).__name__}: expected a function. Pass key=, such as key=str."
        )
        backend.reject(Rejection("resume", text, is_wrong_type=True))
        return None
    if work is None or get_key is None:
        if resume and node.parent is not None and work is None:
            text = "Invalid resume of a loop: expected an operation that was started with resume=True."
            backend.reject(Rejection("resume", text))
        elif resume and get_key is None:
            text = "Invalid resume of a loop without keys: expected a function. Pass key=, such as key=str."
            backend.reject(Rejection("resume", text))
        return None
    loop: KeyedLoop[Any] = KeyedLoop(level, work, get_key)
    node.tracked = True
    node.ensure_counter()
    backend.store.start_resumed_loop(node, loop.earlier_count)
    return loop


class KeyedIterator(Generic[T]):
    """Iterator with progress over the elements that no earlier session completed.

    Threads may share it if they may share the iterator. An element is done when its thread requests
    the next one. The level ends when no element is left and all are done.
    """

    __slots__ = ("__weakref__", "_guard", "_iterator", "_keys", "_level", "_node", "_pending")

    def __init__(
        self, iterator: Iterator[T], level: LevelHandle, keys: KeyedLoop[T], guard: LoopGuard
    ) -> None:
        self._iterator = iterator
        self._level = level
        self._node = level._node
        self._keys = keys
        self._pending: dict[int, bytes | None] = {}
        """Keys of the elements that are processed, by thread."""
        self._guard = guard
        guard.has_started = self._pending.__len__
        keys.register(self)

    @property
    def keys(self) -> KeyedLoop[T]:
        """The keys of the loop."""
        return self._keys

    def get_current_key(self) -> bytes | None:
        """Return the key of the element that the calling thread processes."""
        return self._pending.get(get_ident())

    def __iter__(self) -> KeyedIterator[T]:
        return self

    def __next__(self) -> T:
        keys, pending, thread = self._keys, self._pending, get_ident()
        try:
            if thread in pending:
                keys.finish(pending[thread])
            # Why first: the level must not end while another thread waits for an element.
            pending[thread] = None
            check_cancelled(self._node)
            while True:
                element = next(self._iterator)
                key = keys.digest(element)
                if not keys.leaves_out(key):
                    break
                check_cancelled(self._node)
        except StopIteration:
            pending.pop(thread, None)
            if not pending:
                keys.end()
            raise
        except BaseException as error:
            pending.pop(thread, None)
            self._level.__exit__(type(error), error, error.__traceback__)
            raise
        pending[thread] = key
        return element


class KeyedAsyncIterator(Generic[T]):
    """Async iterator like :class:`KeyedIterator`. Tasks may share it."""

    __slots__ = ("__weakref__", "_guard", "_iterator", "_keys", "_level", "_node", "_pending")

    def __init__(
        self, iterator: AsyncIterator[T], level: LevelHandle, keys: KeyedLoop[T], guard: LoopGuard
    ) -> None:
        self._iterator = iterator
        self._level = level
        self._node = level._node
        self._keys = keys
        self._pending: dict[int, bytes | None] = {}
        """Keys of the elements that are processed, by task."""
        self._guard = guard
        guard.has_started = self._pending.__len__
        keys.register(self)

    @property
    def keys(self) -> KeyedLoop[T]:
        """The keys of the loop."""
        return self._keys

    def get_current_key(self) -> bytes | None:
        """Return the key of the element that the calling task processes."""
        return self._pending.get(_identify_task())

    def __aiter__(self) -> KeyedAsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        keys, pending, task = self._keys, self._pending, _identify_task()
        try:
            if task in pending:
                keys.finish(pending[task])
            # Why first: the level must not end while another task waits for an element.
            pending[task] = None
            check_cancelled(self._node)
            while True:
                element = await self._iterator.__anext__()
                key = keys.digest(element)
                if not keys.leaves_out(key):
                    break
                check_cancelled(self._node)
        except StopAsyncIteration:
            pending.pop(task, None)
            if not pending:
                keys.end()
            raise
        except BaseException as error:
            pending.pop(task, None)
            self._level.__exit__(type(error), error, error.__traceback__)
            raise
        pending[task] = key
        return element


def _identify_task() -> int:
    """Return the identity of the current task, or of the thread outside of asyncio."""
    asyncio_tasks = sys.modules.get("asyncio.tasks")
    try:
        task = None if asyncio_tasks is None else asyncio_tasks.current_task()
    except RuntimeError:  # of another event loop
        task = None
    return get_ident() if task is None else id(task)
