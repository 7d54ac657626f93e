"""Rows out of an open journal, whatever is in them."""

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

_tolerant: Final = partial(str, encoding="utf-8", errors="replace")


def query_all(connection: sqlite3.Connection, query: str, bound: Sequence[object] = ()) -> list[Any]:
    """Return all rows of a query; text that is not valid UTF-8, which nothing of ours writes, with replacement characters.

    The tolerant way calls back into Python for every text, which takes as long as all the rest, so it is taken only when needed.
    """
    try:
        return connection.execute(query, bound).fetchall()
    except sqlite3.OperationalError as exc:
        if "UTF-8" not in str(exc):
            raise
    connection.text_factory = _tolerant
    try:
        return connection.execute(query, bound).fetchall()
    finally:
        connection.text_factory = str


P = ParamSpec("P")


R = TypeVar("R")


GRACE_S: Final = 0.2
"""Time a use of the journal has to end by itself when a fork waits for it, in seconds; then it is stopped."""


PATIENCE_S: Final = 5.0
"""Maximum time a fork waits for a use of the journal, in seconds: a disk may hang. A child forked then cannot use the journal."""


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
    """Decorate a function that uses the journal once, so that it is called again when a fork has stopped it."""

    @functools.wraps(use)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return use(*args, **kwargs)
            except StoppedByForkError:
                continue  # the next use waits until the fork has ended

    return repeated


def register(handle: ManagedConnection) -> None:
    """Close this handle's connection before each fork."""
    on_fork(
        phase=ForkPhase.JOURNAL,
        owner=handle,
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )


def _before(handle: ManagedConnection) -> None:
    handle.fork.pending = True
    if handle.lock.acquire(timeout=0) or (handle.user != threading.get_ident() and _acquire(handle)):
        handle.is_held_by_fork = True
        handle.close_before_fork()


def _acquire(handle: ManagedConnection) -> bool:
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


def _after_in_parent(handle: ManagedConnection) -> None:
    if handle.is_held_by_fork:
        handle.is_held_by_fork = False
        handle.lock.release()
    handle.fork.pending = False


def _after_in_child(handle: ManagedConnection) -> None:
    if not handle.is_held_by_fork:
        handle.disable_after_fork()
    _after_in_parent(handle)


JOURNAL_SIZE_LIMIT: Final = 8 * 1024 * 1024
"""The write-ahead log is cut back to this when it starts over, in bytes."""


class NothingRecordedError(JournalError):
    """There is no journal yet: no file, or one that a worker is about to make a journal of."""


class ManagedConnection:
    """A connection with its lock. What was remembered of the file holds for one ``generation``; ``journal`` names its content.

    ``read_only`` never creates the file, and changes nothing but to bring an older one up to date; with ``tells_loss`` a use
    fails once when another journal is in its place.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        tells_loss: bool = False,
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
        self._detect_replacement = tells_loss
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._inherited = False
        register(self)

    @contextlib.contextmanager
    def acquire(self, *, is_query: bool = False) -> Iterator[sqlite3.Connection]:
        """Lend the open connection to one thread. sqlite3.Error becomes JournalError, and what was begun is rolled back.

        Callers are decorated with ``repeat_after_fork``: a fork that waits long for the use stops it. With ``is_query``, in which nothing
        is written, also in the middle of a statement.
        """
        with self._locked():
            try:
                connection = self._opened()
                self._is_query = is_query
                yield connection
            except sqlite3.Error as exc:
                if "interrupted" in str(exc):  # only a fork interrupts
                    self._drop()
                    raise StoppedByForkError(str(exc)) from exc
                self._recover(exc)
                raise _error(exc, self.path) from exc
            except BaseException:
                self._drop()
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
        """Lend the connection within one transaction (``IMMEDIATE`` to write, ``DEFERRED`` to read one state of everything)."""
        with self.acquire(is_query=kind == "DEFERRED") as connection:
            connection.execute(f"BEGIN {kind}")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def acquire_if_open(self) -> Iterator[sqlite3.Connection | None]:
        """Lend the connection that is open, else None: what opening would tell (the loss of the file) is left to the next use."""
        with self._locked():
            try:
                yield None if self._inherited else self._connection
            except sqlite3.Error as exc:
                self._recover(exc)
                raise _error(exc, self.path) from exc

    def close(self) -> None:
        """Close the connection; a later use opens it again."""
        with self._locked():
            self._drop()

    def close_before_fork(self) -> None:
        """Close the connection; the caller holds the lock."""
        self._drop()

    def interrupt_query(self) -> None:
        """Make the query that another thread runs fail. What writes is stopped between two statements or rows instead."""
        connection = self._connection
        if connection is not None and self._is_query:
            with contextlib.suppress(sqlite3.Error):  # closed in the meantime
                connection.interrupt()

    def disable_after_fork(self) -> None:
        """In a child that was forked in the middle of a use: never touch the inherited connection, nor the file."""
        self.lock = threading.Lock()
        self.user = None
        self._inherited = True
        _never_closed.append(self._connection)

    def _opened(self) -> sqlite3.Connection:
        if self._inherited:
            msg = f"{self.path} was in use when this process was forked, so this process cannot use it. Start it with spawn."
            raise JournalError(msg)
        if self._connection is not None and self._inode != _inode(self.path):
            self._drop()
        if self._connection is None:
            before = self.journal
            open_file = _open_to_read if self._read_only else _open_to_write
            self._connection = open_file(self.path, self.fork, self._busy_timeout_s)
            self._inode = _inode(self.path)
            self.generation += 1
            self.journal = schema.identity(self._connection)
            if self._detect_replacement and before not in {None, self.journal}:
                msg = f"{self.path} was removed or replaced while in use. A new journal is started there."
                raise JournalError(
                    msg
                )  # what was written is gone: the writer has to know, to write everything again
        return self._connection

    def _recover(self, exc: sqlite3.Error) -> None:
        """Keep the connection over a lock or a full disk, where opening it again might fail too; else give it up."""
        connection = self._connection
        self.generation += 1
        if connection is not None and _is_passing(exc):
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()  # rolls back what was not committed


_never_closed: Final[list[sqlite3.Connection | None]] = []
"""Connections inherited over a fork: closing one would act on the parent's locks and files."""


