"""Opening of journal files, and messages of their errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from otel_progress.errors import JournalError
from otel_progress.journal.spill import build_creation_error
from otel_progress.journal.sqlite import schema

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

WAL_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Size to which the write-ahead log is truncated when SQLite restarts it."""


MAX_COPY_BYTES: Final = 1024 * 1024 * 1024
"""Largest journal that is copied to be read. A larger one raises JournalError."""


_COPY_ATTEMPTS: Final = 5
"""Attempts to open a journal that changes at the same time."""


Connect = Callable[[str], sqlite3.Connection]
"""Opens an SQLite URI."""


Signature = tuple[tuple[int, ...] | None, ...]
"""Inode, size and time of change of the journal and its write-ahead log."""


class NothingRecordedError(JournalError):
    """There is no journal yet: no file, or an empty file."""


class DiskFullError(JournalError):
    """The disk of the journal is full."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """Open connection to a journal.

    ``signature`` is set if SQLite cannot notice changes by other processes. Then open the journal
    again as soon as it differs from ``read_signature``. ``copy`` is the directory of a copy.
    """

    connection: sqlite3.Connection
    signature: Signature | None = None
    copy: TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Delete the copy. The connection has to be closed already."""
        if self.copy is not None:
            # Why suppress: the directory may be gone.
            with contextlib.suppress(OSError):
                self.copy.cleanup()


def describe_sqlite_error(exc: sqlite3.Error, path: Path) -> str:
    """Return a message that says what is wrong with the journal and how to fix it."""
    text = str(exc)
    if is_locked_error(exc):
        return (
            f"{path} is locked by another process ({text}). Close what holds it; it is tried again by itself."
        )
    if is_full_error(exc):
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


def is_locked_error(exc: sqlite3.Error) -> bool:
    """Return True if another process holds a lock."""
    return any(word in str(exc) for word in ("locked", "busy"))


def is_full_error(exc: sqlite3.Error) -> bool:
    """Return True if the disk is full."""
    return "full" in str(exc)


def is_file_error(exc: sqlite3.Error) -> bool:
    """Return True if a file of the journal could not be opened, read or written."""
    return any(text in str(exc) for text in ("disk I/O", "unable to open"))


