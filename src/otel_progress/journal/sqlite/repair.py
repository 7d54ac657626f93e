"""Repair of journal files that were truncated in place.

Each function requires that this process has no open connection to the journal. Other processes
may open and close it at the same time. So a finding is reported only if it is permanent.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from otel_progress.errors import JournalError
from otel_progress.journal.sqlite import schema
from otel_progress.journal.sqlite.open_files import (
    is_database_truncated,
    is_log_merged,
    is_log_truncated,
)

DAMAGED_SUFFIX: Final = ".damaged"
"""Appended to the name of a truncated journal. An older one with this name is replaced."""


_GRACE_S: Final = 0.5
"""Time for processes that use the files to repair them without a loss, in seconds."""


_LOCK_TIMEOUT_S: Final = 2.0
"""Maximum time to wait for a transaction of another process, in seconds."""


_POLL_S: Final = 0.02


_LOCK_OFFSET: Final = 120
"""First lock byte of the index: locks to write, to checkpoint and to recover."""


_LOCK_COUNT: Final = 3


_HEADER_COPIES_BYTES: Final = 96


_HEADER_BYTES: Final = 72
"""Length of the header of a journal up to its application id."""


def repair_log(path: Path) -> bool:
    """Reset the index if the write-ahead log is shorter than the index says.

    SQLite then reads the rest of the log again. Return True if transactions since the last
    checkpoint may be lost. Raises JournalError if another process holds the lock.

    The last process that closes the journal merges the log, and removes it before the index. So a
    log without content that is missing from the journal is not lost.
    """
    if sys.platform == "win32":
        return False
    real = os.path.realpath(path)
    try:
        index = os.open(f"{real}-shm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not _wait_for_owner(real, index):
            return False
        with _lock_index(path, index):
            # Why again: another process may have repaired it, or removed both files.
            if not _is_current(index, f"{real}-shm") or not _is_log_lost(real, index):
                return False
            is_merged = is_log_merged(index)
            os.pwrite(index, bytes(_HEADER_COPIES_BYTES), 0)
            return not is_merged
    finally:
        os.close(index)


def _wait_for_owner(real: str, index: int) -> bool:
    """Return True if the log is still lost after a moment."""
    deadline = time.monotonic() + _GRACE_S
    while _is_log_lost(real, index):
        # Why not for a truncated log: its owner cannot restore it either.
        if os.path.exists(f"{real}-wal") or time.monotonic() >= deadline:  # noqa: PTH110
            return True
        time.sleep(_POLL_S)
    return False


def _is_current(descriptor: int, name: str) -> bool:
    """Return True if a descriptor belongs to the file that has the name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))  # noqa: PTH116
    except OSError:
        return False


def _is_log_lost(real: str, index: int) -> bool:
    try:
        log = os.open(f"{real}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        log = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_log_truncated(log, index)
    finally:
        os.close(log)


@contextmanager
def _lock_index(path: Path, index: int) -> Iterator[None]:
    """Hold the locks to write, to checkpoint and to recover."""
    import fcntl

    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_COUNT, _LOCK_OFFSET)
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                msg = f"The write-ahead log of {path} was truncated, and another process holds its lock."
                locked = JournalError(f"{msg} The repair is tried again by itself.")
                locked.is_temporary = True
                raise locked from error
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        fcntl.lockf(index, fcntl.LOCK_UN, _LOCK_COUNT, _LOCK_OFFSET)


def is_short(path: Path) -> bool:
    """Return True if a journal has fewer pages than its header says.

    A journal with a write-ahead log may have them there. Another process that merges its log
    writes the header first, so the journal has to be short for a while.
    """
    deadline = time.monotonic() + _GRACE_S
    while _is_short_now(os.path.realpath(path)):
        if time.monotonic() >= deadline:
            return True
        time.sleep(_POLL_S)
    return False


def _is_short_now(real: str) -> bool:
    if _has_log(real):
        return False
    try:
        # Why non-blocking: the path may be a FIFO.
        database = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(database).st_mode):
            return False
        # Why the application id: files of other programs are never changed.
        header = os.pread(database, _HEADER_BYTES, 0)
        is_journal = header[68:] == schema.APPLICATION_ID.to_bytes(4, "big")
        is_truncated = is_journal and is_database_truncated(database)
    finally:
        os.close(database)
    # Why again: another process may have opened the journal.
    return is_truncated and not _has_log(real)


def _has_log(real: str) -> bool:
    """Return True if the write-ahead log has content."""
    try:
        return os.stat(f"{real}-wal").st_size > 0  # noqa: PTH116
    except OSError:
        return False


def wait_for_rescue(path: Path) -> None:
    """Wait briefly if the journal is empty, but not its write-ahead log.

    Why: opening it would delete the log, from which a running process can restore the journal.
    """
    real = os.path.realpath(path)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        try:
            is_empty = not os.stat(real).st_size and os.stat(f"{real}-wal").st_size  # noqa: PTH116
        except OSError:
            return
        if not is_empty:
            return
        time.sleep(_POLL_S)


def set_aside(path: Path) -> Path | None:
    """Rename a truncated journal, so that a new one is created.

    Return the new path, or None if another process was faster.
    """
    import fcntl

    real = Path(os.path.realpath(path))
    try:
        database = os.open(real, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # This lock is independent of those of SQLite.
        fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(database), real.stat()):
            return None
        target = Path(f"{real}{DAMAGED_SUFFIX}")
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                Path(f"{real}{suffix}").replace(f"{target}{suffix}")
        with suppress(FileNotFoundError):
            Path(f"{real}-shm").unlink()
        return target
    except OSError:
        return None
    finally:
        os.close(database)
