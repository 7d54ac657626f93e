"""Connections to the journal file: opening, locking, forks and error messages."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

from otel_progress.errors import JournalError
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.journal.sqlite import schema
from otel_progress.journal.sqlite.limits import JournalLimits

_decode_tolerantly: Final = partial(str, encoding="utf-8", errors="replace")


def query_all(connection: sqlite3.Connection, query: str, bound: Sequence[object] = ()) -> list[Any]:
    """Return all rows of a query.

    Invalid UTF-8 of other programs gets replacement characters.

    Why twice: decoding in Python doubles the time of a query, so it is done only when necessary.
    """
    try:
        return connection.execute(query, bound).fetchall()
    except sqlite3.OperationalError as exc:
        if "UTF-8" not in str(exc):
            raise
    connection.text_factory = _decode_tolerantly
    try:
        return connection.execute(query, bound).fetchall()
    finally:
        connection.text_factory = str


P = ParamSpec("P")


R = TypeVar("R")


GRACE_S: Final = 0.2
"""Time that a fork waits before it stops a use of the journal, in seconds."""


PATIENCE_S: Final = 5.0
"""Maximum time that a fork waits for a use of the journal, in seconds. A disk may hang. After this
time the child is forked, but it cannot use the journal.
"""


_BUSY_SLICE_S: Final = 0.05
"""Time that SQLite itself waits for another process, in seconds. After each such wait a fork can
stop the statement.
"""


_POLL_S: Final = 0.002
"""Time between two checks of a lock, in seconds."""


_ENDS_TRANSACTION: Final = frozenset({"COMMIT", "ROLLBACK"})


class StoppedByForkError(JournalError):
    """A fork stopped and rolled back a use of the journal.

    :func:`repeat_after_fork` catches it.
    """


class ForkState:
    """State of a connection during a fork.

    ``pending`` makes new uses wait. ``stop`` ends the running use at its next statement or row.
    """

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
        """Raise StoppedByForkError if a fork stops the running use."""
        if self.stop:
            msg = "A use of the journal was stopped, because this process forks."
            raise StoppedByForkError(msg)


class JournalConnection(sqlite3.Connection):
    """Connection whose statements wait up to ``busy_timeout_s`` for other processes.

    A fork can stop its statements between two rows.
    """

    fork: ForkState
    busy_timeout_s: float

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
                if deadline is None:
                    deadline = now + self.busy_timeout_s - _BUSY_SLICE_S
                if now >= deadline:
                    raise
            # Some statements fail without waiting for the lock.
            time.sleep(_POLL_S)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Execute a statement for each row. A fork can stop it between two rows."""
        return super().executemany(sql, self._iterate_stoppable(parameters))

    def _iterate_stoppable(self, rows: Iterable[Any]) -> Iterator[Any]:
        # Why: each row releases the GIL, so next to busy threads many rows take seconds.
        fork = self.fork
        for row in rows:
            if fork.stop:
                fork.check()
            yield row


def connect(uri: str, fork: ForkState, busy_timeout_s: float) -> JournalConnection:
    """Open an SQLite URI. A fork can stop the statements through ``fork``."""
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=_BUSY_SLICE_S,
        isolation_level=None,
        check_same_thread=False,
        factory=JournalConnection,
    )
    connection.fork = fork
    connection.busy_timeout_s = busy_timeout_s
    return connection


def repeat_after_fork(use: Callable[P, R]) -> Callable[P, R]:
    """Decorate a use of the journal, so that it is repeated after a fork stopped it."""

    @functools.wraps(use)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return use(*args, **kwargs)
            except StoppedByForkError:
                # The next use waits until the fork has ended.
                continue

    return repeated


def register_fork_hooks(handle: ManagedConnection) -> None:
    """Close the connection before each fork."""
    on_fork(
        phase=ForkPhase.JOURNAL,
        owner=handle,
        before=_close_before_fork,
        after_in_parent=_release_after_fork,
        after_in_child=_reset_in_child,
    )


def _close_before_fork(handle: ManagedConnection) -> None:
    handle.fork.pending = True
    if handle.lock.acquire(timeout=0) or (handle.user != threading.get_ident() and _acquire_lock(handle)):
        handle.is_held_by_fork = True
        handle.close_before_fork()


def _acquire_lock(handle: ManagedConnection) -> bool:
    """Wait for the lock of a connection that another thread uses. Stop a long use."""
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