def is_missing(path: Path) -> bool:
    """Return True if there certainly is no file at a path."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def open_to_write(path: Path, connect: Connect) -> OpenedFile:
    """Open a journal for writing. Create or migrate it if necessary."""
    _create_file(path)
    connection = connect(_build_uri(path, "mode=rw"))
    with _closing_on_error(connection):
        # Why only then: both statements write, which fails on a locked or full disk.
        if schema.read_version(connection, path) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _set_wal(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        schema.migrate(connection, path)
    return OpenedFile(connection)


def open_to_read(path: Path, connect: Connect) -> OpenedFile:
    """Open a journal for reading, also without write permission.

    SQLite needs an index file next to the journal, which a user with read permission only cannot
    create. If no process has the journal open, it is read without that file.
    """
    check_readable(path)
    try:
        return _open_attached(path, connect)
    except sqlite3.OperationalError as exc:
        text = str(exc)
        if not ("unable to open" in text or "readonly" in text):
            raise
        return _open_detached(path, connect, exc)


def open_to_check(path: Path, connect: Connect) -> OpenedFile:
    """Open a journal of any version without changing it."""
    connection = connect(_build_uri(path, "mode=ro"))
    try:
        with _closing_on_error(connection):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as exc:
        text = str(exc)
        if not ("unable to open" in text or "readonly" in text):
            raise
        return _open_detached(path, connect, exc)
    return OpenedFile(connection)


def check_readable(path: Path) -> None:
    """Raise JournalError if the journal cannot be read.

    It is NothingRecordedError if there is no journal yet.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise _build_link_error(path) from None
        fix = "Run something that is instrumented, or name another journal with --store."
        msg = f"Nothing has been recorded yet at {path}. {fix}"
        raise NothingRecordedError(msg) from None
    except OSError as exc:
        raise _build_access_error(path, exc) from exc
    _check_regular(path, found)
    if not os.access(path, os.R_OK):
        raise _build_access_error(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    if not found.st_size:
        # Why before SQLite: it would delete the write-ahead log of an empty file.
        raise _build_empty_error(path)


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        msg = f"{path} is a directory, not a journal. Name a file in it."
        raise JournalError(msg)
    if not stat.S_ISREG(found.st_mode):
        msg = f"{path} is a device, pipe or socket, not a journal. Name a regular file."
        raise JournalError(msg)


def _build_link_error(path: Path) -> JournalError:
    msg = f"{path} is a symbolic link to a file that does not exist."
    return JournalError(f"{msg} Create the file, or name another journal.")


def _build_access_error(path: Path, exc: OSError) -> JournalError:
    fix = "Check the permissions and links of its path, or name another journal with --store."
    return JournalError(f"{path} cannot be read ({exc.strerror}). {fix}")


def _build_empty_error(path: Path) -> NothingRecordedError:
    return NothingRecordedError(
        f"Nothing has been recorded yet in {path}, which is empty. Name another journal with --store."
    )


def _open_attached(path: Path, connect: Connect) -> OpenedFile:
    """Open a journal that other processes may write at the same time."""
    connection = connect(_build_uri(path, "mode=rw"))
    with _closing_on_error(connection):
        if schema.read_version(connection, path) == 0:
            raise _build_empty_error(path)
        try:
            schema.migrate(connection, path)
        except sqlite3.OperationalError as exc:
            found, known = schema.read_version(connection, path), len(schema.MIGRATIONS)
            fix = "Run this once as a user with write permission, while no other process writes."
            msg = f"{path} is of an older otel-progress (schema {found}, this one is {known})"
            raise JournalError(f"{msg} and cannot be upgraded ({exc}). {fix}") from exc
        connection.execute("PRAGMA query_only = ON")
    return OpenedFile(connection)


def _open_detached(path: Path, connect: Connect, cause: sqlite3.OperationalError) -> OpenedFile:
    """Open a journal without write permission for its directory.

    If the write-ahead log has content, or the schema is older, a temporary copy is read.
    """
    for _ in range(_COPY_ATTEMPTS):
        signature = read_signature(path)
        opened = _open_immutable(path, connect, signature) or _open_copy(path, connect, signature, cause)
        if read_signature(path) == signature:
            return opened
        opened.connection.close()
        opened.close()
    msg = f"{path} changes too fast to be read without write permission for its directory ({cause})."
    changing = JournalError(f"{msg} Try again.")
    changing.is_temporary = True
    raise changing


def _open_immutable(path: Path, connect: Connect, signature: Signature) -> OpenedFile | None:
    log = signature[1]
    if log is not None and log[1]:
        return None
    connection = connect(_build_uri(path, "mode=ro&immutable=1"))
    with _closing_on_error(connection):
        version = schema.read_version(connection, path)
        if version == len(schema.MIGRATIONS):
            connection.execute("PRAGMA query_only = ON")
            return OpenedFile(connection, signature)
    connection.close()
    if version == 0:
        raise _build_empty_error(path)
    return None


def _open_copy(
    path: Path, connect: Connect, signature: Signature, cause: sqlite3.OperationalError
) -> OpenedFile:
    size = sum(found[1] for found in signature if found is not None)
    if size > MAX_COPY_BYTES:
        fix = "Open it once as a user with write permission."
        msg = (
            f"{path} has unmerged changes, and its {size} bytes are too many for a temporary copy ({cause})."
        )
        raise JournalError(f"{msg} {fix}")
    # Why here: few readers need a copy.
    import shutil
    from tempfile import TemporaryDirectory

    directory = TemporaryDirectory(prefix="otel-progress-", ignore_cleanup_errors=True)
    copy = Path(directory.name) / path.name
    try:
        real = os.path.realpath(path)
        shutil.copyfile(real, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{real}-wal", f"{copy}-wal")
        opened = _open_attached(copy, connect)
    except OSError as exc:
        directory.cleanup()
        if isinstance(exc, JournalError):
            raise
        msg = f"{path} cannot be copied to {directory.name} to be read ({exc.strerror})."
        raise JournalError(f"{msg} Free some space there, or set TMPDIR.") from exc
    except BaseException:
        directory.cleanup()
        raise
    return OpenedFile(opened.connection, signature, directory)


def read_signature(path: Path) -> Signature:
    """Return values that change whenever the journal changes."""
    real = os.path.realpath(path)
    return tuple(_read_state(f"{real}{suffix}") for suffix in ("", "-wal"))


def _read_state(name: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(name)  # noqa: PTH116
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_dev


def _build_uri(path: Path, options: str) -> str:
    # mode=rw never creates the file, and opens it for reading if it cannot be written.
    return f"file:{quote(str(path.absolute()))}?{options}"


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
        try:
            _check_regular(path, path.stat())
        except FileNotFoundError:
            if path.is_symlink():
                raise _build_link_error(path) from None
        except JournalError:
            raise
        except OSError as exc:
            raise _build_access_error(path, exc) from exc
    except OSError as exc:
        raise build_creation_error(path, exc) from exc


@contextlib.contextmanager
def _closing_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise
