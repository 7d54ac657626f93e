"""Files that count the bytes which are read or written.

``shutil.copyfileobj(wrap_file(source), target)`` is followed without other changes.
"""

from __future__ import annotations

import io
import math
import os
import stat
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, ClassVar, Final, TypeVar, cast

from otel_progress.diagnostics import log_warning
from otel_progress.instrument.late_levels import complete_at_total
from otel_progress.integrations.transfer import Transfer, get_path_name, wrap_safely

F = TypeVar("F")


def wrap_file(
    file: F,
    name: str | None = None,
    *,
    type: str = "file",
    total: int | None = None,
    weight: float | None = None,
    **metadata: object,
) -> F:
    """Return a file that counts the bytes which are read or written.

    ``file`` is an open file, binary or text, or another object with ``read`` or ``write``. The
    result has all its attributes, is an instance of its class (for a file on disk, of
    ``io.BufferedIOBase`` or ``io.RawIOBase``), and is used instead of it. Reads and writes of
    ``file`` itself, or by ``fileno()``, are not counted. ``name`` defaults to the name of the file.
    ``total`` is a number of bytes and defaults to the size of a file that is read, from its current
    position.

    The bytes are counted by a child of the current level, or by an operation. It is completed at
    the end of a file that is only read, and by ``close()``. It fails if a read or write fails, or
    if an exception leaves the ``with`` block of the file. A byte counts once, even if it is read
    again after a ``seek``. Threads may share the result as far as they may share ``file``.

    Without :func:`otel_progress.configure` the result is ``file`` itself. Raises only for invalid
    arguments in strict mode.
    """
    return wrap_safely(lambda: _wrap(file, name, type, total, weight, metadata), file)


def _wrap(
    file: Any, name: str | None, type: str, total: Any, weight: Any, metadata: dict[str, object]
) -> object:
    if not (hasattr(file, "read") or hasattr(file, "write")):
        log_warning(
            "Invalid file of the type %s: expected an object with read() or write(). Open it first.",
            _get_class(file).__name__,
        )
        return file
    size = _get_remaining_size(file) if total is None else total
    if name is None:
        name = get_path_name(getattr(file, "name", None))
    unit = "character" if isinstance(file, io.StringIO) else "B"
    transfer = Transfer(type, name, total=size, unit=unit, weight=weight, metadata=metadata)
    if not transfer.is_running:
        return file
    complete_at_total(transfer.level)
    return ProgressFile(file, make_meter(file, transfer))


FLUSH_S: Final = 0.05
"""Time between two changes of the level by small reads, in seconds. Those between them are added
to the next change, to the end of the file, or to the end of the level.
"""


SMALL_BYTES: Final = 128 * 1024
"""Bytes of a read or write from which on it changes the level at once. It takes much longer than
the change.
"""