def _release_after_fork(handle: ManagedConnection) -> None:
    if handle.is_held_by_fork:
        handle.is_held_by_fork = False
        handle.lock.release()
    handle.fork.pending = False


def _reset_in_child(handle: ManagedConnection) -> None:
    if not handle.is_held_by_fork:
        handle.disable_after_fork()
    _release_after_fork(handle)


WAL_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Size to which the write-ahead log is truncated when SQLite restarts it."""


class NothingRecordedError(JournalError):
    """There is no journal yet: no file, or an empty file."""


class ManagedConnection:
    """Connection with its lock, which opens and reopens the file when necessary.

    - ``generation``: changes whenever cached knowledge about the file becomes invalid.
    - ``journal``: id of the open journal.
    - ``read_only``: never create the file, and change it only to migrate an older schema.
    - ``detect_replacement``: raise JournalError once if another journal is at the path.
    - ``busy_timeout_s``: maximum time a statement waits for other processes, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        detect_replacement: bool = False,
        busy_timeout_s: float = JournalLimits().busy_timeout_s,
    ) -> None:
        self.path = path
        self.generation = 0
        self.journal: str | None = None
        self.lock = threading.Lock()
        self.fork = ForkState()
        self.is_held_by_fork = False
        self.user: int | None = None
        """Identifier of the thread that uses the connection."""
        self._is_query = False
        self._read_only = read_only
        self._detect_replacement = detect_replacement
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._inherited = False
        register_fork_hooks(self)

    @contextlib.contextmanager
    def acquire(self, *, is_query: bool = False) -> Iterator[sqlite3.Connection]:
        """Lend the open connection to one thread.

        A sqlite3.Error is raised as JournalError, and the transaction is rolled back. Decorate
        callers with ``repeat_after_fork``, because a fork stops a long use. If ``is_query`` is set,
        nothing may be written, and a fork interrupts even a running statement.
        """
        with self._locked():
            try:
                connection = self._get_open_connection()
                self._is_query = is_query
                yield connection
            except sqlite3.Error as exc:
                # Only a fork interrupts a statement.
                if "interrupted" in str(exc):
                    self._close_connection()
                    raise StoppedByForkError(str(exc)) from exc
                self._recover(exc)
                raise _to_journal_error(exc, self.path) from exc
            except BaseException:
                self._close_connection()
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.fork.wait()
        with self.lock:
            self.user = threading.get_ident()
            try:
                yield
            finally:
                self.user = None
                self._is_query = False

    @contextlib.contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """Lend the connection within one transaction.

        ``kind`` is ``IMMEDIATE`` to write, and ``DEFERRED`` to read one consistent state.
        """
        with self.acquire(is_query=kind == "DEFERRED") as connection:
            connection.execute(f"BEGIN {kind}")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def acquire_if_open(self) -> Iterator[sqlite3.Connection | None]:
        """Lend the connection if it is open, else None.

        Why not open it: the next use has to raise the error of a replaced file.
        """
        with self._locked():
            try:
                yield None if self._inherited else self._connection
            except sqlite3.Error as exc:
                self._recover(exc)
                raise _to_journal_error(exc, self.path) from exc

    def close(self) -> None:
        """Close the connection. A later use opens it again."""
        with self._locked():
            self._close_connection()

    def close_before_fork(self) -> None:
        """Close the connection. The caller holds the lock."""
        self._close_connection()

    def interrupt_query(self) -> None:
        """Interrupt the query that another thread runs.

        A use that writes is stopped between two statements or rows instead.
        """
        connection = self._connection
        if connection is not None and self._is_query:
            # It may have been closed in the meantime.
            with contextlib.suppress(sqlite3.Error):
                connection.interrupt()

    def disable_after_fork(self) -> None:
        """Disable the journal in a child that was forked during a use.

        The child must never use the inherited connection or the file.
        """
        self.lock = threading.Lock()
        self.user = None
        self._inherited = True
        _never_closed.append(self._connection)

    def _get_open_connection(self) -> sqlite3.Connection:
        if self._inherited:
            msg = f"{self.path} was in use when this process was forked, so this process cannot use it."
            raise JournalError(f"{msg} Start it with spawn.")
        if self._connection is not None and self._inode != _inode(self.path):
            self._close_connection()
        if self._connection is None:
            before = self.journal
            open_file = _open_to_read if self._read_only else _open_to_write
            self._connection = open_file(self.path, self.fork, self._busy_timeout_s)
            self._inode = _inode(self.path)
            self.generation += 1
            self.journal = schema.read_journal_id(self._connection)
            if self._detect_replacement and before not in {None, self.journal}:
                msg = f"{self.path} was removed or replaced while in use. A new journal is started there."
                # Why an error: the writer has to write all live data again.
                raise JournalError(msg)
        return self._connection

    def _recover(self, exc: sqlite3.Error) -> None:
        """Roll back, and close the connection unless the error is a lock or a full disk.

        Why: with those, opening the file again may fail too.
        """
        connection = self._connection
        self.generation += 1
        if connection is not None and _is_temporary(exc):
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return
        self._close_connection()

    def _close_connection(self) -> None:
        """Close the connection, which rolls back its transaction."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


_never_closed: Final[list[sqlite3.Connection | None]] = []
"""Inherited connections. Closing one would change the locks and files of the parent."""


def _to_journal_error(exc: sqlite3.Error, path: Path) -> JournalError:
    error = JournalError(describe_sqlite_error(exc, path))
    error.is_temporary = _is_locked(exc)
    return error


def describe_sqlite_error(exc: sqlite3.Error, path: Path) -> str:
    """Return a message that says what is wrong with the journal and how to fix it."""
    text = str(exc)
    if _is_locked(exc):
        return (
            f"{path} is locked by another process ({text}). Close what holds it; it is tried again by itself."
        )
    if "full" in text:
        fix = "Free some space on that disk, or set the store to another path."
        return f"No room to write {path} ({text}). {fix}"
    if "not a database" in text or "malformed" in text:
        fix = "Move it away (with its -wal and -shm), then a new one is created."
        return f"{path} is damaged or not an SQLite database ({text}). {fix}"
    if "readonly" in text or "unable to open" in text or "authorized" in text:
        fix = "Check that the directory exists and is writable by this user."
        return f"{path} cannot be opened or written ({text}). {fix}"
    if "disk I/O" in text:
        fix = "Check the disk and its quota, or set the store to another path."
        return f"Reading or writing {path} failed ({text}). {fix}"
    return f"{path} cannot be used as a journal ({text})."


def _is_locked(exc: sqlite3.Error) -> bool:
    return any(word in str(exc) for word in ("locked", "busy"))


def _is_temporary(exc: sqlite3.Error) -> bool:
    return _is_locked(exc) or "full" in str(exc)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        # Why not Path.stat: it takes twice the time, and this runs on every tick.
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_to_write(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    _create_file(path)
    connection = _connect(path, fork, busy_timeout_s)
    with _closing_on_error(connection):
        # Why only then: both statements write, which fails on a locked or full disk.
        if schema.read_version(connection, path) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _set_wal(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        schema.migrate(connection, path)
    return connection


def _open_to_read(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    if _inode(path) is None:
        fix = "Run something that is instrumented, or name another journal with --store."
        msg = f"Nothing has been recorded yet at {path}. {fix}"
        raise NothingRecordedError(msg)
    connection = _connect(path, fork, busy_timeout_s)
    with _closing_on_error(connection):
        if schema.read_version(connection, path) == 0:
            msg = (
                f"Nothing has been recorded yet in {path}, which is empty. Name another journal with --store."
            )
            raise NothingRecordedError(msg)
        try:
            schema.migrate(connection, path)
        except sqlite3.OperationalError as exc:
            found, known = schema.read_version(connection, path), len(schema.MIGRATIONS)
            fix = "Run this once as a user with write permission, while no other process writes."
            msg = f"{path} is of an older otel-progress (schema {found}, this one is {known})"
            raise JournalError(f"{msg} and cannot be upgraded ({exc}). {fix}") from exc
        connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    # mode=rw never creates the file, and opens it for reading if it cannot be written.
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return connect(uri, fork, busy_timeout_s)


def _set_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to write-ahead logging, or raise JournalError."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        msg = f"{path} is on a file system that cannot share memory between processes."
        raise JournalError(f"{msg} Set the store to a path on a local disk.")


def _create_file(path: Path) -> None:
    """Create the directories and the file with access for this user only."""
    try:
        for parent in (*reversed(path.parent.parents), path.parent):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        # Why O_EXCL: closing a file that is in use drops all POSIX locks of this process on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_dir():
            msg = f"{path} is a directory, not a journal. Name a file in it."
            raise JournalError(msg) from None
    except OSError as exc:
        fix = "Check that its directory is writable by this user, or set the store to another path."
        msg = f"{path} cannot be created ({exc.strerror}). {fix}"
        raise JournalError(msg) from exc


@contextlib.contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
