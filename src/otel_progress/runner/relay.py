"""Relays of the output and the input of a command, which copy all bytes at once."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from collections.abc import Callable
from typing import Final

CHUNK_BYTES: Final = 65_536
"""Bytes that are read at once."""


MAX_DRAINED_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are copied after the end of the command. A process that the command left running can
write further ones, which are lost.
"""


class OutputRelay:
    """Thread that copies one output of a command to a descriptor of this process.

    ``observe`` receives each chunk after it was written. It must not raise. The thread closes the
    source. If the receiver of a pipe is closed, the source is closed at once, so the command
    receives SIGPIPE as without this process. If a terminal is closed, ``is_broken`` is set and the
    output is dropped.
    """

    def __init__(
        self,
        source: int,
        target: int,
        observe: Callable[[bytes], None],
        *,
        is_terminal: bool = False,
    ) -> None:
        self._source = source
        self._target = target
        self._observe = observe
        self._is_terminal = is_terminal
        self.is_broken = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._is_draining = False
        self._thread = threading.Thread(target=self._run, name="otel-progress output", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def drain(self) -> None:
        """Copy what the command has written, then end. Returns at once."""
        self._is_draining = True
        with contextlib.suppress(OSError):
            os.write(self._wake_writer, b"x")

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread. Return False after ``timeout_s`` seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._copy()
        finally:
            for descriptor in (self._source, self._wake_reader, self._wake_writer):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def _copy(self) -> None:
        drained = 0
        while True:
            if self._is_draining:
                if drained >= MAX_DRAINED_BYTES or not _wait_readable(self._source, None):
                    return
            elif not _wait_readable(self._source, self._wake_reader):
                continue
            chunk = _read_chunk(self._source)
            if not chunk:
                return
            if self._is_draining:
                drained += len(chunk)
            if not self.is_broken and not write_all(self._target, chunk):
                self.is_broken = True
                if not self._is_terminal:
                    return
            self._observe(chunk)


class InputRelay:
    """Thread that copies the keyboard to the terminal of a command."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        # Why a copy: the thread may still write to it when the terminal is closed.
        self._target = os.dup(target)
        self._wake_reader, self._wake_writer = os.pipe()
        self._is_active = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="otel-progress keyboard", daemon=True)

    def start(self) -> None:
        """Start the thread. It copies only while it is active."""
        self._thread.start()

    def set_active(self, is_active: bool) -> None:
        """Start or stop copying. A process in the background must not read the keyboard."""
        if is_active == self._is_active.is_set():
            return
        if is_active:
            self._is_active.set()
        else:
            self._is_active.clear()
            self._wake()

    def close(self) -> None:
        """End the thread without reading further keys."""
        self._is_closed = True
        self._is_active.set()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_writer, b"x")

    def _run(self) -> None:
        while not self._is_closed:
            self._is_active.wait()
            if not _wait_readable(self._source, self._wake_reader):
                with contextlib.suppress(OSError):
                    os.read(self._wake_reader, CHUNK_BYTES)
                continue
            if self._is_closed or not self._is_active.is_set():
                continue
            keys = _read_chunk(self._source)
            if not keys or not write_all(self._target, keys):
                return


def write_all(target: int, data: bytes) -> bool:
    """Write all bytes. Return False if the receiver is closed or failed."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            # Why: another process that shares the descriptor may have made it non-blocking.
            select.select((), [target], (), 1.0)
        except OSError:
            return False
    return True


def _read_chunk(source: int) -> bytes:
    """Return the next bytes, or an empty chunk at the end."""
    try:
        return os.read(source, CHUNK_BYTES)
    except OSError as error:
        # Why EIO: it is the end of a terminal on Linux.
        if error.errno not in (errno.EIO, errno.EBADF):
            raise
        return b""


def _wait_readable(source: int, wake: int | None) -> bool:
    """Wait until ``source`` can be read, and return True.

    Return False when ``wake`` can be read instead. Without it, return at once.
    """
    poll = select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP | select.POLLERR)
    if wake is not None:
        poll.register(wake, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(None if wake is not None else 0)}
    return source in ready
