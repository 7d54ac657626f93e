"""A block of lines at the bottom of a terminal that is redrawn in place, while everything else is written above it.

The streams that reach the same terminal (``sys.stdout``, ``sys.stderr``) are not replaced: their ``write`` is hooked on the
object itself while a block is on screen. So a logging handler that kept an older reference comes out as well as ``print``, nobody
who swaps ``sys.stdout`` is disturbed, a ``print`` costs two short writes and no rendering, and what goes to a file stays there.
A line begun without its end (``print("Loading…", end="")``) is continued where it stood.

The cursor is hidden only within the one write that draws a frame, so no way of dying leaves it hidden.
"""

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

from otel_progress.fork import ForkPhase, on_fork

_FRAME_START: Final = "\x1b[?25l\x1b[?7l"
"""Hide the cursor, and do not wrap lines: a character that is wider than thought cannot break the block."""


_FRAME_END: Final = "\x1b[?7h\x1b[?25h"


_CLEAR_LINE: Final = "\x1b[K"


_CLEAR_BELOW: Final = "\x1b[J"


_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m")


_MAX_PARTIAL_LINE_CHARS: Final = 1024


_FALLBACK_SIZE: Final = (80, 24)


class Region:
    """The block. ``stream`` is a text stream on a terminal; all methods may be called from any thread."""

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
        """Columns and rows of the terminal now."""
        return self._size()

    def is_ready(self) -> bool:
        """Return whether the terminal takes output; one stopped by Ctrl-S would hold up whoever writes."""
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # no file descriptor, or a platform that selects sockets only
            return True

    def draw(self, lines: Sequence[tuple[str, int]], above: Sequence[str] = ()) -> None:
        """Write ``above`` for good and replace the block by ``lines`` (text with colours, and its cells); none takes it away.

        Raises OSError or ValueError when the terminal is gone.
        """
        with self._lock:
            if not lines and not above and not self._cells:
                self.release()
                return
            if lines and not self._hooks:
                self._hooks = [_Hook(self, stream) for stream in _find_terminal_streams(self._stream)]
            for hook in self._hooks:
                hook.flush()
            rows = self._rows()
            frame = [_FRAME_START, self._to_top()]
            if above:
                self._partial_line = ""  # what was begun above can no longer be continued
            frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line in above)
            frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line, _ in lines)
            frame.append(_CLEAR_BELOW if lines or above else _clear_rows(rows))
            if not lines and self._partial_line:
                frame.append(_return_to_line(self._partial_line))
            self._cells = [cells for _, cells in lines]
            self._width = self.size[0]
            self._put("".join((*frame, _FRAME_END)))
            if not lines:
                self.release()

    def release(self) -> None:
        """Leave on the screen what is there and let go of the streams."""
        with self._lock:
            self._cells = []
            self._partial_line = ""
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def write_above(self, write: Callable[[str], int], text: str) -> int:
        """Write somebody else's ``text`` above the block: it is taken away here and comes back with the next frame."""
        with self._lock:
            if self._cells and text:
                with contextlib.suppress(
                    OSError, ValueError
                ):  # their write meets the same fate and tells them
                    self._put(
                        f"{self._to_top()}{_clear_rows(self._rows())}{_return_to_line(self._partial_line)}"
                    )
                self._cells = []
            result = write(text)
            if self._hooks:
                begun = text.rpartition("\n")[2] if "\n" in text else self._partial_line + text
                self._partial_line = "\r".join(begun.split("\r")[-2:])[-_MAX_PARTIAL_LINE_CHARS:]
            return result

    def reset_in_child(self) -> None:
        """Let go of the streams in a forked child, where a thread that no longer exists may hold the lock."""
        self._lock = RLock()
        self.release()

    def _to_top(self) -> str:
        """Return what brings the cursor to where the block begins; a line begun there is ended unless it can be continued."""
        if self._cells:
            return f"\r\x1b[{self._rows()}A"
        if not self._partial_line:
            return ""
        if not _can_continue_line(self._partial_line, self.size[0]):
            self._partial_line = ""
        return "\r\n"

    def _rows(self) -> int:
        """Rows the block takes now; a terminal made narrower since has wrapped its lines."""
        width = self.size[0]
        if width >= self._width:
            return len(self._cells)
        return sum(max(1, -(-cells // width)) for cells in self._cells)

    def _put(self, text: str) -> None:
        encoding = self._stream.encoding or "ascii"
        text = text.encode(encoding, "replace").decode(encoding)
        hook = next((hook for hook in self._hooks if hook.stream is self._stream), None)
        (hook.original if hook else self._stream.write)(text)
        self._stream.flush()


class _Hook:
    """The hooked ``write`` and ``writelines`` of one stream."""

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
        """Send on what others have written; a stream that was closed has nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def remove(self) -> None:
        """Undo the hook, unless somebody has hooked the stream after us: theirs calls ours, which then only passes on."""
        if vars(self.stream).get("write") is self._write:
            vars(self.stream).pop("write", None)
            vars(self.stream).pop("writelines", None)


def get_terminal_size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of the terminal behind ``stream``; 80 and 24 when it does not say."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return _FALLBACK_SIZE
    return columns or _FALLBACK_SIZE[0], rows or _FALLBACK_SIZE[1]


def _can_continue_line(begun: str, width: int) -> bool:
    """Return whether the end of a begun line can be found again: no control characters, and one row."""
    bare = _COLOURS.sub("", begun)
    return all(piece.isprintable() and cell_len(piece) < width for piece in bare.split("\r"))


def _clear_rows(rows: int) -> str:
    """Return what empties ``rows`` lines and comes back. Line by line: tmux scrolls away a screen cleared from its top."""
    return f"{_CLEAR_LINE}\r\n" * rows + f"\x1b[{rows}A" if rows else ""


def _return_to_line(begun: str) -> str:
    """Return what brings the cursor from the line below back to the end of a begun line."""
    if not begun:
        return ""
    column = cell_len(_COLOURS.sub("", begun).rpartition("\r")[2])
    return "\x1b[1A\r" + (f"\x1b[{column}C" if column else "")


def _find_terminal_streams(stream: TextIO) -> list[TextIO]:
    """Return the streams of this process that reach the terminal of ``stream`` and can be hooked."""
    found: list[TextIO] = []
    for candidate in (stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if candidate is None or any(candidate is known for known in found):
            continue
        if (candidate is stream or _is_same_terminal(candidate, stream)) and hasattr(candidate, "__dict__"):
            found.append(candidate)
    return found


def _is_same_terminal(one: TextIO, other: TextIO) -> bool:
    try:
        return one.isatty() and os.fstat(one.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
    except (OSError, ValueError, AttributeError):
        return False
