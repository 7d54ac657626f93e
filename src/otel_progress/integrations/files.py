"""Files that count the bytes which are read or written.

``shutil.copyfileobj(wrap_file(source), target)`` is followed without other changes.
"""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, TypeVar, cast

from otel_progress.diagnostics import log_warning
from otel_progress.integrations.transfer import Transfer, get_path_name

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
    """Return a file that counts the bytes which are read or written, as a level.

    ``file`` is an open file, binary or text, or another object with ``read`` or ``write``. The
    result has all its attributes, is an instance of its class for ``isinstance``, and may be used
    instead of it everywhere. Reads and writes of ``file`` itself, or by ``fileno()``, are not
    counted. ``name`` defaults to the name of the file. ``total`` is a number of bytes and defaults
    to the size of a file that is read, from its current position.

    The level is a child of the current level, or an operation. It is never the current level. It is
    completed at the end of a file that is only read, and by ``close()``. It fails if a read or
    write fails, or if an exception leaves the ``with`` block of the file. A byte counts once, even
    if it is read again after a ``seek``. Any thread may use the file as far as it may use ``file``.

    Without :func:`otel_progress.configure` the result is ``file`` itself. Never raises.
    """
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
    return cast(F, ProgressFile(file, make_meter(file, transfer)))


class FileMeter:
    """Counts the bytes of one file. After a seek, bytes that were counted do not count again."""

    __slots__ = ("_covered", "_file", "_sequence_start", "_transfer", "count")

    is_read_only = True
    """True if the file cannot be written."""

    def __init__(self, file: Any, transfer: Transfer) -> None:
        self._file = file
        self._transfer = transfer
        self._covered: CountedRanges | None = None
        """Counted ranges of positions. None before the first seek."""
        self._sequence_start: int | None = self.get_position() or 0
        """Position at which a sequence started beyond all counted ranges. None outside of one."""
        # Why an attribute: files are usually read in order, and need no position then.
        self.count: Callable[[int], None] = transfer.add
        """Counts bytes that were read or written before the current position."""

    def count_text(self, text: str) -> None:
        """Count a text that was read or written."""
        self.count(len(text))

    def get_position(self) -> int | None:
        """Return the position in bytes. None if the file has none."""
        return get_position(self._file)

    def seek_from(self, before: int | None) -> None:
        """Note a seek from the position ``before`` to the current one."""
        after = self.get_position()
        if before is None or after is None:
            return
        if self._covered is None:
            self._covered = CountedRanges()
        if self._sequence_start is not None:
            self._covered.add(self._sequence_start, before)
        if after >= self._covered.end:
            self._sequence_start, self.count = after, self._transfer.add
        else:
            self._sequence_start, self.count = None, self._count_new

    def _count_new(self, size: int) -> None:
        position = self.get_position()
        if position is None or self._covered is None:
            self._transfer.add(size)
            return
        self._transfer.add(self._covered.add(position - size, position))
        if position >= self._covered.end:
            self._sequence_start, self.count = position, self._transfer.add

    def finish(self) -> None:
        """End the level at the end of the file, unless a part was left out or may be written."""
        is_sequential = self.is_read_only and self._covered is None
        if is_sequential or self._transfer.has_reached_total:
            self.end(None)

    def fail(self, error: BaseException) -> None:
        """End the level after a read or write raised, unless the caller may try again."""
        if isinstance(error, Exception) and not isinstance(error, _RETRYABLE):
            self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the level."""
        self.count = self._transfer.add  # without a reference cycle
        self._transfer.end(error)


class WritableFileMeter(FileMeter):
    """Counts a file that is written."""

    __slots__ = ()

    is_read_only = False


class EncodedTextMeter(FileMeter):
    """Counts a text file that is written, or has no position, by the size of its encoded text.

    A range counts each time that it is read or written.
    """

    __slots__ = ("_encoding", "is_read_only")

    def __init__(self, file: Any, transfer: Transfer, *, is_read_only: bool) -> None:
        super().__init__(file, transfer)
        self._encoding = str(getattr(file, "encoding", None) or "")
        self.is_read_only = is_read_only

    def count_text(self, text: str) -> None:
        """Count a text with the size of its encoding."""
        self.count(_get_encoded_size(text, self._encoding))

    def get_position(self) -> int | None:
        """Return None. Why: ``tell`` writes the buffer of a text file."""
        return None


SAMPLE_CHARACTERS: Final = 8192
"""Characters of a text file between two readings of its position. It is the size that a text file
reads at once, so a smaller number is not more exact.
"""


class TextFileMeter(FileMeter):
    """Counts a text file that is read, by the position of the binary file below it."""

    __slots__ = ("_pending", "_position")

    def __init__(self, file: Any, transfer: Transfer) -> None:
        super().__init__(file, transfer)
        self._position = self._sequence_start or 0
        self._pending = 0

    def get_position(self) -> int | None:
        """Return the position up to which the text file has read ahead."""
        return get_position(self._file.buffer)

    def count_text(self, text: str) -> None:
        """Count a text that was read."""
        self._pending += len(text)
        if self._pending >= SAMPLE_CHARACTERS:
            self._count_read()

    def _count_read(self) -> None:
        self._pending = 0
        position = self.get_position()
        if position is not None and position > self._position:
            added = position - self._position
            if self._covered is not None:
                added = self._covered.add(self._position, position)
            self._transfer.add(added)
            self._position = position

    def seek_from(self, before: int | None) -> None:  # noqa: ARG002 - the seek has read ahead
        """Note a seek. The range up to the last reading of the position is counted."""
        if self._covered is None:
            self._covered = CountedRanges()
            self._covered.add(self._sequence_start or 0, self._position)
        self._position = self.get_position() or 0

    def finish(self) -> None:
        """Count the rest of the file, and end the level."""
        self._count_read()
        super().finish()


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


def count_data(meter: Any, data: Any) -> None:
    """Count data of a file: a text, or bytes."""
    if isinstance(data, str):
        meter.count_text(data)
    else:
        meter.count(_get_data_size(data))


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
        if not data:
            if data is not None and 0 not in args and 0 not in options.values():
                meter.finish()
        elif type(data) is bytes:
            meter.count(len(data))
        else:
            count_data(meter, data)
        return data

    return read


def _make_read_all(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    """Return a method like that of :func:`make_read`, which reads the whole file without a size."""

    # Why not with make_read: each call would cost 150 ns more.
    def read(*args: Any, **options: Any) -> Any:
        try:
            data = method(*args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if type(data) is bytes and data:
            meter.count(len(data))
        elif data:
            count_data(meter, data)
        if args:
            size = args[0]
            is_at_end = size is None or size < 0 or (size != 0 and data is not None and not data)
        else:
            is_at_end = not options or not (data or data is None or 0 in options.values())
        if is_at_end:
            meter.finish()
        return data

    return read


def _make_read_into(method: Callable[..., Any], meter: Any, file: Any) -> Callable[..., Any]:  # noqa: ARG001
    def read_into(buffer: Any, /, *args: Any, **options: Any) -> Any:
        try:
            size = method(buffer, *args, **options)
        except BaseException as error:
            meter.fail(error)
            raise
        if size:
            meter.count(size)
        elif size is not None and len(buffer):
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
        for line in lines:
            count_data(meter, line)
        if not args or args[0] is None or args[0] <= 0:
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
        return _get_class(self._file)

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
    """Return the number of bytes from the position of a file that is read to its end.

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


def _get_data_size(data: Any) -> int:
    """Return the number of bytes of bytes or another buffer."""
    try:
        return data.nbytes if isinstance(data, memoryview) else memoryview(data).nbytes
    except (TypeError, ValueError, BufferError):
        return len(data) if hasattr(data, "__len__") else 0


def _get_encoded_size(text: str, encoding: str) -> int:
    if text.isascii() and not encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32")):
        return len(text)
    try:
        return len(text.encode(encoding or "utf-8", "surrogatepass" if not encoding else "replace"))
    except LookupError:
        return len(text)
