"""Block of lines at the bottom of a terminal, redrawn below all other output.

While a block is on screen, ``write`` is hooked on the stream objects of the same terminal, such as
``sys.stdout`` and ``sys.stderr``. Output to files is not changed. A partial line, such as
``print("Loading…", end="")``, continues at its place.
"""

# Why hooks: replacing sys.stdout would miss logging handlers that hold the old stream, and would
# conflict with programs that replace it themselves. A hooked print costs two short writes.
# Why the cursor is hidden only within one write: a process that is killed never leaves it hidden.

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any, Final, TextIO

from rich.cells import cell_len

from otel_progress.console.streams import flush_stream, get_encoding
from otel_progress.fork import ForkPhase, on_fork

_FRAME_START: Final = "\x1b[?25l\x1b[?7l"
"""Hides the cursor and disables line wrapping. A character of unknown width then keeps the block
intact.
"""


_FRAME_END: Final = "\x1b[?7h\x1b[?25h"


_CLEAR_LINE: Final = "\x1b[K"


_CLEAR_BELOW: Final = "\x1b[J"


_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m")


_MAX_PARTIAL_LINE_CHARS: Final = 1024
"""Characters of a partial line that are remembered, the last."""


_FALLBACK_SIZE: Final = (80, 24)


class Region:
    """Block of lines on the terminal of ``stream``. All methods are thread-safe."""

    def __init__(self, stream: TextIO, *, size: Callable[[], tuple[int, int]] | None = None) -> None:
        self._stream = stream
        self._size = size or (lambda: get_terminal_size(stream))
        self._lock = RLock()
        self._cells: list[int] = []
        self._width = 0
        self._partial_line = ""
        self._hooks: list[_Hook] = []
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=Region.reset_in_child)

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and rows of the terminal."""
        return self._size()

    def is_ready(self) -> bool:
        """Return whether the terminal accepts output. A write would block after Ctrl-S."""
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (OSError, ValueError, AttributeError):
            # There is no file descriptor, or the platform can select only sockets.
            return True

    def draw(self, lines: Sequence[tuple[str, int]], above: Sequence[str] = ()) -> None:
        """Write ``above`` permanently and replace the block by ``lines``.

        Without ``lines`` the block is removed. A line is its text with colours and its width in
        cells. Raises OSError or ValueError if the terminal is closed.
        """
        with self._lock:
            if not lines and not above and not self._cells:
                self.release()
                return
            if lines and not self._hooks:
                self._hooks = [_Hook(self, stream) for stream in _find_terminal_streams(self._stream)]
            for hook in self._hooks:
                hook.flush()
            rows = self._count_rows()
            frame = [_FRAME_START, self._move_to_top()]
            if above:
                self._partial_line = ""  # it can no longer be continued
            frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line in above)
            frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line, _ in lines)
            frame.append(_CLEAR_BELOW if lines or above else _clear_rows(rows))
            if not lines and self._partial_line:
                frame.append(_return_to_line(self._partial_line))
            self._cells = [cells for _, cells in lines]
            self._width = self.size[0]
            self._write_to_terminal("".join((*frame, _FRAME_END)))
            if not lines:
                self.release()

    def release(self) -> None:
        """Keep the current lines on the screen and remove the hooks of the streams."""
        with self._lock:
            self._cells = []
            self._partial_line = ""
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def write_above(self, write: Callable[[str], int], text: str) -> int:
        """Write ``text`` of the program above the block.

        Removes the block. The next frame draws it again.
        """
        with self._lock:
            if self._cells and text:
                # Why: the write of the program below fails in the same way and raises.
                with contextlib.suppress(OSError, ValueError):
                    self._write_to_terminal(
                        f"{self._move_to_top()}{_clear_rows(self._count_rows())}{_return_to_line(self._partial_line)}"
                    )
                self._cells = []
            result = write(text)
            if self._hooks:
                partial_line = text.rpartition("\n")[2] if "\n" in text else self._partial_line + text
                self._partial_line = "\r".join(partial_line.split("\r")[-2:])[-_MAX_PARTIAL_LINE_CHARS:]
            return result

    def reset_in_child(self) -> None:
        """Remove the hooks in a forked child.

        Uses a new lock, because a lost thread may hold the old one.
        """
        self._lock = RLock()
        self.release()

    def _move_to_top(self) -> str:
        """Return the escape sequence to the start of the block.

        Ends a partial line that cannot be continued.
        """
        if self._cells:
            return f"\r\x1b[{self._count_rows()}A"
        if not self._partial_line:
            return ""
        if not _can_continue_line(self._partial_line, self.size[0]):
            self._partial_line = ""
        return "\r\n"

    def _count_rows(self) -> int:
        """Rows of the block on screen.

        A terminal that became narrower has wrapped its lines.
        """
        width = self.size[0]
        if width >= self._width:
            return len(self._cells)
        return sum(max(1, -(-cells // width)) for cells in self._cells)

    def _write_to_terminal(self, text: str) -> None:
        encoding = get_encoding(self._stream) or "ascii"
        text = text.encode(encoding, "replace").decode(encoding)
        hook = next((hook for hook in self._hooks if hook.stream is self._stream), None)
        (hook.original if hook else self._stream.write)(text)
        flush_stream(self._stream)


class _Hook:
    """Hooked ``write`` and ``writelines`` of one stream."""

    def __init__(self, region: Region, stream: TextIO) -> None:
        self.stream = stream
        self.original: Callable[[str], int] = stream.write

        def write(text: str, /) -> int:
            return region.write_above(self.original, text)

        def writelines(lines: Any, /) -> None:
            for line in lines:
                write(line)

        self._write = write
        vars(stream).update(write=write, writelines=writelines)

    def flush(self) -> None:
        """Flush the output of the program. A closed stream is ignored."""
        with contextlib.suppress(OSError, ValueError):
            flush_stream(self.stream)

    def remove(self) -> None:
        """Remove the hook, unless another hook was added later.

        That one calls this hook, which then only forwards.
        """
        if vars(self.stream).get("write") is self._write:
            vars(self.stream).pop("write", None)
            vars(self.stream).pop("writelines", None)


def get_terminal_size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of the terminal of ``stream``. 80 and 24 if unknown."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return _FALLBACK_SIZE
    return columns or _FALLBACK_SIZE[0], rows or _FALLBACK_SIZE[1]


def _can_continue_line(partial_line: str, width: int) -> bool:
    """Return whether a partial line has one row and no control characters.

    The cursor can then return to it.
    """
    plain = _COLOURS.sub("", partial_line)
    return all(part.isprintable() and cell_len(part) < width for part in plain.split("\r"))


def _clear_rows(rows: int) -> str:
    """Return the escape sequence that clears ``rows`` lines and returns to the first."""
    # Why line by line: tmux scrolls away a screen that is cleared from its top.
    return f"{_CLEAR_LINE}\r\n" * rows + f"\x1b[{rows}A" if rows else ""


def _return_to_line(partial_line: str) -> str:
    """Return the escape sequence from the line below to the end of a partial line."""
    if not partial_line:
        return ""
    column = cell_len(_COLOURS.sub("", partial_line).rpartition("\r")[2])
    return "\x1b[1A\r" + (f"\x1b[{column}C" if column else "")


def _find_terminal_streams(stream: TextIO) -> list[TextIO]:
    """Return the hookable streams of this process on the terminal of ``stream``."""
    streams: list[TextIO] = []
    for candidate in (stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if candidate is None or any(candidate is known for known in streams):
            continue
        if (candidate is stream or _is_same_terminal(candidate, stream)) and hasattr(candidate, "__dict__"):
            streams.append(candidate)
    return streams


def _is_same_terminal(candidate: TextIO, stream: TextIO) -> bool:
    try:
        return (
            candidate.isatty() and os.fstat(candidate.fileno()).st_rdev == os.fstat(stream.fileno()).st_rdev
        )
    except (OSError, ValueError, AttributeError):
        return False
