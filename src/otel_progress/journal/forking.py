"""Close the journal's connections before a fork.

SQLite keeps the state of its locks in the process's memory, while the locks themselves belong to the process id. A child that uses an
inherited connection works without locks, and the parent may delete the write-ahead log under it. So every connection is closed before
a fork and opened again, on each side, at its next use. A child that is forked during a use cannot use the journal at all, so the fork
waits for the use, and stops it when it takes long. The use is repeated after the fork.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from otel_progress.errors import JournalError
from otel_progress.fork import ForkPhase, on_fork

if TYPE_CHECKING:
    from otel_progress.journal.handle import Handle

P = ParamSpec("P")
R = TypeVar("R")

GRACE_S: Final = 0.2
"""Time a use of the journal has to end by itself when a fork waits for it, in seconds; then it is stopped."""
PATIENCE_S: Final = 5.0
"""Maximum time a fork waits for a use of the journal, in seconds: a disk may hang. A child forked then cannot use the journal."""
BUSY_TIMEOUT_S: Final = 2.0
"""Maximum time a statement waits for the transaction of another process, in seconds."""
_BUSY_SLICE_S: Final = 0.05
"""Time SQLite itself waits for another process, in seconds; after each such wait a fork can stop the statement."""
_POLL_S: Final = 0.002
_ENDS_TRANSACTION: Final = frozenset({"COMMIT", "ROLLBACK"})


class StoppedByForkError(JournalError):
    """A use of the journal was stopped and rolled back, because a fork waits. :func:`repeat_after_fork` catches it."""


class ForkState:
    """State of a handle in a fork: ``pending`` makes new uses wait, ``stop`` makes the running use end at its next statement or row."""

    __slots__ = ("pending", "stop")

    def __init__(self) -> None:
        self.pending = False
        self.stop = False

    def wait(self) -> None:
        """Wait until the current fork has ended."""
        # Why no lock or event: a signal handler may fork while this thread holds its lock.
        while self.pending:
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise StoppedByForkError when the running use has to end."""
        if self.stop:
            msg = "A use of the journal was stopped, because this process forks."
            raise StoppedByForkError(msg)


class JournalConnection(sqlite3.Connection):
    """A connection whose statements wait for other processes up to ``BUSY_TIMEOUT_S``, and which a fork can stop between rows."""

    fork: ForkState

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute a statement, and repeat it while another process holds the lock."""
        if sql in _ENDS_TRANSACTION:
            return super().execute(sql, parameters)
        deadline: float | None = None
        while True:
            self.fork.check()
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc):
                    raise
                now = time.monotonic()
                deadline = now + BUSY_TIMEOUT_S - _BUSY_SLICE_S if deadline is None else deadline
                if now >= deadline:
                    raise
            time.sleep(_POLL_S)  # some statements fail without waiting for the lock

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Execute a statement for each row. A fork can stop it between two rows."""
        return super().executemany(sql, self._checked(parameters))

    def _checked(self, rows: Iterable[Any]) -> Iterator[Any]:
        # Why: each row releases the GIL, so next to busy threads many rows take seconds.
        fork = self.fork
        for row in rows:
            if fork.stop:
                fork.check()
            yield row


def connect(uri: str, fork: ForkState) -> JournalConnection:
    """Return a connection to an SQLite URI that a fork can stop through ``fork``."""
    connection = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SLICE_S, isolation_level=None, check_same_thread=False, factory=JournalConnection
    )
    connection.fork = fork
    return connection


def repeat_after_fork(use: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that uses the journal once, so that it is called again when a fork has stopped it."""

    @functools.wraps(use)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return use(*args, **kwargs)
            except StoppedByForkError:
                continue  # the next use waits until the fork has ended

    return repeated


def watch_over(handle: Handle) -> None:
    """Close this handle's connection before each fork."""
    on_fork(
        phase=ForkPhase.JOURNAL, owner=handle, before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )


def _before(handle: Handle) -> None:
    handle.fork.pending = True
    if handle.lock.acquire(timeout=0) or (handle.user != threading.get_ident() and _acquire(handle)):
        handle.is_held_by_fork = True
        handle.close_before_fork()


def _acquire(handle: Handle) -> bool:
    """Wait for the lock of a handle that another thread uses, and stop the use when it takes long."""
    deadline = time.monotonic() + PATIENCE_S
    if handle.lock.acquire(timeout=min(GRACE_S, PATIENCE_S)):
        return True
    handle.fork.stop = True
    try:
        while not handle.lock.acquire(timeout=_POLL_S):
            if time.monotonic() >= deadline:
                return False
            handle.interrupt_query()
    finally:
        handle.fork.stop = False
    return True


def _after_in_parent(handle: Handle) -> None:
    if handle.is_held_by_fork:
        handle.is_held_by_fork = False
        handle.lock.release()
    handle.fork.pending = False


def _after_in_child(handle: Handle) -> None:
    if not handle.is_held_by_fork:
        handle.give_up_after_fork()
    _after_in_parent(handle)
