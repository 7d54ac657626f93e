"""Locks and atomic changes for code that a signal handler may interrupt.

A signal handler, a finalizer or a weak reference callback runs between two bytecodes of the thread
that it interrupts. It may call this package while that thread holds a lock of it, and it may raise.
Every lock on threads of callers follows one rule, see ``docs/design/live.md``:

* A call that interrupts the owner of a lock is deferred. The owner runs it after the release.
* Values that belong together are stored by one call of a C function.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from os.path import dirname, sep
from threading import Condition, Lock, RLock
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

MAX_DEFERRED_CALLS: Final = 10_000
"""Calls that wait for the release of one lock. Beyond it, new calls are dropped and counted."""


_MAX_ATTEMPTS: Final = 3
"""Attempts of a deferred call. Each one may be interrupted by an exception."""


# Why os.path: importing pathlib takes a third of the import time of this package.
_PACKAGE_PATH: Final = dirname(__file__) + sep  # noqa: PTH120


T = TypeVar("T")


_discard: Final[Callable[[Iterable[object]], None]] = deque[object](maxlen=0).extend


def store_together(objects: Iterable[object], names: Iterable[str], values: Iterable[object]) -> None:
    """Set one attribute of each object, without a bytecode in between.

    No signal handler, finalizer or exception can see or leave some values old and some new.
    The attributes must be slots or plain instance attributes.
    """
    _discard(map(setattr, objects, names, values))


_created: Final[dict[tuple[object, str], Any]] = {}
"""New attribute values by owner and name, while :func:`create_once` stores them."""


def create_once(owner: object, name: str, create: Callable[[], T], missing: object = None) -> T:
    """Return the attribute of ``owner``. Create it if it is ``missing``.

    All callers get the same value, without a lock: threads, signal handlers and finalizers.
    """
    value: T = getattr(owner, name)
    if value is not missing:
        return value
    key = (owner, name)
    try:
        # Why: the insertion is one call of a C function, so the first caller decides.
        value = _created.setdefault(key, create())
        stored: T = getattr(owner, name)
        # Why again: another caller may have finished since the first check.
        if stored is missing:
            setattr(owner, name, value)
        else:
            value = stored
    finally:
        _created.pop(key, None)
    return value


class CallerLock:
    """Reentrant lock with a queue of the calls that interrupted its owner.

    ``lock`` is the lock itself. Use it in ``with`` where a call cannot interrupt the owner, or
    after :meth:`is_interrupting` returned False. Call :meth:`run_deferred` after the release.
    ``on_dropped`` is called for each call beyond ``max_calls``.
    """

    # Why no context manager: its methods would be Python code. A signal handler can raise in it
    # between the acquisition and the block, and no thread would release the lock.

    __slots__ = ("__weakref__", "_max_calls", "_on_dropped", "_runner", "calls", "is_owned", "lock")

    def __init__(
        self,
        lock: RLock | None = None,
        *,
        max_calls: int = MAX_DEFERRED_CALLS,
        on_dropped: Callable[[], object] = lambda: None,
    ) -> None:
        self.lock: RLock = lock or RLock()
        self.is_owned: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        """True while this thread holds the lock. A C function, for hot paths."""
        self.calls: deque[tuple[Callable[..., object], tuple[Any, ...], int]] = deque()
        """Deferred calls: function, arguments and number of attempts. True while some wait."""
        self._runner = Lock()
        """Held while a deferred call runs, so that they run in order. No thread waits for it."""
        self._max_calls = max_calls
        self._on_dropped = on_dropped

    def __bool__(self) -> bool:
        """True while deferred calls wait."""
        return bool(self.calls)

    def is_interrupting(self, depth: int = 1) -> bool:
        """Return True when the calling function interrupts this thread inside the lock.

        ``depth`` is the number of frames from here to that function. A tracer, or a MemoryError in
        the call of the release, can raise between the end of a ``with`` block and the release.
        Such a lock is released here.
        """
        if not self.is_owned():
            return False
        if _has_locking_frame(sys._getframe(depth).f_back):
            return True
        self.release_all()
        return False

    def release_all(self) -> None:
        """Release the lock as often as this thread acquired it."""
        while self.is_owned():
            self.lock.release()

    def defer(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Queue a call for the owner of the lock. Return False when the queue is full.

        The function must be idempotent, because it is repeated when an exception interrupts it.
        """
        if len(self.calls) >= self._max_calls:
            self._on_dropped()
            return False
        self.calls.append((function, arguments, 0))
        return True

    def wait_for(self, changed: Condition, predicate: Callable[[], object], timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a condition of this lock.

        Return the last result of ``predicate``. An exception that interrupts the wait is raised.
        """
        try:
            with self.lock:
                return bool(changed.wait_for(predicate, timeout))
        except RuntimeError as error:
            # Why: a signal handler can raise after the condition has released the lock and before
            # its ``try``. The ``with`` statement then cannot release it.
            interrupt = error.__context__
            if interrupt is None or self.is_owned():
                raise
            raise interrupt from None

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function with the lock, or defer the call. Other threads are waited for."""
        if self.is_owned() and self.is_interrupting():
            self.defer(self._call, function, *arguments)
            return
        try:
            with self.lock:
                function(*arguments)
        except BaseException:
            self.release_all()
            raise
        if self.calls:
            self.run_deferred()

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        with self.lock:
            function(*arguments)

    def run_deferred(self) -> None:
        """Run the deferred calls without the lock, unless this thread holds it."""
        while self.calls and not self.is_owned() and self._runner.acquire(blocking=False):
            try:
                self._run_next()
            finally:
                self._runner.release()

    def _run_next(self) -> None:
        try:
            function, arguments, attempts = call = self.calls.popleft()
        except IndexError:  # another thread runs it
            return
        try:
            function(*arguments)
        except BaseException:
            if attempts + 1 < _MAX_ATTEMPTS:
                self.calls.appendleft((*call[:2], attempts + 1))
            raise


def uses_lock(code: CodeType) -> bool:
    """Return True if a function of this package may hold a lock.

    It then uses a name that is ``lock`` or ends in ``_lock``. A test checks that each ``with``
    statement of the package that acquires a lock does.
    """
    # Why names: recording the owner's frame would slow down each start and end of a level.
    names = (*code.co_names, *code.co_varnames, *code.co_freevars)
    return any(name == "lock" or name.endswith("_lock") for name in names)


def _has_locking_frame(frame: FrameType | None) -> bool:
    """Return True if a function of this package that uses a lock is on the stack."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE_PATH) and (code.co_filename == __file__ or uses_lock(code)):
            return True
        frame = frame.f_back
    return False