class FileMeter:
    """Counts the bytes of one file. A byte counts once, also after a seek."""

    __slots__ = ("_covered", "_file", "_next_flush", "_pending", "_sequence_start", "_transfer")

    is_read_only = True
    """True if the file cannot be written."""

    def __init__(self, file: Any, transfer: Transfer) -> None:
        self._file = file
        self._transfer = transfer
        self._covered: CountedRanges | None = None
        """Counted ranges of positions. None before the first seek."""
        self._sequence_start: int | None = self.get_position() or 0
        """Position at which a sequence started beyond all counted ranges. None outside of one."""
        # Why a deque: each thread adds to it and takes from it without a lock, and no size is lost.
        self._pending: deque[int] = deque()
        """Sizes of small reads and writes since the last change of the level."""
        self._next_flush = -math.inf
        """Time from which on the next small read changes the level, of ``perf_counter``."""

    def count(self, size: int) -> None:
        """Count bytes that were read or written before the current position."""
        if size < SMALL_BYTES and perf_counter() < self._next_flush:
            self._pending.append(size)
        else:
            self._change(size)

    def count_text(self, text: str) -> None:
        """Count a text that was read or written."""
        self.count(len(text))

    def _change(self, size: int) -> None:
        """Add a size and those that are pending to the level."""
        size += self._take_pending()
        # Why: files are usually read in order, and need no position then.
        if self._sequence_start is None:
            self._count_new(size)
        else:
            self._next_flush = perf_counter() + FLUSH_S
            self._transfer.add(size)

    def _take_pending(self) -> int:
        size = 0
        while self._pending:
            try:
                size += self._pending.popleft()
            except IndexError:  # another thread took the last one
                break
        return size

    def _flush(self) -> None:
        if self._pending:
            self._change(0)

    def _count_new(self, size: int) -> None:
        position = self.get_position()
        if position is None or self._covered is None:
            self._transfer.add(size)
            return
        self._transfer.add(self._covered.add(position - size, position))
        if position >= self._covered.end:
            self._sequence_start = position

    def get_position(self) -> int | None:
        """Return the position in bytes. None if the file has none."""
        return get_position(self._file)

    def seek_from(self, before: int | None) -> None:
        """Note a seek from the position ``before`` to the current one."""
        self._flush()
        after = self.get_position()
        if before is None or after is None:
            return
        if self._covered is None:
            self._covered = CountedRanges()
        if self._sequence_start is not None:
            self._covered.add(self._sequence_start, before)
        self._sequence_start = after if after >= self._covered.end else None
        self._next_flush = -math.inf

    def finish(self) -> None:
        """End the level at the end of the file.

        It continues if a part of the file was left out, or if the file may be written.
        """
        self._flush()
        is_sequential = self.is_read_only and self._covered is None
        if is_sequential and self._transfer.is_incomplete:
            self._add_uncounted()
        if is_sequential or self._transfer.has_reached_total:
            self.end(None)

    def _add_uncounted(self) -> None:
        """Count the whole file if it was read to its total size.

        Another thread may have read the last bytes, and not have counted them yet.
        """
        position, total = self.get_position(), self._transfer.total
        if position is not None and position - (self._sequence_start or 0) == total:
            self._transfer.set_done(total)

    def fail(self, error: BaseException) -> None:
        """End the level after a read or write raised.

        It continues if the caller may try again.
        """
        if isinstance(error, Exception) and not isinstance(error, _RETRYABLE):
            self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the level."""
        self._flush()
        self._transfer.end(error)


class WritableFileMeter(FileMeter):
    """Counts a file that is written."""

    __slots__ = ()

    is_read_only = False


class EncodedTextMeter(FileMeter):
    """Counts a text file by the size of its encoded text.

    The file is written or has no position. A range counts each time that it is read or written.
    """

    __slots__ = ("_encoding", "_is_ascii_based", "is_read_only")

    def __init__(self, file: Any, transfer: Transfer, *, is_read_only: bool) -> None:
        super().__init__(file, transfer)
        self._encoding = str(getattr(file, "encoding", None) or "utf-8").lower()
        self._is_ascii_based = not self._encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))
        if not self._is_ascii_based:
            # Why: the encoder of the other ones adds a byte order mark to each text.
            self._encoding = f"{self._encoding[:6]}-le"
        self.is_read_only = is_read_only

    def count_text(self, text: str) -> None:
        """Count a text with the size of its encoding."""
        if self._is_ascii_based and text.isascii():
            size = len(text)
        else:
            size = _get_encoded_size(text, self._encoding)
        # Why not count: lines are many, and the call would cost 50 ns.
        if size < SMALL_BYTES and perf_counter() < self._next_flush:
            self._pending.append(size)
        else:
            self._change(size)

    def get_position(self) -> int | None:
        """Return None. Why: ``tell`` writes the buffer of a text file."""
        return None


class TextFileMeter(EncodedTextMeter):
    """Counts a text file that is read, by the size of its encoded text.

    Line ends and decoding errors can have another size in the file. So the position of the binary
    file below it replaces the count at the end, and after a seek. It is up to 8 KiB ahead.
    """

    __slots__ = ("_start",)

    def __init__(self, file: Any, transfer: Transfer) -> None:
        super().__init__(file, transfer, is_read_only=True)
        self._start = self._sequence_start or 0

    def get_position(self) -> int | None:
        """Return the position up to which the text file has read ahead."""
        return get_position(self._file.buffer)

    def _change(self, size: int) -> None:
        size += self._take_pending()
        if self._transfer.total is not None:  # the encoded text may be longer than the file
            size = max(0, min(size, self._transfer.total - self._transfer.done))
        super()._change(size)

    def seek_from(self, before: int | None) -> None:
        """Note a seek from the position ``before`` to the current one."""
        if self._covered is None and before is not None:
            self._flush()
            self._transfer.set_done(before - self._start)
        super().seek_from(before)

    def _count_new(self, size: int) -> None:
        # Why: what was read is between the positions before and after the last reading ahead.
        super()._count_new(max(size, READ_AHEAD_BYTES))

    def finish(self) -> None:
        """Count the whole file and end the level, at the end of the file."""
        self._flush()
        position = self.get_position()
        if position is not None:
            if self._covered is None:
                self._transfer.set_done(position - self._start)
            else:
                self._count_new(READ_AHEAD_BYTES)
        super().finish()


READ_AHEAD_BYTES: Final = 8192
"""Bytes that a text file reads at once. After a seek, so many before the position count as read."""


def make_meter(file: Any, transfer: Transfer) -> FileMeter:
    """Return the meter for the kind of a file."""
    is_read_only = not _is_writable(file)
    if isinstance(file, io.TextIOWrapper):
        if is_read_only and get_position(file.buffer) is not None:
            return TextFileMeter(file, transfer)
        return EncodedTextMeter(file, transfer, is_read_only=is_read_only)
    return FileMeter(file, transfer) if is_read_only else WritableFileMeter(file, transfer)


_RETRYABLE: Final = (
    BlockingIOError,
    InterruptedError,
    TimeoutError,
    io.UnsupportedOperation,
    TypeError,
    AttributeError,
)
"""Exceptions after which a program may try again, and those of invalid calls."""


MAX_RANGES: Final = 1_000
"""Counted ranges of one file. Beyond it a further range counts each time that it is read."""


class CountedRanges:
    """Sorted ranges of positions without gaps or overlaps between them."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def end(self) -> int:
        """End of the last range."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> int:
        """Add a range. Return how many of its positions were in no range."""
        start = max(start, 0)
        if end <= start:
            return 0
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first == last and len(self._starts) >= MAX_RANGES:
            return end - start
        known = sum(
            max(0, min(end, self._ends[index]) - max(start, self._starts[index]))
            for index in range(first, last)
        )
        if first < last:
            new_start, new_end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        else:
            new_start, new_end = start, end
        self._starts[first:last] = [new_start]
        self._ends[first:last] = [new_end]
        return end - start - known


# --- the file ------------------------------------------------------------------------------------


def count_data(meter: Any, data: Any) -> bool:
    """Count data of a file: a text, bytes or a buffer. Return whether it is empty."""
    if isinstance(data, str):
        meter.count_text(data)
        return not data
    size = _get_data_size(data)
    if size:
        meter.count(size)
    return size == 0


def _is_empty_request(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Return whether a read of no data is requested."""
    return any(type(value) is int and value == 0 for value in (*args, *options.values()))