def _error(exc: sqlite3.Error, path: Path) -> JournalError:
    error = JournalError(describe_sqlite_error(exc, path))
    error.is_temporary = _is_locked(exc)
    return error


def describe_sqlite_error(exc: sqlite3.Error, path: Path) -> str:
    """Return what is wrong with the journal and what to do, in one sentence or two."""
    text = str(exc)
    if _is_locked(exc):
        return (
            f"{path} is locked by another process ({text}). Close what holds it; it is tried again by itself."
        )
    if "full" in text:
        return f"No room to write {path} ({text}). Free some space on that disk, or set the store to another path."
    if "not a database" in text or "malformed" in text:
        return f"{path} is damaged or not an SQLite database ({text}). Move it away (with its -wal and -shm) and a new one is made."
    if "readonly" in text or "unable to open" in text or "authorized" in text:
        return f"{path} cannot be opened or written ({text}). Check that the directory exists and is writable by this user."
    if "disk I/O" in text:
        return f"Reading or writing {path} failed ({text}). Check the disk and its quota, or set the store to another path."
    return f"{path} cannot be used as a journal ({text})."


def _is_locked(exc: sqlite3.Error) -> bool:
    return any(word in str(exc) for word in ("locked", "busy"))


def _is_passing(exc: sqlite3.Error) -> bool:
    return _is_locked(exc) or "full" in str(exc)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and this runs on every tick
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_to_write(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    _create(path)
    connection = _connect(path, fork, busy_timeout_s)
    with _closing_on_error(connection):
        if (
            schema.version(connection, path) == 0
        ):  # only then, as both write and so would fail on a locked or full disk
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _set_wal(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
        schema.migrate(connection, path)
    return connection


def _open_to_read(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    if _inode(path) is None:
        msg = f"Nothing has been recorded yet at {path}. Run something that is instrumented, or name another journal with --store."
        raise NothingRecordedError(msg)
    connection = _connect(path, fork, busy_timeout_s)
    with _closing_on_error(connection):
        if schema.version(connection, path) == 0:
            msg = (
                f"Nothing has been recorded yet in {path}, which is empty. Name another journal with --store."
            )
            raise NothingRecordedError(msg)
        try:
            schema.migrate(connection, path)
        except sqlite3.OperationalError as exc:
            found, known = schema.version(connection, path), len(schema.MIGRATIONS)
            fix = "Run this once as a user who may write it, while nothing else does."
            msg = f"{path} is of an older otel-progress (schema {found}, this one is {known}) and cannot be upgraded ({exc}). {fix}"
            raise JournalError(msg) from exc
        connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, fork: ForkState, busy_timeout_s: float) -> sqlite3.Connection:
    # mode=rw never creates the file, and falls back to reading where it cannot be written.
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return connect(uri, fork, busy_timeout_s)


def _set_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Switch to write-ahead logging."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        msg = f"{path} is on a file system that cannot share memory between processes. Set the store to a path on a local disk."
        raise JournalError(msg)


def _create(path: Path) -> None:
    """Make the directories and the file, for this user only: progress names files and songs, which is nobody else's business."""
    try:
        for parent in (*reversed(path.parent.parents), path.parent):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        # Only ever with O_EXCL: opening and closing a file that is in use would drop this process's locks on it (POSIX).
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
