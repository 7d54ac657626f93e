"""Other users of a terminal: child processes, prompts and other displays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Final, TextIO

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


TQDM_ACTIVE_S: Final = 5.0
"""Time after its last output for which a bar of tqdm has the terminal, in seconds.

A bar that was never closed does not hide other bars permanently.
"""


_MAX_THREADS: Final = 200
"""Threads whose child processes are checked. With more of them, each child counts."""


_INPUT_FLAGS: Final = 0
_LOCAL_FLAGS: Final = 3
"""Positions in the attributes of a terminal."""


class TerminalSharing:
    """Other users of the terminal of ``stream``.

    Nothing is detected if it is not a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._device = _find_device(stream)
        flags = self._read_flags()
        self._has_echo = flags is None or bool(flags[1] & termios.ECHO)

    @property
    def is_terminal(self) -> bool:
        """True if the stream is a terminal of the system."""
        return self._device is not None

    def is_occupied(self) -> bool:
        """Return whether another program or library has the terminal.

        That is an editor of lines such as readline, a full-screen program, the prompt for a
        password, or a display of rich or tqdm in this process.
        """
        if self._device is None:
            return False
        return self._is_reading_keys() or _is_rich_drawing() or _is_tqdm_drawing(self._stream)

    def has_child_processes(self) -> bool:
        """Return whether a child process may write to the terminal."""
        if self._device is None or not hasattr(os, "waitid"):
            return False
        try:
            # Does not reap the child. Raises an error without children.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            return False
        children = _list_child_processes()
        return children is None or any(self._is_on_terminal(pid) for pid in children)

    def _is_on_terminal(self, pid: int) -> bool:
        """Return whether stdout or stderr of a process is the terminal."""
        for descriptor in (1, 2):
            try:
                if os.stat(f"/proc/{pid}/fd/{descriptor}").st_rdev == self._device:  # noqa: PTH116 - faster
                    return True
            except PermissionError:
                # A process of another user, such as sudo, or one that has ended.
                return not _has_ended(pid)
            except OSError:
                continue
        return False

    def _is_reading_keys(self) -> bool:
        """Return whether a program reads keys without echo or without editing."""
        flags = self._read_flags()
        if flags is None:
            return False
        input_flags, local_flags = flags
        if local_flags & termios.ICANON:
            # Why the first state: a terminal may be used without echo permanently.
            return self._has_echo and not local_flags & termios.ECHO
        # Why ICRNL: without it every key is read, as by readline and full-screen programs. A
        # program that only waits for single keys leaves it on, and the bars stay useful.
        return not input_flags & termios.ICRNL or self.has_child_processes()

    def _read_flags(self) -> tuple[int, int] | None:
        if termios is None or self._device is None:
            return None
        try:
            attributes = termios.tcgetattr(self._stream.fileno())
        except (OSError, ValueError, AttributeError, termios.error):
            return None
        return attributes[_INPUT_FLAGS], attributes[_LOCAL_FLAGS]


class ProcessHooks:
    """Calls functions before output that no stream object of this process receives.

    ``before_start`` is called before this process starts another one, except by a fork,
    ``before_exec`` before another program replaces it, and ``before_write`` before ``os.write``
    to stdout or stderr.
    """

    def __init__(
        self,
        before_start: Callable[[], object],
        before_exec: Callable[[], object],
        before_write: Callable[[], object],
    ) -> None:
        self._before_start = before_start
        self._before_exec = before_exec
        self._before_write = before_write
        self._patches: list[AttributePatch] = []

    def add(self) -> None:
        """Add the hooks."""
        # Why a function that Popen calls: a hooked Popen would be in the tracebacks of its errors.
        self._add(subprocess, "_cleanup", self._before_start)
        for name in ("system", "posix_spawn", "posix_spawnp"):
            self._add(os, name, self._before_start)
        for name in ("execv", "execve"):
            self._add(os, name, self._before_exec)
        self._add(os, "write", self._before_write, lambda descriptor=0, *_: descriptor in (1, 2))

    def remove(self) -> None:
        """Restore the functions."""
        for patch in reversed(self._patches):
            patch.remove()
        self._patches = []

    def _add(
        self,
        owner: Any,
        name: str,
        notify: Callable[[], object],
        is_relevant: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:
        patch = AttributePatch(owner, name)

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(original)
            def call(*arguments: Any, **keywords: Any) -> Any:
                if patch.is_active and is_relevant(*arguments):
                    try:
                        notify()
                    except Exception:
                        report_internal_error("console", "The bars could not be removed from the terminal")
                return original(*arguments, **keywords)

            return call

        if patch.apply(make):
            self._patches.append(patch)


def is_same_terminal(candidate: Any, stream: TextIO) -> bool:
    """Return whether two streams are the same terminal."""
    try:
        return bool(
            candidate.isatty() and os.fstat(candidate.fileno()).st_rdev == os.fstat(stream.fileno()).st_rdev
        )
    except (OSError, ValueError, AttributeError):
        return False


def _find_device(stream: TextIO) -> int | None:
    try:
        return os.fstat(stream.fileno()).st_rdev if os.isatty(stream.fileno()) else None
    except (OSError, ValueError, AttributeError):
        return None


def _list_child_processes() -> list[int] | None:
    """Return the process ids of the children, None if they are unknown."""
    try:
        return list(_iterate_child_processes())
    except (OSError, ValueError):
        return None


def _iterate_child_processes() -> Iterator[int]:
    threads = os.listdir("/proc/self/task")  # noqa: PTH208 - faster
    if len(threads) > _MAX_THREADS:
        raise OSError
    for thread in threads:
        try:
            text = Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii")
        except ProcessLookupError:  # the thread has ended
            continue
        except FileNotFoundError:
            if Path(f"/proc/self/task/{thread}").exists():
                raise  # this kernel has no such files
            continue
        yield from map(int, text.split())


def _has_ended(pid: int) -> bool:
    """Return whether a child process has ended, and only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def _is_rich_drawing() -> bool:
    """Return whether a display of rich is active in this process."""
    rich = sys.modules.get("rich")
    console = getattr(rich, "_console", None)
    if getattr(console, "_live_stack", None) or getattr(console, "_live", None):
        return True
    # A display of another console replaces these streams.
    return any(type(stream).__name__ == "FileProxy" for stream in (sys.stdout, sys.stderr))


def _is_tqdm_drawing(stream: TextIO) -> bool:
    """Return whether a bar of tqdm has written to the terminal recently."""
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    try:
        bars = list(getattr(tqdm, "_instances", ()))
    except RuntimeError:  # another thread adds a bar
        return True
    return any(_is_bar_active(bar) and is_same_terminal(bar.fp, stream) for bar in bars)


def _is_bar_active(bar: Any) -> bool:
    try:
        # Why gui: such a bar counts, and another program shows it.
        is_shown = not bar.disable and not getattr(bar, "gui", False)
        return bool(is_shown and time.time() - bar.last_print_t < TQDM_ACTIVE_S)
    except Exception:  # a bar that is created or closed by another thread
        return False