def iterate_file(lines: Iterator[Any], meter: Any, owner: object) -> Iterator[Any]:  # noqa: ARG001
    """Yield the lines of a file and count them.

    ``owner`` is the file, which must not be collected while it is iterated over.
    """
    count_text = meter.count_text
    try:
        for line in lines:
            if type(line) is bytes:
                meter.count(len(line))
            else:
                count_text(line)
            yield line
    except GeneratorExit:
        raise
    except BaseException as error:
        meter.fail(error)
        raise
    meter.finish()


def make_read(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    """Return a method that reads like ``method`` and counts the result."""

    def read(*args: Any, **options: Any) -> Any:
        try:
            data = method(*args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if type(data) is bytes and data:
            meter.count(len(data))
        elif count_data(meter, data) and not _is_empty_request(args, options):
            meter.finish()
        return data

    return read


def _make_read_all(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    """Return a method like :func:`make_read` that reads the whole file by default."""

    # Why not with make_read: each call would cost 150 ns more.
    def read(*args: Any, **options: Any) -> Any:
        try:
            data = method(*args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if type(data) is bytes and data:
            meter.count(len(data))
            is_at_end = False
        else:
            is_at_end = count_data(meter, data) and not _is_empty_request(args, options)
        if is_at_end or (not options and (not args or _is_whole(args[0])) and data is not None):
            meter.finish()
        return data

    return read


def _is_whole(size: object) -> bool:
    """Return whether the size of a read requests the rest of the file."""
    return size is None or (type(size) is int and size < 0)


def _make_read_into(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def read_into(buffer: Any, /, *args: Any, **options: Any) -> Any:
        try:
            size = method(buffer, *args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if type(size) is int:
            if size > 0:
                meter.count(size)
            elif size == 0 and _get_data_size(buffer):
                meter.finish()
        return size

    return read_into


def _make_read_lines(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def read_lines(*args: Any) -> Any:
        try:
            lines = method(*args)
        except BaseException as error:
            meter.fail(error)
            raise
        if isinstance(lines, list):  # another iterable might be used only once
            for line in lines:
                count_data(meter, line)
            if not args or _is_whole(args[0]) or args[0] == 0:
                meter.finish()
        return lines

    return read_lines


def _make_write(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:
    def write(data: Any, /, *args: Any, **options: Any) -> Any:
        try:
            size = method(data, *args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if type(data) is str:
            meter.count_text(data)
        elif type(size) is int:
            meter.count(size)
        elif size is not None or not isinstance(file, io.RawIOBase):
            count_data(meter, data)
        return size

    return write


def _make_write_lines(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def write_lines(lines: Iterable[Any], /) -> Any:
        def collect() -> Iterator[Any]:
            # Why: the file writes an element before it requests the next one.
            for line in lines:
                yield line
                count_data(meter, line)

        try:
            return method(collect())
        except BaseException as error:
            meter.fail(error)
            raise

    return write_lines


def _make_seek(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def seek(*args: Any, **options: Any) -> Any:
        before = meter.get_position()
        result = method(*args, **options)
        meter.seek_from(before)
        return result

    return seek


def _make_close(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def close(*args: Any, **options: Any) -> Any:
        try:
            result = method(*args, **options)
        except BaseException as error:
            meter.end(error)
            raise
        meter.end(None)
        return result

    return close


METHODS: Final[dict[str, Callable[[Callable[..., Any], Any, Any], Callable[..., Any]]]] = {
    "close": _make_close,
    "read": _make_read_all,
    "read1": make_read,
    "readall": _make_read_all,
    "readinto": _make_read_into,
    "readinto1": _make_read_into,
    "readline": make_read,
    "readlines": _make_read_lines,
    "seek": _make_seek,
    "write": _make_write,
    "writelines": _make_write_lines,
}
"""Methods of a file that are replaced, with the functions that create the replacements."""


_BASES: Final[dict[type, type]] = {
    io.BufferedRandom: io.BufferedIOBase,
    io.BufferedReader: io.BufferedIOBase,
    io.BufferedWriter: io.BufferedIOBase,
    io.FileIO: io.RawIOBase,
}
"""Classes of files on disk, and those that a wrapped one has.

numpy reads and writes files of these classes by their descriptor, so nothing would be counted.
"""


class ProgressFile:
    """File that counts what is read and written. See :func:`wrap_file`.

    It has the methods of the file that it wraps. Those that read or write are attributes of the
    instance, so a method that the file does not have is missing here as well.
    """

    _methods: ClassVar[Mapping[str, Callable[[Callable[..., Any], Any, Any], Callable[..., Any]]]] = METHODS

    def __init__(self, file: Any, meter: Any) -> None:
        self._file = file
        self._meter = meter
        self._add_methods()

    def _add_methods(self) -> None:
        file, meter = self._file, self._meter
        for name, make in self._methods.items():
            method = getattr(file, name, None)
            if callable(method):
                vars(self)[name] = make(method, meter, file)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # Why: libraries check for text files and for files in memory by their class.
        kind = _get_class(self._file)
        return _BASES.get(kind, kind)

    def __getattr__(self, name: str) -> Any:
        if name in ("_file", "_meter"):  # before __init__
            raise AttributeError(name)
        return getattr(self._file, name)

    def __dir__(self) -> Iterable[str]:
        return dir(self._file)

    def __repr__(self) -> str:
        return f"<ProgressFile of {self._file!r}>"

    def __reduce_ex__(self, protocol: object) -> Any:
        kind = _get_class(self._file).__name__
        raise TypeError(
            f"cannot pickle a {kind!r} that wrap_file returned: "
            "pass the path, and open and wrap the file in the other process"
        )

    def __iter__(self) -> Iterator[Any]:
        return iterate_file(iter(self._file), self._meter, self)

    def __next__(self) -> Any:
        # Why not iterate_file: the iterator of a file is the file itself.
        try:
            line = next(self._file)
        except StopIteration:
            self._meter.finish()
            raise
        except BaseException as error:
            self._meter.fail(error)
            raise
        count_data(self._meter, line)
        return line

    def __enter__(self) -> Any:
        entered = self._file.__enter__()
        if entered is not self._file:
            self._file = entered
            self._add_methods()
        return self

    def __exit__(self, *details: Any) -> Any:
        try:
            result = self._file.__exit__(*details)
        except BaseException as error:
            self._meter.end(error)
            raise
        self._meter.end(None if result else details[1])
        return result


# --- properties of files -------------------------------------------------------------------------


def _get_class(value: object) -> type:
    return value.__class__


def get_position(file: Any) -> int | None:
    """Return the position of a file. None if it has none."""
    try:
        position = file.tell()
    except Exception:  # A foreign object may raise any exception.
        return None
    return position if isinstance(position, int) else None


def _is_writable(file: Any) -> bool:
    try:
        return bool(file.writable())
    except Exception:  # A foreign object may have no such method, or raise any exception.
        return not hasattr(file, "read")


def _get_remaining_size(file: Any) -> int | None:
    """Return the number of bytes from the position of a file to its end.

    None if it is unknown. Nothing is read, and a compressed file has no known size.
    """
    try:
        if not file.readable():
            return None
        position = getattr(file, "buffer", file).tell()
        size = _get_size(file)
    except Exception:  # A foreign object may raise any exception.
        return None
    return size - position if type(size) is int and 0 <= position < size else None


def _get_size(file: Any) -> int | None:
    if isinstance(file, io.BytesIO):
        return file.getbuffer().nbytes
    if isinstance(file, io.StringIO):
        position = file.tell()
        try:
            return file.seek(0, os.SEEK_END)
        finally:
            file.seek(position)
    # Why not file.fileno(): that of a compressed file is the file with fewer bytes.
    raw = getattr(file, "file", file)
    raw = getattr(raw, "buffer", raw)
    raw = getattr(raw, "raw", raw)
    if isinstance(raw, io.FileIO):
        status = os.fstat(raw.fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    # Files of fsspec and others have a size.
    return cast("int | None", getattr(file, "size", getattr(raw, "size", None)))


def _get_data_size(data: Any) -> int | None:
    """Return the number of bytes of a buffer, or the length of another object.

    None without a length.
    """
    try:
        return memoryview(data).nbytes
    except Exception:  # A foreign object may raise any exception.
        pass
    try:
        return len(data)
    except Exception:  # A foreign object may raise any exception.
        return None


def _get_encoded_size(text: str, encoding: str) -> int:
    try:
        return len(text.encode(encoding, "replace"))
    except LookupError:
        return len(text)
