"""Fork hooks in a defined order, and fork-safe locks and imports.

A forked child has only the thread that forked. In the child, a lock that another thread held stays
locked, and a module that another thread was importing stays incomplete. Each module that prepares
for a fork registers its hooks with :func:`on_fork`.
"""

from __future__ import annotations

# Why logging: its hook locks logging before a fork. Hooks that are registered later run earlier, so
# it must be imported first. Otherwise an import that the fork waits for can wait for that lock.
import logging  # noqa: F401
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from threading import RLock
from typing import Any, Final, TypeVar, overload

IMPORT_WAIT_S: Final = 5.0
"""Maximum time that a fork waits for imports by other threads, in seconds. After it, the fork
happens anyway.
"""


OUTPUT_WAIT_S: Final = 0.1
"""Maximum time that a fork waits for a write of the package to a stream, in seconds."""


T = TypeVar("T")


class ForkPhase(IntEnum):
    """Order of fork hooks.

    Hooks after a fork run from the first phase to the last, and within a phase in the order of
    their registration. Hooks before a fork run in the reverse order.
    """

    LOCKS = 0
    """Locks that are held for a few instructions. The fork acquires them last and releases them
    first.
    """
    IMPORTS = 1
    """Imports by threads of the package. The fork waits for them up to ``IMPORT_WAIT_S``."""
    CACHES = 2
    """Values that the child computes again."""
    JOURNAL = 3
    """Connections to the journal. The fork waits for their users before other phases, because that
    may take long.
    """
    OUTPUTS = 4
    """Terminals and servers. The child closes its copies."""
    RUNTIME = 5
    """The active runtime. It restarts in the child after the parts that it uses."""


class _Hook:
    """Hooks of one registration.

    The owner is referenced weakly. Its hooks are skipped once it was collected.
    """

    __slots__ = ("after_in_child", "after_in_parent", "before", "owner", "phase")

    def __init__(
        self,
        phase: ForkPhase,
        owner: weakref.ref[Any] | None,
        before: Callable[..., object] | None,
        after_in_parent: Callable[..., object] | None,
        after_in_child: Callable[..., object] | None,
    ) -> None:
        self.phase = phase
        self.owner = owner
        self.before = before
        self.after_in_parent = after_in_parent
        self.after_in_child = after_in_child

    @property
    def is_alive(self) -> bool:
        """True until the owner was collected."""
        return self.owner is None or self.owner() is not None


_guard: Final = RLock()
"""Held during forks, so two threads cannot fork at once."""


_hooks: list[_Hook] = []


_forks: list[list[tuple[_Hook, tuple[Any, ...]]]] = []
"""Hooks of each current fork with their arguments, in the order after the fork. References their
owners. There are several when a hook is interrupted by a signal handler that forks.
"""


_errors: list[BaseException] = []


_reporters: Final[list[Callable[[BaseException], object]]] = []


