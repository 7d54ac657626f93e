"""Files and file descriptors of open connections.

SQLite does not notice when another part of the program closes its descriptors, or when a file is
truncated or removed in place. It then writes into a file of the user, loses data without an error,
or is killed by SIGBUS. So each use of a connection first compares its descriptors with the files.

This needs a list of the own descriptors (Linux and macOS). Elsewhere nothing is compared.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from otel_progress.processes import allows_daemon_threads

_DESCRIPTOR_LISTS: Final = ("/proc/self/fd", "/dev/fd")
"""Directories that list the descriptors of this process."""


_INDEX_HEADER: Final = struct.Struct("=12xBxHII8x8s8x")
"""Header of the index of the write-ahead log, in native byte order: state, page size, last frame
and pages of the database, and salt. See "WAL-Index Format" of SQLite.
"""


_MERGED_FRAMES: Final = struct.Struct("=I")


_MERGED_FRAMES_OFFSET: Final = 96
"""Position in the index of the number of frames that a checkpoint has written to the database."""


_INDEX_BYTES: Final = 136
"""Length of both copies of the index header with the checkpoint information."""


_LOG_HEADER_BYTES: Final = 32


_FRAME_HEADER_BYTES: Final = 24


_MIN_INDEX_BYTES: Final = 32_768
"""Size of the first part of the index, which is mapped into memory as a whole."""


_DATABASE_HEADER_BYTES: Final = 100


_CLOSE_RANGE: Final = 436
"""Number of the system call close_range, the same for all common processors."""


_UNSHARE: Final = 2
"""Flag of close_range: the calling thread gets its own table of descriptors."""


Identity = tuple[int, int]
"""Device and inode of a file."""


class FileProblem(Enum):
    """Problem of the files of an open connection. The value describes it."""

    DESCRIPTORS = "another part of this program closed the file descriptors of the journal"
    REPLACED = "the journal was removed or replaced while in use"
    INDEX_LOST = "the index of the write-ahead log (-shm) was truncated or removed while in use"
    LOG_REMOVED = "the write-ahead log (-wal) was removed while in use"
    LOG_TRUNCATED = "the write-ahead log (-wal) was truncated while in use"
    DATABASE_TRUNCATED = "the journal was truncated while in use"


class _Index(NamedTuple):
    """Decoded header of the index of the write-ahead log."""

    raw: bytes
    page_bytes: int
    last_frame: int
    salt: bytes

    @property
    def log_bytes(self) -> int:
        """Smallest possible size of the write-ahead log."""
        if not self.last_frame:
            return 0
        return _LOG_HEADER_BYTES + self.last_frame * (_FRAME_HEADER_BYTES + self.page_bytes)


@dataclass(slots=True)
class OpenFiles:
    """Descriptors of one connection by file.

    Connections of one process share the index, so it may be a descriptor of another connection.
    A file has several descriptors if another part of the program opened it at the same time. One
    of them belongs to the connection, so a problem is reported only when all of them are closed.
    """

    path: Path
    identity: Identity
    database: dict[int, Identity] = field(default_factory=dict)
    log: dict[int, Identity] = field(default_factory=dict)
    index: dict[int, Identity] = field(default_factory=dict)
    index_bytes: int = 0
    database_bytes: int = 0

    @property
    def descriptors(self) -> dict[int, Identity]:
        """Descriptors with the files that they have to refer to."""
        return {**self.database, **self.log, **self.index}

    def find_problem(self) -> FileProblem | None:
        """Compare the descriptors with the files. Takes some microseconds."""
        states = self._read_states()
        if states is None:
            return FileProblem.DESCRIPTORS
        if get_identity(self.path) != self.identity:
            return FileProblem.REPLACED
        for number in self.index:
            state = states[number]
            if not state.st_nlink or state.st_size < self.index_bytes:
                return FileProblem.INDEX_LOST
            self.index_bytes = state.st_size
        for number in self.log:
            if not states[number].st_nlink:
                return FileProblem.LOG_REMOVED
        if self._is_log_truncated():
            return FileProblem.LOG_TRUNCATED
        for number in self.database:
            size = states[number].st_size
            if size < self.database_bytes and is_database_truncated(number):
                return FileProblem.DATABASE_TRUNCATED
            self.database_bytes = size
        return None

    def read_log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        with suppress(OSError):
            for number in self.log:
                return os.fstat(number).st_size
        return 0

    def truncate_unused_log(self) -> None:
        """Remove the end of the write-ahead log that belongs to no committed transaction.

        The caller holds the lock to write.
        """
        for log in self.log:
            for index in self.index:
                with suppress(OSError):
                    header = _decode_index(os.pread(index, _INDEX_BYTES, 0))
                    if header is not None and os.fstat(log).st_size > header.log_bytes:
                        os.ftruncate(log, header.log_bytes)
                return

    def is_database_complete(self) -> bool:
        """Return True if the database has as many pages as its header says."""
        return not any(is_database_truncated(number) for number in self.database)

    def is_database_empty(self) -> bool:
        """Return True if the database has no content. SQLite never makes it empty."""
        return any(not state.st_size for state in _read_own_states(self.database).values())

    def has_own_descriptors(self) -> bool:
        """Return False if a descriptor was closed, or is used for another file now."""
        return self._read_states() is not None

    @property
    def certain_descriptors(self) -> set[int]:
        """Descriptors that certainly belong to this connection."""
        groups = (self.database, self.log)
        return {number for group in groups if len(group) == 1 for number in group}

    def adopt_descriptors(self, taken: Set[int]) -> bool:
        """Replace closed descriptors by other ones of the same file.

        Those in ``taken`` belong to other connections. Return False if a file has no descriptor
        left, so that those of the connection are closed.
        """
        found = list_descriptors(self.path)
        if found is None:
            return False
        for group in (self.database, self.log, self.index):
            if not group or _read_own_states(group):
                continue
            files = set(group.values())
            other = {number: file for number, (_, file) in found.items() if file in files}
            if group is not self.index:
                other = {number: file for number, file in other.items() if number not in taken}
            if not other:
                return False
            group.clear()
            group.update(other)
        return True

    def _read_states(self) -> dict[int, os.stat_result] | None:
        """Return the states of all descriptors, or None if all of one file are closed."""
        states: dict[int, os.stat_result] = {}
        for group in (self.database, self.log, self.index):
            found = _read_own_states(group)
            if len(found) < len(group):
                if not found:
                    return None
                for number in group.keys() - found.keys():
                    del group[number]
            states.update(found)
        return states

    def _is_log_truncated(self) -> bool:
        for log in self.log:
            for index in self.index:
                return is_log_truncated(log, index)
        return False


def _read_own_states(descriptors: Mapping[int, Identity]) -> dict[int, os.stat_result]:
    """Return the states of the descriptors that still belong to their files."""
    states = {}
    for number, identity in descriptors.items():
        try:
            state = os.fstat(number)
        except OSError:
            continue
        if (state.st_dev, state.st_ino) == identity:
            states[number] = state
    return states


def is_log_truncated(log: int, index: int) -> bool:
    """Return True if the write-ahead log does not match its index.

    It is shorter than the index says, or has another salt. ``log`` and ``index`` are descriptors.
    Other processes may write at the same time. They change the index before they shorten the log,
    and after they extended it.
    """
    try:
        before = _decode_index(os.pread(index, _INDEX_BYTES, 0))
        if before is None or not before.last_frame:
            return False
        size = os.fstat(log).st_size
        is_valid = size >= before.log_bytes and os.pread(log, 8, 16) == before.salt
        after = os.pread(index, _INDEX_BYTES, 0)
    except OSError:
        return False
    return not is_valid and after[: len(before.raw)] == before.raw


def is_log_merged(index: int) -> bool:
    """Return True if the database has the whole content of the log.

    The index has the number of merged frames. ``index`` is a descriptor.
    """
    try:
        header = os.pread(index, _INDEX_BYTES, 0)
    except OSError:
        return False
    found = _decode_index(header)
    if found is None:
        return False
    (merged_frames,) = _MERGED_FRAMES.unpack_from(header, _MERGED_FRAMES_OFFSET)
    return bool(merged_frames >= found.last_frame)


def is_database_truncated(database: int) -> bool:
    """Return True if the file of a descriptor has fewer pages than its header says."""
    try:
        header, size = os.pread(database, _DATABASE_HEADER_BYTES, 0), os.fstat(database).st_size
    except OSError:
        return False
    if len(header) < _DATABASE_HEADER_BYTES:
        return True
    page_bytes = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return size < pages * (65536 if page_bytes == 1 else page_bytes)


def _decode_index(data: bytes) -> _Index | None:
    """Decode the index.

    Return None if it is not initialized, or is just being written.
    """
    if len(data) < _INDEX_BYTES or data[:48] != data[48:96]:
        return None
    is_initialized, page_bytes, last_frame, _, salt = _INDEX_HEADER.unpack(data[:48])
    if not is_initialized:
        return None
    # The page size 65536 does not fit, and is stored as 1.
    page_bytes = (page_bytes & 0xFE00) + ((page_bytes & 1) << 16)
    return _Index(data[:96], page_bytes, last_frame, salt)


def get_identity(path: Path) -> Identity | None:
    """Return the device and inode of a file, or None if it cannot be read."""
    try:
        # Why not Path.stat: it takes twice the time, and this runs on every tick.
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


# --- descriptors ---------------------------------------------------------------------------------


def list_descriptors(path: Path) -> dict[int, tuple[str, Identity]] | None:
    """Return the descriptors of a journal in this process with their file name suffix.

    Return None if the system has no list of descriptors.
    """
    real = os.path.realpath(path)
    suffixes = {}
    for suffix in ("", "-wal", "-shm"):
        identity = get_identity(Path(real + suffix))
        if identity is not None:
            suffixes[identity] = suffix
    numbers = _list_numbers()
    if numbers is None:
        return None
    found = {}
    for number in numbers:
        try:
            state = os.fstat(number)
        except OSError:
            continue
        identity = state.st_dev, state.st_ino
        if identity in suffixes:
            found[number] = (suffixes[identity], identity)
    return found


def _list_numbers() -> list[int] | None:
    for directory in _DESCRIPTOR_LISTS:
        with suppress(OSError):
            return [int(name) for name in os.listdir(directory)]  # noqa: PTH208
    return None


def capture_files(path: Path, before: Iterable[int], taken: Iterable[int]) -> OpenFiles | None:
    """Return the descriptors of a connection that was just opened.

    ``before`` are the descriptors of the journal before it was opened, and ``taken`` those of other
    connections. Return None if the system has no list of descriptors.

    The result may include descriptors of other parts of the program if they use the journal, too.
    SQLite also keeps descriptors of closed connections, and may use them again for the database.
    """
    found, identity = list_descriptors(path), get_identity(path)
    if found is None or identity is None:
        return None
    by_suffix: dict[str, dict[int, Identity]] = {"": {}, "-wal": {}, "-shm": {}}
    for number, (suffix, file) in found.items():
        by_suffix[suffix][number] = file
    database, log, index = by_suffix.values()
    other, earlier = set(taken), set(before)
    own_database, own_log = database.keys() - other, log.keys() - other
    new_database, new_log = database.keys() - earlier, log.keys() - earlier
    if len(new_log) == 1:
        own_log = new_log
        # Each connection has one descriptor of both files, unless SQLite keeps one to use it again.
        if len(new_database) == 1 and len(database) == len(log):
            own_database = new_database
    files = OpenFiles(
        path,
        identity,
        _select_descriptors(database, own_database),
        _select_descriptors(log, own_log),
        index,  # Connections share the index.
    )
    with suppress(OSError):
        for number in files.index:
            files.index_bytes = max(_MIN_INDEX_BYTES, os.fstat(number).st_size)
        for number in files.database:
            files.database_bytes = os.fstat(number).st_size
    return files


def _select_descriptors(found: Mapping[int, Identity], numbers: Set[int]) -> dict[int, Identity]:
    return {number: file for number, file in found.items() if number in numbers}


# --- closing without a checkpoint ----------------------------------------------------------------


def close_unusable(connections: Sequence[sqlite3.Connection], descriptors: Mapping[int, Identity]) -> bool:
    """Close connections without a lock, a checkpoint or a change of any file.

    ``connections`` are all connections of this process to one journal, and ``descriptors`` all
    their descriptors. Descriptors that other parts of the program use now stay open. Return False
    if that is not possible here. The connections then stay open for the life of the process.
    """
    if _are_own(descriptors):
        _close_own(connections, descriptors)
        return True
    is_closed = _close_in_own_table(connections, descriptors)
    if not is_closed:
        for connection in connections:
            leak(connection)
        return False
    for number, identity in descriptors.items():
        with suppress(OSError):
            state = os.fstat(number)
            if (state.st_dev, state.st_ino) == identity:
                os.close(number)
    return True


def _are_own(descriptors: Mapping[int, Identity]) -> bool:
    try:
        states = {number: os.fstat(number) for number in descriptors}
    except OSError:
        return False
    return all((states[n].st_dev, states[n].st_ino) == identity for n, identity in descriptors.items())


def _close_own(connections: Iterable[sqlite3.Connection], descriptors: Iterable[int]) -> None:
    """Close connections after their descriptors were replaced by an unusable one.

    SQLite then can neither lock nor write, so it does not merge the write-ahead log.
    """
    unusable = os.open(os.devnull, os.O_RDONLY)
    try:
        for number in descriptors:
            os.dup2(unusable, number, inheritable=False)
        _close_all(connections)
    finally:
        os.close(unusable)


def _close_all(connections: Iterable[sqlite3.Connection]) -> None:
    for connection in connections:
        with suppress(sqlite3.Error):
            connection.close()


def _close_in_own_table(connections: Iterable[sqlite3.Connection], descriptors: Iterable[int]) -> bool:
    """Close connections in a thread that has its own table of descriptors.

    SQLite closes numbers, which may belong to other parts of the program now. In a table of its
    own, that changes nothing outside of the thread. Return False if the system does not support it.
    """
    is_closed = False

    def close_connections() -> None:
        nonlocal is_closed
        try:
            # Why here: few programs need it.
            import ctypes

            call = ctypes.CDLL(None).syscall
        except (ImportError, OSError, AttributeError, TypeError):
            return
        # Why: a finalizer that runs in this thread would close its files only in this table.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            if call(_CLOSE_RANGE, ctypes.c_uint(3), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(_UNSHARE)):
                return
            unusable = os.open(os.devnull, os.O_RDONLY)
            for number in descriptors:
                if number != unusable:
                    os.dup2(unusable, number, inheritable=False)
            _close_all(connections)
            is_closed = True
        finally:
            if was_enabled:
                gc.enable()

    if not os.path.exists("/proc/self/fd"):  # noqa: PTH110
        return False
    thread = threading.Thread(
        target=close_connections, name="otel-progress-close", daemon=allows_daemon_threads()
    )
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join()
    return is_closed


_leaked: Final[list[sqlite3.Connection]] = []


def leak(connection: sqlite3.Connection) -> None:
    """Keep a connection open until the process has ended.

    The interpreter does not close it when it exits.
    """
    _leaked.append(connection)
    with suppress(Exception):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
