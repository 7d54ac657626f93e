"""Files of records that do not fit into the memory, next to the journal.

A queue consists of segments. A segment has a header line that names its owner, and one line per
record: its checksum and its text. Only the owner appends to it and removes it. When the owner is
gone, another process stores the records in the journal and removes the file.

No file stays open, so a fork and a program that closes all descriptors do no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.model import Instance
from otel_progress.processes import this_host

MAX_SPILL_BYTES: Final = 256 * 1024 * 1024
"""Size limit of the files of one queue. Beyond it, the records are dropped and counted."""


MAX_SEGMENT_BYTES: Final = 2 * 1024 * 1024
"""Size from which a queue continues in a new file. A file is removed when it was read."""


MAX_HEADER_BYTES: Final = 8 * 1024
"""Maximum length of a header. A longer first line is invalid."""


MAX_RECORD_BYTES: Final = 1024 * 1024
"""Maximum length of a record. A longer line is damaged and skipped."""


_FORMAT: Final = "otel-progress ends 1 "


_CHECKSUM_CHARACTERS: Final = 8


_MARK: Final = "-ends-"


_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


_open_segments: Final[set[Path]] = set()
"""Files of the queues of this process that are not closed."""


@dataclass(slots=True)
class _Segment:
    """One file, its size, and the number of records that were not removed."""

    path: Path
    inode: tuple[int, int]
    size_bytes: int
    count: int
    read_bytes: int = 0


class SpillFile:
    """First-in, first-out queue of records in files next to a journal.

    ``kind`` distinguishes the queues of one process. All methods may be called from any thread, and
    none raises. A file is created at the first use, for this user only.
    """

    def __init__(
        self,
        journal: Path,
        owner: Instance,
        kind: str,
        *,
        max_bytes: int = MAX_SPILL_BYTES,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
    ) -> None:
        self._journal = _resolve(journal)
        self._kind = kind
        self._max_bytes = max_bytes
        self._max_segment_bytes = max_segment_bytes
        self._segments: deque[_Segment] = deque()
        self.restart(owner)

    def restart(self, owner: Instance) -> None:
        """Continue as another process with an empty queue, as a forked child does."""
        self.close()
        self._owner = owner
        self._is_closed = False
        self._lock = threading.Lock()
        self._segments = deque()
        self._number = 0
        self._read: tuple[_Segment, int, int] | None = None
        self.lost = 0
        """Number of records whose file was removed or damaged by other programs."""

    def close(self) -> None:
        """Leave the records to the next process that finds them, or to this one later."""
        self._is_closed = True
        for segment in list(self._segments):
            _open_segments.discard(segment.path)

    def __len__(self) -> int:
        """Return the number of records that were not removed."""
        return sum(segment.count for segment in list(self._segments))

    def append(self, records: Sequence[bytes]) -> int:
        """Append records. Return how many of the first ones were stored."""
        with self._lock:
            stored = 0
            try:
                while stored < len(records):
                    count = self._append_to_segment(records, stored)
                    if not count:
                        break
                    stored += count
            except OSError as error:
                self._report_failure(error)
            return stored

    def _report_failure(self, error: OSError) -> None:
        # Why the journal: if it cannot be created either, its sink has logged the same cause, which
        # is logged once.
        path = Path(error.filename or self._journal) if self._journal.exists() else self._journal
        text = "Ended operations cannot be stored in a file next to the journal"
        report_internal_error("journal", text, error=build_creation_error(path, error))

    def read(self, max_records: int) -> list[bytes]:
        """Return the oldest records. ``remove_read`` removes them."""
        with self._lock:
            self._read = None
            while self._segments:
                segment = self._segments[0]
                try:
                    with _open_to_read(segment.path, segment.inode) as file:
                        file.seek(segment.read_bytes)
                        records, size_bytes, damaged = read_records(file, max_records)
                except OSError:
                    self.lost += segment.count
                    self._segments.popleft()
                    _open_segments.discard(segment.path)
                    continue
                self.lost += damaged
                if records or damaged:
                    self._read = (segment, size_bytes, len(records) + damaged)
                    if records:
                        return records
                    self._remove_read()
                    continue
                # The rest of the file is missing.
                self.lost += segment.count
                self._remove_segment(segment)
            return []

    def remove_read(self) -> None:
        """Remove the records that the last ``read`` returned."""
        with self._lock:
            self._remove_read()

    def _remove_read(self) -> None:
        if self._read is None:
            return
        segment, size_bytes, count = self._read
        self._read = None
        segment.read_bytes += size_bytes
        segment.count = max(0, segment.count - count)
        if segment.count == 0 or segment.read_bytes >= segment.size_bytes:
            self._remove_segment(segment)

    def _remove_segment(self, segment: _Segment) -> None:
        with contextlib.suppress(ValueError):
            self._segments.remove(segment)
        with contextlib.suppress(OSError):
            if _get_inode(os.stat(segment.path, follow_symlinks=False)) == segment.inode:  # noqa: PTH116
                segment.path.unlink()
        _open_segments.discard(segment.path)

    def _append_to_segment(self, records: Sequence[bytes], start: int) -> int:
        """Append records from ``start`` to the newest file. Return their number."""
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.size_bytes >= self._max_segment_bytes:
            used = sum(each.size_bytes for each in self._segments)
            if used >= self._max_bytes:
                return 0
            segment = self._create_segment()
        free = min(
            self._max_segment_bytes - segment.size_bytes,
            self._max_bytes - sum(each.size_bytes for each in self._segments),
        )
        lines: list[bytes] = []
        size_bytes = 0
        for record in records[start:]:
            line = b"%08x %b\n" % (zlib.crc32(record), record)
            # Why at least one: a record may be longer than a segment.
            if lines and size_bytes + len(line) > free:
                break
            lines.append(line)
            size_bytes += len(line)
        try:
            _append(segment, b"".join(lines))
        except FileNotFoundError:
            # Another program removed the file. The records continue in a new one.
            self.lost += segment.count
            self._segments.remove(segment)
            _open_segments.discard(segment.path)
            return self._append_to_segment(records, start)
        segment.size_bytes += size_bytes
        segment.count += len(lines)
        return len(lines)

    def _create_segment(self) -> _Segment:
        for parent in (*reversed(self._journal.parent.parents), self._journal.parent):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        header = f"{_FORMAT}{json.dumps(asdict(self._owner))}\n".encode()
        path, descriptor = self._create_file()
        try:
            _write_fully(descriptor, header)
            inode = _get_inode(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        segment = _Segment(path, inode, len(header), 0, len(header))
        self._segments.append(segment)
        return segment

    def _create_file(self) -> tuple[Path, int]:
        """Create the next file. Return its path and its descriptor."""
        while True:
            self._number += 1
            name = f"{self._journal.name}{_MARK}{self._owner.id}-{self._kind}-{self._number}"
            path = self._journal.with_name(name)
            if path in _open_segments:
                continue
            # Why first: another thread may search for files that no queue uses.
            if not self._is_closed:
                _open_segments.add(path)
            try:
                return path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _FLAGS, 0o600)
            except FileExistsError:
                # An earlier queue of this process left a file of this name.
                _open_segments.discard(path)
            except OSError:
                _open_segments.discard(path)
                raise


def build_creation_error(path: Path, error: OSError) -> JournalError:
    """Return the error of a file that cannot be created or extended."""
    fix = "Check that its directory is writable by this user, or set the store to another path."
    return JournalError(f"{path} cannot be created ({error.strerror}). {fix}")


def is_left_by_this_process(path: Path, owner: Instance) -> bool:
    """Return True if the owner is this process, and none of its queues uses the file."""
    return owner.pid == os.getpid() and owner.host == this_host() and path not in _open_segments


def list_segments(journal: Path) -> list[Path]:
    """Return the files of all queues next to a journal. Raises OSError."""
    journal = _resolve(journal)
    prefix = f"{journal.name}{_MARK}"
    with os.scandir(journal.parent) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name.startswith(prefix))


@contextlib.contextmanager
def open_segment(path: Path) -> Iterator[tuple[Instance | None, float, BinaryIO]]:
    """Open a file of a process of this user, locked against other recoveries.

    Yield its owner, the time of its last change (Unix seconds) and its records. The owner is None
    if the header is incomplete. Raises OSError or ValueError if it is not such a file.
    """
    with _open_to_read(path, None) as file:
        found = os.fstat(file.fileno())
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            msg = f"Invalid owner of {path}: expected this user."
            raise ValueError(msg)
        _lock_exclusively(file)
        yield _decode_header(file.readline(MAX_HEADER_BYTES)), found.st_mtime, file


def read_records(file: BinaryIO, max_records: int) -> tuple[list[bytes], int, int]:
    """Return the next valid records, the bytes read, and the number of damaged lines.

    A last line without its end is not complete and is not read.
    """
    records: list[bytes] = []
    size_bytes = damaged = 0
    while len(records) < max_records:
        line = file.readline(MAX_RECORD_BYTES)
        if not line.endswith(b"\n") and len(line) < MAX_RECORD_BYTES:
            break
        size_bytes += len(line)
        checksum, _, record = line[:-1].partition(b" ")
        if len(checksum) == _CHECKSUM_CHARACTERS and checksum == b"%08x" % zlib.crc32(record):
            records.append(record)
        else:
            damaged += 1
    return records, size_bytes, damaged


def _lock_exclusively(file: BinaryIO) -> None:
    """Lock a file until it is closed. Raises BlockingIOError if it is locked."""
    # Why no error without locks: two recoveries of one file store the same ends.
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return


def _resolve(journal: Path) -> Path:
    """Return the path without links, so that all processes find the same files."""
    return Path(os.path.realpath(journal))


def _decode_header(line: bytes) -> Instance | None:
    """Return the owner, or None for a header whose end is missing. Raises ValueError."""
    if not line.endswith(b"\n") and len(line) < MAX_HEADER_BYTES:
        return None
    text = line.decode()
    if not text.startswith(_FORMAT) or not text.endswith("\n"):
        msg = f"Invalid header: expected {_FORMAT!r}."
        raise ValueError(msg)
    values = json.loads(text[len(_FORMAT) :])
    try:
        return Instance(**{field.name: values[field.name] for field in fields(Instance)})
    except (KeyError, TypeError) as error:
        raise ValueError(text) from error


@contextlib.contextmanager
def _open_to_read(path: Path, inode: tuple[int, int] | None) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)
    with os.fdopen(descriptor, "rb", buffering=1024 * 1024) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or inode not in {None, _get_inode(found)}:
            raise FileNotFoundError(path)
        yield file


def _append(segment: _Segment, content: bytes) -> None:
    """Append content completely, or nothing. Raises OSError."""
    descriptor = os.open(segment.path, os.O_WRONLY | os.O_APPEND | _FLAGS)
    try:
        if _get_inode(os.fstat(descriptor)) != segment.inode:
            raise FileNotFoundError(segment.path)
        try:
            _write_fully(descriptor, content)
        except OSError:
            os.ftruncate(descriptor, segment.size_bytes)
            raise
    finally:
        os.close(descriptor)


def _write_fully(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _get_inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