@overload
def on_fork(
    *,
    phase: ForkPhase,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None: ...


@overload
def on_fork(
    *,
    phase: ForkPhase,
    owner: T,
    before: Callable[[T], object] | None = None,
    after_in_parent: Callable[[T], object] | None = None,
    after_in_child: Callable[[T], object] | None = None,
) -> None: ...


def on_fork(
    *,
    phase: ForkPhase,
    owner: object = None,
    before: Callable[..., object] | None = None,
    after_in_parent: Callable[..., object] | None = None,
    after_in_child: Callable[..., object] | None = None,
) -> None:
    """Run hooks at each fork of this process, in the order of :class:`ForkPhase`.

    With an ``owner``, each hook is called with it, like an unbound method. The owner is referenced
    weakly, so its hooks must not reference it. An exception in a hook is reported after the fork,
    and the other hooks still run.
    """
    reference = None if owner is None else weakref.ref(owner)
    hook = _Hook(phase, reference, before, after_in_parent, after_in_child)
    # Why without a lock: a fork can wait for the thread that imports the caller. Each change is one
    # call of a C function.
    for known in _hooks.copy():
        if not known.is_alive:
            with suppress(ValueError):  # another thread has removed it
                _hooks.remove(known)
    _hooks.append(hook)


def report_hook_errors(reporter: Callable[[BaseException], object]) -> None:
    """Call ``reporter`` with each exception of a hook, after the fork."""
    _reporters.append(reporter)


def fork_safe_lock() -> Any:
    """Return a reentrant lock that each fork acquires. It is free in the child.

    A fork waits for the lock without a limit. So hold it only for a few instructions, and call no
    foreign code. A signal handler may enter it while its thread holds it.
    """
    lock = RLock()
    lock_type = type(lock)
    on_fork(
        phase=ForkPhase.LOCKS,
        owner=lock,
        before=lock_type.acquire,
        after_in_parent=lock_type.release,
        after_in_child=lock_type.release,
    )
    return lock


# --- imports and output --------------------------------------------------------------------------


class ForkDelay:
    """Delays forks while other threads are in a block, at most ``max_wait_s``."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._block_lock = RLock()
        self._number = 0
        """Number of the last block."""
        self._slow_number = 0
        """Number of the last block that a fork did not wait for."""
        self._locked: list[bool] = []
        on_fork(
            phase=ForkPhase.IMPORTS,
            owner=self,
            before=ForkDelay._wait,
            after_in_parent=ForkDelay._release,
            after_in_child=ForkDelay._reset,
        )

    @contextmanager
    def defer_fork(self) -> Iterator[None]:
        """Delay forks by other threads until the end of the block."""
        with self._block_lock:
            self._number += 1
            yield

    def _wait(self) -> None:
        # Why a limit: the block may wait for the forking thread, or for a reader that has stopped.
        # Only the first fork waits for such a block.
        timeout_s = 0.0 if self._slow_number == self._number else self._max_wait_s
        is_locked = self._block_lock.acquire(timeout=timeout_s)
        if not is_locked:
            self._slow_number = self._number
        self._locked.append(is_locked)

    def _release(self) -> None:
        if self._locked.pop():
            self._block_lock.release()

    def _reset(self) -> None:
        self._locked.clear()
        self._block_lock = RLock()


# Why before that of imports: a fork waits for this one last, when no import is running.
_output_delay: Final = ForkDelay(OUTPUT_WAIT_S)


defer_fork_during_output: Final = _output_delay.defer_fork
"""Delays forks by other threads while writing to a stream and flushing it.

A stream has a lock. A child that is forked during a write by another thread inherits it locked. It
would wait forever when it flushes the stream, as children of multiprocessing do at their end.
"""


_import_delay: Final = ForkDelay(IMPORT_WAIT_S)


defer_fork: Final = _import_delay.defer_fork
"""Delays forks by other threads during imports of this package.

The block must contain only imports. A child that is forked during an import by another thread
inherits an incomplete module and its import lock.
"""


# --- running the hooks ---------------------------------------------------------------------------


def _run_before() -> None:
    _guard.acquire()
    running: list[tuple[_Hook, tuple[Any, ...]]] = []
    _forks.append(running)
    # Why the locks at the end: other hooks wait for threads, which may need them.
    for first_phase in (ForkPhase.IMPORTS, ForkPhase.LOCKS):
        # Why a loop: a module that another thread imports in the meantime may register hooks.
        while found := _find_new_hooks(running, first_phase):
            running.extend(found)
            for hook, arguments in reversed(found):
                _call_hook(hook.before, arguments)
    running.sort(key=lambda each: each[0].phase)


def _find_new_hooks(
    running: list[tuple[_Hook, tuple[Any, ...]]], first_phase: ForkPhase
) -> list[tuple[_Hook, tuple[Any, ...]]]:
    """Return the hooks from ``first_phase`` on that have not run, in order."""
    known = {hook for hook, _ in running}
    found: list[tuple[_Hook, tuple[Any, ...]]] = []
    for hook in sorted(_hooks.copy(), key=lambda hook: hook.phase):
        if hook in known or hook.phase < first_phase:
            continue
        if hook.owner is None:
            found.append((hook, ()))
        elif (owner := hook.owner()) is not None:
            found.append((hook, (owner,)))
    return found


def _run_after_in_parent() -> None:
    for hook, arguments in _forks[-1]:
        _call_hook(hook.after_in_parent, arguments)
    _finish_fork()


def _run_after_in_child() -> None:
    # Why: the parent reports the errors of the hooks before the fork.
    _errors.clear()
    for hook, arguments in _forks[-1]:
        _call_hook(hook.after_in_child, arguments)
    _finish_fork()


def _finish_fork() -> None:
    errors = _errors.copy()
    _errors.clear()
    _forks.pop()
    _guard.release()
    for error in errors:
        for reporter in _reporters:
            # Why suppress: the fork has happened, and no caller can handle the error.
            with suppress(Exception):
                reporter(error)


def _call_hook(function: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    if function is None:
        return
    try:
        function(*arguments)
    except BaseException as error:
        _errors.append(error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_run_before, after_in_parent=_run_after_in_parent, after_in_child=_run_after_in_child
    )
