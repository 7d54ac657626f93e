"""Fork hooks of the package, run in a defined order, and locks and imports that are safe over a fork.

A forked child has only the thread that forked. A lock that another thread held stays locked there, and a module that another thread
was importing stays incomplete. Every module that has to prepare for a fork registers its hooks here with :func:`on_fork`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from threading import Lock, RLock
from typing import Any, Final, TypeVar, overload

IMPORT_WAIT_S: Final = 5.0
"""Maximum time a fork waits for imports by other threads, in seconds; then the child is forked in the middle of the import."""


T = TypeVar("T")


class ForkPhase(IntEnum):
    """Order of fork hooks: hooks after a fork run from the first phase to the last, hooks before a fork the other way round.

    Within a phase, hooks after a fork run in the order of their registration, hooks before a fork the other way round.
    """

    LOCKS = 0
    """Locks that are held for a few instructions. The fork takes them last and releases them first: other hooks may need them."""
    IMPORTS = 1
    """Imports by threads of the package. The fork waits for them up to ``IMPORT_WAIT_S``."""
    CACHES = 2
    """Values that are computed again in the child."""
    JOURNAL = 3
    """Connections to the journal. The fork waits for their users first, because that may take long."""
    OUTPUTS = 4
    """Terminals and servers: the child closes its copies."""
    RUNTIME = 5
    """The running configuration. It restarts in the child once everything it uses is ready."""


class _Hook:
    """Hooks of one registration. An owner is referenced weakly; its hooks are skipped after it was collected."""

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
"""Held while hooks are registered and over each fork, so that two threads do not fork at once. The forking thread may take it again."""


_hooks: list[_Hook] = []


_running: list[tuple[_Hook, tuple[Any, ...]]] = []
"""Hooks of the current fork with their arguments, in the order after the fork. Keeps the owners alive until it has ended."""


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
    """Run hooks at each fork of this process, in the order that :class:`ForkPhase` defines.

    With an ``owner``, each hook is called with it, as an unbound method is. The owner is referenced weakly, and its hooks end with it;
    they must not reference it themselves. An exception in a hook is reported after the fork and stops no other hook.
    """
    reference = None if owner is None else weakref.ref(owner)
    hook = _Hook(phase, reference, before, after_in_parent, after_in_child)
    with _guard:
        _hooks[:] = [known for known in _hooks if known.is_alive]
        _hooks.append(hook)


def report_hook_errors(reporter: Callable[[BaseException], object]) -> None:
    """Call ``reporter`` with each exception of a hook, in the process where it was raised, once the fork has ended."""
    _reporters.append(reporter)


def fork_safe_lock() -> Lock:
    """Return a plain lock that each fork takes, so that it is free in the child.

    A fork waits for the lock without a limit: it is for code that holds it for a few instructions and calls nothing of others.
    """
    lock = Lock()
    kind = type(lock)
    on_fork(
        phase=ForkPhase.LOCKS,
        owner=lock,
        before=kind.acquire,
        after_in_parent=kind.release,
        after_in_child=kind.release,
    )
    return lock


# --- imports -------------------------------------------------------------------------------------------------------

_importing = RLock()


_import_locked: Final[list[bool]] = []


@contextmanager
def defer_fork() -> Iterator[None]:
    """Make forks by other threads wait until the end of the block, for at most ``IMPORT_WAIT_S``. The block only imports.

    A child that is forked during an import by another thread inherits an incomplete module and its import lock.
    """
    lock = _importing
    with lock:
        yield


def _wait_for_imports() -> None:
    # Why a limit: the thread that forks may itself be importing what the other thread waits for.
    _import_locked.append(_importing.acquire(timeout=IMPORT_WAIT_S))


def _release_imports() -> None:
    if _import_locked.pop():
        _importing.release()


def _renew_imports() -> None:
    global _importing
    _import_locked.clear()
    _importing = RLock()


on_fork(
    phase=ForkPhase.IMPORTS,
    before=_wait_for_imports,
    after_in_parent=_release_imports,
    after_in_child=_renew_imports,
)


# --- running the hooks ---------------------------------------------------------------------------------------------


def _before() -> None:
    _guard.acquire()
    for hook in sorted(_hooks, key=lambda hook: hook.phase):
        if hook.owner is None:
            _running.append((hook, ()))
        elif (owner := hook.owner()) is not None:
            _running.append((hook, (owner,)))
    for hook, arguments in reversed(_running):
        _call(hook.before, arguments)


def _after_in_parent() -> None:
    for hook, arguments in _running:
        _call(hook.after_in_parent, arguments)
    _finish()


def _after_in_child() -> None:
    _errors.clear()  # the parent reports those of the hooks before the fork
    for hook, arguments in _running:
        _call(hook.after_in_child, arguments)
    _finish()


def _finish() -> None:
    errors = _errors.copy()
    _errors.clear()
    _running.clear()
    _guard.release()
    for error in errors:
        for reporter in _reporters:
            with suppress(Exception):  # the fork has happened: no caller could handle it
                reporter(error)


def _call(function: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    if function is None:
        return
    try:
        function(*arguments)
    except BaseException as error:
        _errors.append(error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
