"""No connection crosses a fork.

SQLite keeps what it knows of its locks in the process's memory, while the locks themselves belong to the process id: a child that
goes on with what it inherited works without locks, and the parent may delete the write-ahead log under it. Hence every connection
is closed before a fork and opened again, on each side, when it is next needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from otel_progress.journal.handle import Handle

PATIENCE_S: Final = 1.0
"""How long a fork waits for a use of the journal to end, in seconds; a child forked in the middle of one goes without."""

_handles: Final[weakref.WeakSet[Handle]] = weakref.WeakSet()
_guard: Final = threading.Lock()
_locked: Final[list[Handle]] = []
_in_use: Final[list[Handle]] = []


def watch_over(handle: Handle) -> None:
    """Close this handle's connection before each fork."""
    with _guard:
        _handles.add(handle)


def _before() -> None:
    _guard.acquire()
    for handle in list(_handles):
        if handle.lock.acquire(timeout=PATIENCE_S):
            handle.close_before_fork()
            _locked.append(handle)
        else:
            _in_use.append(handle)


def _after_in_parent() -> None:
    _release()


def _after_in_child() -> None:
    for handle in _in_use:
        handle.give_up_after_fork()
    _release()


def _release() -> None:
    for handle in _locked:
        handle.lock.release()
    _locked.clear()
    _in_use.clear()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
