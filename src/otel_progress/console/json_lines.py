"""JSON lines of progress on stderr or on a file descriptor."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from otel_progress.codec import dumps
from otel_progress.console.records import Document
from otel_progress.console.streams import get_encoding, write_stream
from otel_progress.errors import UnavailableError
from otel_progress.fork import ForkPhase, on_fork

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WRITE_WAIT_S: Final = 1.0
"""Time to wait for a reader that is too slow, in seconds. After it, the line is dropped."""


_STANDARD_DESCRIPTORS: Final = (1, 2)


class StreamJsonWriter:
    """Writes each record as one JSON line to a text stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write_record(self, severity: int, text: str, document: Document) -> None:
        """Write and flush one line. Raises OSError or ValueError if the stream is closed."""
        del severity, text
        line = dumps(document)
        encoding = get_encoding(self._stream) or "utf-8"
        write_stream(self._stream, line.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def close(self) -> None:
        """Do nothing: the stream belongs to the program."""


class DescriptorJsonWriter:
    """Writes each record as one JSON line to a copy of a file descriptor.

    A line that a slow reader does not accept in ``WRITE_WAIT_S`` is dropped and counted. Raises
    UnavailableError if the descriptor is not open for writing.
    """

    def __init__(self, descriptor: int, environ: Mapping[str, str] = os.environ) -> None:
        _check_descriptor(descriptor, environ)
        # Why a copy: the program may close the descriptor and open another file with its number.
        self._descriptor: int | None = os.dup(descriptor)
        self._dropped = 0
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=DescriptorJsonWriter.close)

    def write_record(self, severity: int, text: str, document: Document) -> None:
        """Write one line. Raises OSError if the reader has closed its end."""
        del severity, text
        if self._descriptor is None:
            return
        if not _wait_until_writable(self._descriptor, WRITE_WAIT_S):
            self._dropped += 1
            return
        if self._dropped:
            document = {**document, "dropped": self._dropped}
        data = dumps(document).encode("utf-8", "backslashreplace") + b"\n"
        with _ignore_broken_pipe():
            while data:
                data = data[os.write(self._descriptor, data) :]
        self._dropped = 0

    def close(self) -> None:
        """Close the copy of the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


def make_json_writer(
    descriptor: int | None, stream: TextIO | None = None
) -> StreamJsonWriter | DescriptorJsonWriter | None:
    """Return a writer to a descriptor, or without one to ``stream`` (default: stderr).

    None if there is no stream.
    """
    if descriptor is not None:
        return DescriptorJsonWriter(descriptor)
    target = stream if stream is not None else sys.stderr
    return None if target is None else StreamJsonWriter(target)


def _check_descriptor(descriptor: int, environ: Mapping[str, str]) -> None:
    expected = (
        f"Invalid console json:{descriptor}: expected a file descriptor that is open for writing. "
        f"Open it before the program starts, for example with {descriptor}>progress.jsonl."
    )
    try:
        os.fstat(descriptor)
        mode = os.O_RDWR if fcntl is None else fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        is_inherited = os.get_inheritable(descriptor)
    except (OSError, OverflowError):
        raise UnavailableError(expected) from None
    # Why: a child process inherits the variable but not the descriptor. The number may then be that
    # of a file of the program, which the lines would damage. Python opens no inheritable files.
    is_from_environ = environ.get("OTEL_PROGRESS_CONSOLE", "").strip().lower() == f"json:{descriptor}"
    is_foreign = is_from_environ and not is_inherited and descriptor not in _STANDARD_DESCRIPTORS
    if mode == os.O_RDONLY or is_foreign:
        raise UnavailableError(expected)


def _wait_until_writable(descriptor: int, timeout_s: float) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # An error, such as a closed pipe, is an event as well. The write reports it.
    return bool(poll.poll(1000.0 * timeout_s))


@contextmanager
def _ignore_broken_pipe() -> Iterator[None]:
    """Prevent that a broken pipe kills a program with the system's handler of SIGPIPE.

    The write raises BrokenPipeError instead.
    """
    if not hasattr(signal, "pthread_sigmask") or signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in mask:
            if signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
