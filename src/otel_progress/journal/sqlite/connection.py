"""Connections to the journal file: locking, forks and recovery."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.journal.sqlite import repair, schema
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.journal.sqlite.open_files import (
    FileProblem,
    Identity,
    OpenFiles,
    capture_files,
    close_unusable,
    get_identity,
    leak,
    list_descriptors,
)
from otel_progress.journal.sqlite.opening import (
    DiskFullError,
    OpenedFile,
    describe_sqlite_error,
    is_file_error,
    is_full_error,
    is_locked_error,
    open_to_read,
    open_to_write,
    read_signature,
)

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


class RepeatedUseError(JournalError):
    """A use of the journal has to be repeated.

    :func:`repeat_after_fork` catches it.
    """


class StoppedByForkError(RepeatedUseError):
    """A fork stopped and rolled back a use of the journal."""


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
    """Decorate a use of the journal, so that it is repeated after a fork stopped it.

    It is also repeated if the journal changed while it was read without its index.
    """

    @functools.wraps(use)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return use(*args, **kwargs)
            except RepeatedUseError:
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
    # Why: threads of the parent waited for the end of the fork. A thread of the child may have the
    # identifier of one of them.
    handle.forget_callers()
    if not handle.is_held_by_fork:
        handle.disable_after_fork()
    _release_after_fork(handle)


_SMALL_LOG_BYTES: Final = 65_536
"""Size of the write-ahead log up to which it is never merged early."""


_LOG_SPACE_RATIO: Final = 0.5
"""Size of the write-ahead log relative to the free space of its disk. A larger log is merged.

