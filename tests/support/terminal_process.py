"""A program on a terminal of its own, with keys to press and text to wait for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.command_line import TIMEOUT_S


class TerminalProcess:
    """Context manager with a program that has a terminal as its input and output."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path,
        *,
        columns: int = 80,
        rows: int = 24,
    ) -> None:
        self.output = b""
        self._seen = 0
        self.pid, self._main = pty.fork()
        if self.pid == 0:  # pragma: no cover
            os.chdir(cwd)
            os.execvpe(command[0], list(command), dict(environ))
        self.resize(columns, rows)

    def __enter__(self) -> TerminalProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._main)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type keys."""
        os.write(self._main, keys.encode())

    def wait_for(self, text: str) -> str:
        """Wait for a text after the last one that was waited for. Return what precedes it."""
        deadline = time.monotonic() + TIMEOUT_S
        while text.encode() not in self.output[self._seen :]:
            assert time.monotonic() < deadline, (text, self.output[-2000:])
            if not self._read(0.2):
                assert text.encode() in self.output[self._seen :], (text, self.output[-2000:])
        start = self._seen
        end = self.output.index(text.encode(), start)
        self._seen = end + len(text.encode())
        return self.output[start:end].decode("utf-8", "replace")

    def finish(self) -> int:
        """Wait for the end and return the exit code, negative for a signal."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(0.2):
            assert time.monotonic() < deadline, self.output[-2000:]
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def get_mode(self) -> list[int]:
        """Return the flags of the terminal."""
        return termios.tcgetattr(self._main)[:4]

    def _read(self, timeout_s: float) -> bool:
        """Read what there is. Return False at the end."""
        readable, _, _ = select.select([self._main], (), (), timeout_s)
        if not readable:
            return True
        try:
            chunk = os.read(self._main, 65_536)
        except OSError:  # the end of a terminal on Linux
            return False
        self.output += chunk
        return bool(chunk)
