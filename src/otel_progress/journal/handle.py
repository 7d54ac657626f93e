"""One connection to the journal's file: opened when needed, closed around a fork, given up when something is wrong with it.

Opening again costs about a millisecond, so there is one rule for nearly every trouble: drop the connection, say what was wrong,
and start afresh at the next use. So a journal recovers by itself when its file was moved away, damaged, or could not be made.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from otel_progress.errors import JournalError
from otel_progress.journal import forking, schema

JOURNAL_SIZE_LIMIT: Final = 8 * 1024 * 1024
"""The write-ahead log is cut back to this when it starts over, in bytes."""


class NothingRecordedError(JournalError):
    """There is no journal yet: no file, or one that a worker is about to make a journal of."""


class Handle:
    """A connection with its lock. What was remembered of the file holds for one ``generation``; ``journal`` names its content.

    ``read_only`` never creates the file, and changes nothing but to bring an older one up to date; with ``tells_loss`` a use
    fails once when another journal is in its place.
    """

    def __init__(self, path: Path, *, read_only: bool = False, tells_loss: bool = False) -> None:
        self.path = path
        self.generation = 0
        self.journal: str | None = None
        self.lock = threading.Lock()
        self.fork = forking.ForkState()
        self.is_held_by_fork = False
        self.user: int | None = None
        """Identifier of the thread that uses the connection."""
        self._is_query = False
        self._read_only = read_only
        self._tells_loss = tells_loss
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._unusable = False
        forking.watch_over(self)

    @contextlib.contextmanager
    def use(self, *, is_query: bool = False) -> Iterator[sqlite3.Connection]:
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
                    raise forking.StoppedByForkError(str(exc)) from exc
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
        with self.use(is_query=kind == "DEFERRED") as connection:
            connection.execute(f"BEGIN {kind}")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def use_if_open(self) -> Iterator[sqlite3.Connection | None]:
        """Lend the connection that is open, else None: what opening would tell (the loss of the file) is left to the next use."""
        with self._locked():
            try:
                yield None if self._unusable else self._connection
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

    def give_up_after_fork(self) -> None:
        """In a child that was forked in the middle of a use: never touch the inherited connection, nor the file."""
        self.lock = threading.Lock()
        self.user = None
        self._unusable = True
        _never_closed.append(self._connection)

    def _opened(self) -> sqlite3.Connection:
        if self._unusable:
            msg = f"{self.path} was in use when this process was forked, so this process cannot use it. Start it with spawn."
            raise JournalError(msg)
        if self._connection is not None and self._inode != _inode(self.path):
            self._drop()
        if self._connection is None:
            before = self.journal
            self._connection = (_open_to_read if self._read_only else _open_to_write)(self.path, self.fork)
            self._inode = _inode(self.path)
            self.generation += 1
            self.journal = schema.identity(self._connection)
            if self._tells_loss and before not in {None, self.journal}:
                msg = f"{self.path} was removed or replaced while in use. A new journal is started there."
                raise JournalError(msg)  # what was written is gone: the writer has to know, to write everything again
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
    error = JournalError(explain(exc, path))
    error.is_temporary = _is_locked(exc)
    return error


def explain(exc: sqlite3.Error, path: Path) -> str:
    """Return what is wrong with the journal and what to do, in one sentence or two."""
    text = str(exc)
    if _is_locked(exc):
        return f"{path} is locked by another process ({text}). Close what holds it; it is tried again by itself."
    if "full" in text:
        return f"No room to write {path} ({text}). Free some space on that disk, or set the store to another path."
    if "not a database" in text or "malformed" in text:
        return (
            f"{path} is damaged or not an SQLite database ({text}). Move it away (with its -wal and -shm) and a new one is made."
        )
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


def _open_to_write(path: Path, fork: forking.ForkState) -> sqlite3.Connection:
    _create(path)
    connection = _connect(path, fork)
    with _closing_on_error(connection):
        if schema.version(connection, path) == 0:  # only then, as both write and so would fail on a locked or full disk
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _set_wal(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
        schema.migrate(connection, path)
    return connection


def _open_to_read(path: Path, fork: forking.ForkState) -> sqlite3.Connection:
    if _inode(path) is None:
        msg = (
            f"Nothing has been recorded yet at {path}. Run something that is instrumented, or name another journal with --store."
        )
        raise NothingRecordedError(msg)
    connection = _connect(path, fork)
    with _closing_on_error(connection):
        if schema.version(connection, path) == 0:
            msg = f"Nothing has been recorded yet in {path}, which is empty. Name another journal with --store."
            raise NothingRecordedError(msg)
        try:
            schema.migrate(connection, path)
        except sqlite3.OperationalError as exc:
            found, known = schema.version(connection, path), len(schema.MIGRATIONS)
            fix = "Run this once as a user who may write it, while nothing else does."
            msg = (
                f"{path} is of an older otel-progress (schema {found}, this one is {known}) and cannot be upgraded ({exc}). {fix}"
            )
            raise JournalError(msg) from exc
        connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, fork: forking.ForkState) -> sqlite3.Connection:
    # mode=rw never creates the file, and falls back to reading where it cannot be written.
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return forking.connect(uri, fork)


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