Why: SQLite merges it at 4 MiB, and a small disk would be full before, with no space to merge.
"""


_PEER_LOCK_S: Final = 0.5
"""Maximum time to wait for another connection of this process, in seconds."""


_MAX_READ_ATTEMPTS: Final = 5
"""Attempts to read a journal that changes while it is read without its index."""


_OPEN_RETRY_S: Final = 0.25
"""Maximum time to repeat the opening of a journal after an error of its files, in seconds."""


_OPEN_POLL_S: Final = 0.02
"""Time between two attempts to open a journal, in seconds."""


_GROWTH_S: Final = 0.5
"""Maximum time to wait until another process has extended the journal, in seconds."""


_peers: Final[weakref.WeakSet[ManagedConnection]] = weakref.WeakSet()
"""Connections of this process that are open or just being opened."""


_unusable: Final[set[Identity]] = set()
"""Journals whose descriptors could not be released. Opening them again would be unsafe."""


def _list_peers() -> list[ManagedConnection]:
    """Return the open connections of this process, and those being opened."""
    while True:
        try:
            return list(_peers)
        except RuntimeError:
            # Another thread opened or closed a connection.
            continue


_open_lock = threading.Lock()
"""Held while a connection is opened, so that its descriptors can be identified."""


def _renew_open_lock() -> None:
    global _open_lock
    _open_lock = threading.Lock()


on_fork(phase=ForkPhase.JOURNAL, after_in_child=_renew_open_lock)


class ManagedConnection:
    """Connection with its lock, which opens and reopens the file when necessary.

    - ``generation``: changes whenever cached knowledge about the file becomes invalid.
    - ``journal``: id of the open journal.
    - ``read_only``: never create the file, and change it only to migrate an older schema.
    - ``detect_replacement``: raise JournalError once if another journal is at the path, or if
      changes were lost.
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
        self._callers: set[int] = set()
        """Identifiers of the threads that use the connection or wait for it."""
        self._is_query = False
        self._read_only = read_only
        self._detect_replacement = detect_replacement
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._opened: OpenedFile | None = None
        self._files: OpenFiles | None = None
        self._identity: Identity | None = None
        self._inherited = False
        self._attempts = 0
        """Consecutive reads of a journal that changed at the same time."""
        self._loss: str | None = None
        """Description of changes that were lost since the last use."""
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
                self._is_query = True
                connection = self._get_open_connection()
                self._is_query = is_query
                yield connection
                self._check_unchanged()
            except sqlite3.Error as exc:
                # Only a fork interrupts a statement.
                if "interrupted" in str(exc):
                    self._close_connection()
                    raise StoppedByForkError(str(exc)) from exc
                self._recover(exc)
                raise _to_journal_error(exc, self.path) from exc
            except (ValueError, TypeError, KeyError, IndexError) as exc:
                self._close_connection()
                if not self._is_query:
                    raise
                # A value has another type than its column, so the file is damaged.
                damaged = sqlite3.DatabaseError(f"{_MALFORMED}: {exc}")
                raise _to_journal_error(damaged, self.path) from exc
            except BaseException:
                self._close_connection()
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        caller = threading.get_ident()
        # Why: a signal handler that queries must not wait for its own thread.
        if caller in self._callers:
            msg = f"Invalid query of {self.path}: expected no other query of the same thread."
            raise JournalError(f"{msg} It interrupted one. Repeat it after that has ended.")
        try:
            # Why before the lock: a signal handler may run as soon as it is acquired.
            self._callers.add(caller)
            self.fork.wait()
            with self.lock:
                self.user = caller
                try:
                    yield
                finally:
                    self.user = None
                    self._is_query = False
        finally:
            self._callers.discard(caller)

    @contextlib.contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """Lend the connection within one transaction.

        ``kind`` is ``IMMEDIATE`` to write, and ``DEFERRED`` to read one consistent state.
        """
        with self.acquire(is_query=kind == "DEFERRED") as connection:
            connection.execute(f"BEGIN {kind}")
            yield connection
            if kind != "DEFERRED":
                self._check_descriptors()
            connection.execute("COMMIT")
            if kind != "DEFERRED":
                self._limit_log(connection)

    @contextlib.contextmanager
    def acquire_if_open(self) -> Iterator[sqlite3.Connection | None]:
        """Lend the connection if it is open and usable, else None.

        Why not open it: the next use has to raise the error of a replaced file.
        """
        with self._locked():
            try:
                is_usable = not self._inherited and self._find_problem() is None
                yield self._connection if is_usable else None
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

    def forget_callers(self) -> None:
        """Forget the threads that use the connection or wait for it."""
        self._callers.clear()

    def disable_after_fork(self) -> None:
        """Disable the journal in a child that was forked during a use.

        The child must never use the inherited connection or the file.
        """
        self.lock = threading.Lock()
        self.user = None
        self._inherited = True
        _peers.discard(self)
        if self._connection is not None:
            # Closing it would change the locks and files of the parent.
            leak(self._connection)

    # --- opening ---------------------------------------------------------------------------------

    def _get_open_connection(self) -> sqlite3.Connection:
        if self._inherited:
            msg = f"{self.path} was in use when this process was forked, so this process cannot use it."
            raise JournalError(f"{msg} Start it with spawn.")
        before = self.journal
        problem = self._find_problem()
        if problem is not None:
            self._handle_problem(problem)
        if self._connection is None:
            self._abandon_unusable_peers()
            self._open()
        if problem is not None or self._loss is not None or before != self.journal:
            self._raise_replacement(before)
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        with _open_lock:
            identity = get_identity(self.path)
            if identity in _unusable:
                fix = "Do not close descriptors that the program did not open, as os.closerange does."
                msg = f"{self.path} cannot be used by this process any more, because {_DESCRIPTORS}."
                raise JournalError(f"{msg} {fix}")
            peers = [peer for peer in _list_peers() if peer._identity == identity]
            known = list_descriptors(self.path)
            # Why: a repair opens and closes the files, which drops all POSIX locks of this process.
            # Connections of other parts of the program have such locks, too.
            if not peers and not known:
                self._repair_files()
            # Why now: no other thread may close the shared index while the file is being opened.
            self._identity = identity
            _peers.add(self)
            try:
                self._open_file()
            except BaseException:
                if self._connection is None:
                    _peers.discard(self)
                raise
            if known is not None and self._opened is not None and self._opened.copy is None:
                self._files = capture_files(self.path, known, self._list_taken_descriptors())
        self.generation += 1
        assert self._connection is not None
        self.journal = schema.read_journal_id(self._connection)

    def _open_file(self) -> None:
        """Open the file. Repeat it after an error that another process may have caused.

        Why: a process that closes the journal as the last one removes two of its files.
        """
        open_file = open_to_read if self._read_only else open_to_write
        deadline = time.monotonic() + _OPEN_RETRY_S
        while True:
            try:
                self._opened = open_file(self.path, lambda uri: connect(uri, self.fork, self._busy_timeout_s))
                break
            except sqlite3.OperationalError as exc:
                if not is_file_error(exc) or time.monotonic() >= deadline:
                    raise
            self.fork.check()
            time.sleep(_OPEN_POLL_S)
        self._connection = self._opened.connection
        self._identity = get_identity(self.path)

    def _repair_files(self) -> None:
        """Repair truncated files. This process has no descriptor of them."""
        if sys.platform == "win32":
            return
        if repair.repair_log(self.path):
            self._loss = FileProblem.LOG_TRUNCATED.value
        if self._read_only:
            return
        repair.wait_for_rescue(self.path)
        if repair.is_short(self.path) and (target := repair.set_aside(self.path)) is not None:
            self._loss = f"{FileProblem.DATABASE_TRUNCATED.value}, and is now {target}"

    def _raise_replacement(self, before: str | None) -> None:
        """Raise JournalError if the writer has to write all live data again."""
        loss, self._loss = self._loss, None
        if not self._detect_replacement:
            return
        if loss is not None:
            msg = f"{self.path}: {loss}. Recent changes may be lost; the live state is written again."
            raise _build_loss_error(msg)
        if before not in {None, self.journal}:
            msg = f"{self.path} was removed or replaced while in use. A new journal is started there."
            raise JournalError(msg)

    # --- problems of the files -------------------------------------------------------------------

    def _find_problem(self) -> FileProblem | None:
        if self._connection is None:
            return None
        signature = None if self._opened is None else self._opened.signature
        if signature is not None and read_signature(self.path) != signature:
            return FileProblem.REPLACED
        if self._files is not None:
            problem = self._files.find_problem()
            if problem is FileProblem.DESCRIPTORS and self._adopt_descriptors():
                problem = self._files.find_problem()
            return problem
        return None if get_identity(self.path) == self._identity else FileProblem.REPLACED

    def _adopt_descriptors(self) -> bool:
        """Return False if descriptors of the connection were closed.

        Why: if another part of the program opens the journal at the same moment, its descriptors
        may have been taken for those of this connection.
        """
        return self._files is not None and self._files.adopt_descriptors(self._list_taken_descriptors())

    def _list_taken_descriptors(self) -> set[int]:
        """Return the descriptors that certainly belong to other connections."""
        files = [peer._files for peer in _list_peers() if peer is not self]
        return {number for found in files if found is not None for number in found.certain_descriptors}

    def _handle_problem(self, problem: FileProblem) -> None:
        """Close the connection so that it can be opened again. Restore files if possible."""
        connection = self._connection
        if problem is FileProblem.REPLACED:
            self._close_connection()
            return
        if problem is FileProblem.DATABASE_TRUNCATED and self._becomes_complete():
            return
        is_merged = is_merging = False
        if connection is not None and problem in {FileProblem.LOG_REMOVED, FileProblem.DATABASE_TRUNCATED}:
            # The open write-ahead log may still have the content.
            with contextlib.suppress(sqlite3.Error):
                (found,) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                is_merged = found[0] == 0 and found[1] == found[2]
                is_merging = found[0] != 0
        if is_merging and problem is FileProblem.DATABASE_TRUNCATED and not self._is_empty():
            msg = f"{self.path} is incomplete while another process merges its write-ahead log."
            merging = JournalError(f"{msg} It is tried again by itself.")
            merging.is_temporary = True
            raise merging
        is_complete = self._files is not None and self._files.is_database_complete()
        self._abandon()
        if problem is FileProblem.LOG_TRUNCATED:
            self._loss = problem.value
        elif problem is FileProblem.LOG_REMOVED and is_merged:
            repair.repair_log(self.path)
        elif problem is FileProblem.DATABASE_TRUNCATED:
            self._rescue_database(is_complete=is_complete)
        if self._loss is None or not self._detect_replacement:
            report_internal_error("journal", f"{self.path}: {problem.value}. It is opened again.")

    def _becomes_complete(self) -> bool:
        """Wait briefly until another process has merged its log.

        Return True if nothing is missing.

        Why: it writes the header of the journal first, and then the pages at its end.
        """
        assert self._connection is not None
        assert self._files is not None
        deadline = time.monotonic() + _GROWTH_S
        while not self._files.is_database_complete():
            if self._is_empty() or time.monotonic() >= deadline:
                return False
            self.fork.check()
            time.sleep(_POLL_S)
        with contextlib.suppress(sqlite3.Error):
            found = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            return bool(found == ("ok",))
        return False

    def _is_empty(self) -> bool:
        """Return True if the journal has no content. SQLite never makes it empty."""
        return self._files is not None and self._files.is_database_empty()

    def _rescue_database(self, *, is_complete: bool) -> None:
        """Set a truncated journal aside unless its write-ahead log has restored it."""
        if self._read_only or sys.platform == "win32":
            return
        if is_complete:
            # An incomplete file is never opened: SQLite would delete its write-ahead log.
            with contextlib.suppress(sqlite3.Error, JournalError):
                self._open()
                assert self._connection is not None
                if self._connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    return
            self._abandon()
        target = repair.set_aside(self.path)
        name = "" if target is None else f", and is now {target}"
        self._loss = f"{FileProblem.DATABASE_TRUNCATED.value}{name}"

    def _abandon_unusable_peers(self) -> None:
        """Close other connections to the journal if one has a problem.

        Why: a new connection would share their index and locks.
        """
        identity = get_identity(self.path)
        peers = [peer for peer in _list_peers() if peer is not self and peer._identity == identity]
        if any(peer._has_problem_while_idle() for peer in peers):
            self._identity = identity
            self._abandon()

    def _has_problem_while_idle(self) -> bool:
        """Return True if the files of an idle connection have a problem.

        A busy one may be opening or closing them. Its own next use checks them.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            return self._find_problem() not in {None, FileProblem.REPLACED}
        finally:
            self.lock.release()

    def _abandon(self) -> None:
        """Close all connections of this process to the journal.

        No file is changed. Raises a temporary JournalError if another thread uses one of them.
        """
        with contextlib.ExitStack() as stack:
            peers = [self]
            for peer in _list_peers():
                if peer is self or peer._identity != self._identity:
                    continue
                if not peer.is_held_by_fork:
                    if not peer.lock.acquire(timeout=_PEER_LOCK_S):
                        msg = f"{self.path} has to be opened again, but another thread reads it."
                        busy = JournalError(f"{msg} It is tried again by itself.")
                        busy.is_temporary = True
                        raise busy
                    stack.callback(peer.lock.release)
                peers.append(peer)
            descriptors = {
                number: identity
                for peer in peers
                if peer._files is not None
                for number, identity in peer._files.descriptors.items()
            }
            connections = [peer._connection for peer in peers if peer._connection is not None]
            if not close_unusable(connections, descriptors) and self._identity is not None:
                _unusable.add(self._identity)
            for peer in peers:
                peer._reset()

    def _check_descriptors(self) -> None:
        if (
            self._files is not None
            and not self._files.has_own_descriptors()
            and not self._adopt_descriptors()
        ):
            self._abandon()
            msg = f"{self.path}: {_DESCRIPTORS}. The changes are written again."
            raise JournalError(msg)

    def _check_unchanged(self) -> None:
        """Repeat a use that read a journal without its index, if the journal was changed."""
        signature = None if self._opened is None else self._opened.signature
        if signature is None or read_signature(self.path) == signature:
            self._attempts = 0
            return
        self._attempts += 1
        if self._attempts < _MAX_READ_ATTEMPTS:
            msg = f"{self.path} changed while it was read."
            raise RepeatedUseError(msg)

    def _limit_log(self, connection: sqlite3.Connection) -> None:
        """Merge the write-ahead log if it is large for its disk."""
        log_bytes = 0 if self._files is None else self._files.read_log_bytes()
        if log_bytes <= _SMALL_LOG_BYTES:
            return
        free_bytes = read_free_bytes(self.path)
        if free_bytes is not None and log_bytes > free_bytes * _LOG_SPACE_RATIO:
            # Why suppress: the transaction is committed. A reader may prevent it.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _recover(self, exc: sqlite3.Error) -> None:
        """Roll back, and close the connection unless the error is a lock or a full disk.

        Why: with those, opening the file again may fail too.
        """
        connection = self._connection
        self.generation += 1
        if connection is not None and _is_temporary(exc) and self._has_usable_files():
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if is_full_error(exc):
                    self._free_log_space(connection)
                return
        self._close_connection()

    def _free_log_space(self, connection: sqlite3.Connection) -> None:
        """Merge the write-ahead log, which frees its space.

        Why first truncate it: merging needs space, and the log has the rest of the failed
        transaction at its end.
        """
        if self._files is not None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._files.truncate_unused_log()
            finally:
                connection.execute("ROLLBACK")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _has_usable_files(self) -> bool:
        return self._find_problem() in {None, FileProblem.REPLACED}

    def _close_connection(self) -> None:
        """Close the connection, which rolls back its transaction."""
        connection = self._connection
        if connection is None:
            return
        problem = self._find_problem()
        if problem is None or (problem is FileProblem.REPLACED and not self._has_new_log()):
            # Why first: SQLite may give the descriptors to a connection that is just being opened.
            self._files = None
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            self._reset()
            return
        try:
            self._abandon()
        except JournalError:
            # Another thread is still reading. Closing now would change files.
            leak(connection)
            if self._identity is not None:
                _unusable.add(self._identity)
            self._reset()

    def _has_new_log(self) -> bool:
        """Return True if the write-ahead log at the path belongs to another journal.

        Closing the last connection would delete it.
        """
        if self._files is None or not self._files.has_own_descriptors():
            return True
        current = get_identity(Path(f"{os.path.realpath(self.path)}-wal"))
        return current is not None and current not in self._files.log.values()

    def _reset(self) -> None:
        self._connection = None
        self._files = None
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
        _peers.discard(self)


_MALFORMED: Final = "database disk image is malformed"


_DESCRIPTORS: Final = FileProblem.DESCRIPTORS.value


def _to_journal_error(exc: sqlite3.Error, path: Path) -> JournalError:
    kind = DiskFullError if is_full_error(exc) else JournalError
    error = kind(describe_sqlite_error(exc, path))
    error.is_temporary = is_locked_error(exc)
    return error


def _build_loss_error(message: str) -> JournalError:
    error = JournalError(message)
    error.has_lost_changes = True
    return error


def _is_temporary(exc: sqlite3.Error) -> bool:
    return is_locked_error(exc) or is_full_error(exc)


def read_free_bytes(path: Path) -> int | None:
    """Return the free space of the disk of a file, or None if it is not known."""
    try:
        space = os.statvfs(path)
    except (OSError, AttributeError):
        return None
    return space.f_bavail * space.f_frsize
