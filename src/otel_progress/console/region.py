"""Block of lines below the cursor of a terminal, redrawn in place.

While a block is on screen, ``write`` and ``flush`` are hooked on the stream objects of the same
terminal, such as ``sys.stdout`` and ``sys.stderr``. Output to files is not changed.
"""

# Why below the cursor: other writers, such as a prompt, a C extension or the echo of typed text,
# are not hooked. They write at the cursor, so their text never lands on rows that a frame erases.
# A frame needs no memory of where the cursor was, so it is also correct after Ctrl-Z and a resize.
# Why a scroll region while a child process shares the terminal: its output would run into a block
# below the cursor. The terminal then scrolls only the rows above the block. It is not used
# otherwise, because a process that is killed leaves it behind.
# Why hooks: replacing sys.stdout would miss logging handlers that hold the old stream, and would
# conflict with programs that replace it themselves. A hooked print costs two short writes.
# Why the cursor is hidden only within one write: a process that is killed never leaves it hidden.

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import RLock
from typing import Any, Final, TextIO

from otel_progress.console.sharing import ProcessHooks, TerminalSharing, is_same_terminal
from otel_progress.console.streams import flush_stream, get_encoding
from otel_progress.fork import ForkPhase, defer_fork_during_output, on_fork

SHARED_S: Final = 2.0
"""Time for which a scroll region is kept after a process was started or has ended, in seconds.

A process is not listed at once. A program that starts one process after another would otherwise
move the block each time.
"""


_FRAME_START: Final = "\x1b[?25l\x1b[?7l"
"""Hides the cursor and disables line wrapping. A character of unknown width then keeps the block
intact.
"""


_FRAME_END: Final = "\x1b[?7h\x1b[?25h"


_CLEAR_LINE: Final = "\x1b[K"


_CLEAR_BELOW: Final = "\x1b[J"


_SAVE_CURSOR: Final = "\x1b7\x1b[m"
"""Saves the place and the colours of the cursor, and resets the colours."""


_RESTORE_CURSOR: Final = "\x1b8"


_INDEX: Final = "\x1bD"
"""Moves the cursor down and keeps its column. Scrolls on the last row."""


_FULL_SCREEN: Final = f"{_SAVE_CURSOR}\x1b[r{_RESTORE_CURSOR}"
"""Removes the scroll region. The cursor keeps its place."""


_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m")


_LOCK_TIMEOUT_S: Final = 0.2
"""Time for which the start of a process waits for a frame, in seconds."""


_FALLBACK_SIZE: Final = (80, 24)


_MIN_SPLIT_ROWS: Final = 4
"""Rows of the smallest terminal with a scroll region. It keeps two rows for other output."""


class Region:
    """Block of lines on the terminal of ``stream``. All methods are thread-safe.

    ``has_child_processes`` returns whether a child process of this process may write to the
    terminal. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        size: Callable[[], tuple[int, int]] | None = None,
        has_child_processes: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._size = size or (lambda: get_terminal_size(stream))
        self._sharing = TerminalSharing(stream)
        self._has_child_processes = has_child_processes or self._sharing.has_child_processes
        self._process_hooks = ProcessHooks(
            self.prepare_for_process, self.prepare_for_exec, self.prepare_for_output
        )
        self._clock = clock
        self._lock = RLock()
        self._lines: list[str] = []
        self._is_below = False
        """True if the block is drawn below the cursor, and no output may have reached it."""
        self._split: tuple[int, tuple[int, int]] | None = None
        """Rows of the block below a scroll region, and the size of the terminal at that time."""
        self._is_line_open = False
        """True if the last output of this process has not ended its line."""
        self._is_line_edited = False
        """True if that line has control characters, so it may have text after the cursor."""
        self._is_line_unknown = False
        """True if a prompt or a process may have written since then."""
        self._shared_until = float("-inf")
        self._hooks: list[_Hook] = []
        on_fork(
            phase=ForkPhase.OUTPUTS,
            owner=self,
            before=Region.prepare_for_process,
            after_in_child=Region.reset_in_child,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Current columns and rows of the terminal."""
        return self._size()

    def is_ready(self) -> bool:
        """Return whether a frame can be drawn now.

        False after Ctrl-S, because a write would block, and while another program or library uses
        the terminal for a display of its own.
        """
        return self.is_writable() and not self._sharing.is_occupied()

    def is_writable(self) -> bool:
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
            if not lines and not above and not self._is_below and self._split is None:
                self._lines = []
                self._remove_hooks()
                return
            if lines:
                self._add_hooks()
            for hook in self._hooks:
                hook.flush()
            texts = [text for text, _ in lines]
            is_split = bool(texts) and self._is_shared()
            frame = [_FRAME_START]
            if self._split is not None and (not is_split or self._split[1] != self.size):
                frame.append(self._leave_split())
            if is_split and self._is_below:
                frame.append(self._clear_below_cursor())
                self._is_below = False
            if above:
                frame.append(self._start_line())
                frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line in above)
            if is_split:
                frame.append(self._draw_split(texts))
            elif texts:
                frame.append(self._clear_line_end() + _draw_below_cursor(texts))
                self._is_below = True
            else:
                frame.append(_CLEAR_BELOW if above else self._clear_below_cursor())
                self._is_below = False
            self._lines = texts
            self._write_to_terminal("".join((*frame, _FRAME_END)))
            if not texts:
                self._remove_hooks()

    def release(self) -> None:
        """Keep the current lines on the screen as permanent ones, and remove all hooks."""
        with self._lock:
            lines, self._lines = self._lines, []
            is_drawn = self._is_below or self._split is not None
            # Why: a closed terminal shows nothing, and a stopped one would block.
            with contextlib.suppress(OSError, ValueError):
                if is_drawn and self.is_writable():
                    frame = [_FRAME_START, self._leave_split(), self._start_line()]
                    frame.extend(f"{line}{_CLEAR_LINE}\r\n" for line in lines)
                    self._write_to_terminal("".join((*frame, _CLEAR_BELOW, _FRAME_END)))
            self._is_below, self._split = False, None
            self._remove_hooks()

    def write_above(self, write: Callable[[str], int], text: str) -> int:
        """Write ``text`` of the program at the cursor, above the block.

        Removes a block below the cursor. The next frame draws it again.
        """
        with self._lock:
            if text:
                self._clear()
            result = write(text)
            if visible := _COLOURS.sub("", text):
                _, is_line_new, line = visible.rpartition("\n")
                self._is_line_open, self._is_line_unknown = bool(line), False
                self._is_line_edited = not line.isprintable() or (self._is_line_edited and not is_line_new)
            return result

    def flush_above(self, flush: Callable[[], object]) -> None:
        """Flush the output of the program. Removes a block below the cursor.

        ``input`` flushes before it writes its prompt, which no hook receives.
        """
        with self._lock:
            if self._is_below:
                self._is_line_unknown = True
                self._clear()
            flush()

    def prepare_for_process(self) -> None:
        """Remove a block below the cursor before a process is started.

        Its output may follow at once.
        """
        if self._hooks:
            self._shared_until = self._clock() + SHARED_S
            self.prepare_for_output()

    def prepare_for_output(self) -> None:
        """Remove a block below the cursor before output that no stream object receives."""
        if not self._hooks or not self._lock.acquire(timeout=_LOCK_TIMEOUT_S):
            return
        try:
            self._is_line_unknown = True
            if self._is_below and self.is_writable():
                self._clear()
        finally:
            self._lock.release()

    def prepare_for_exec(self) -> None:
        """Remove the block before this process is replaced by another program."""
        self.prepare_for_process()
        if self._split is None or not self._lock.acquire(timeout=_LOCK_TIMEOUT_S):
            return
        try:
            with contextlib.suppress(OSError, ValueError):
                if self.is_writable():
                    self._write_to_terminal(self._leave_split())
        finally:
            self._lock.release()

    def reset_in_child(self) -> None:
        """Remove the hooks in a forked child, and write nothing.

        Uses a new lock, because a lost thread may hold the old one.
        """
        self._lock = RLock()
        self._lines = []
        self._is_below, self._split = False, None
        self._remove_hooks()

    def _is_shared(self) -> bool:
        """Return whether a child process may write, or one did or will shortly."""
        now = self._clock()
        if self._has_child_processes():
            self._shared_until = now + SHARED_S
        return now < self._shared_until and self.size[1] >= _MIN_SPLIT_ROWS

    def _clear(self) -> None:
        """Remove a block below the cursor. One below a scroll region stays."""
        if self._is_below:
            self._is_below = False
            # Why: the write of the program fails in the same way and raises.
            with contextlib.suppress(OSError, ValueError):
                self._write_to_terminal(self._clear_below_cursor())

    def _draw_split(self, lines: Sequence[str]) -> str:
        """Return the sequence that draws lines at the bottom, below a scroll region."""
        columns, rows = self.size
        lines = lines[: rows - 2]
        old_rows, was_split = (self._split[0], True) if self._split else (0, False)
        first_row = rows - len(lines) + 1
        self._split = (len(lines), (columns, rows))
        cleared = range(rows - old_rows + 1, first_row)
        return "".join(
            (
                _FULL_SCREEN if was_split else "",
                _reserve_rows(len(lines)),
                _SAVE_CURSOR,
                *(f"\x1b[{row};1H{_CLEAR_LINE}" for row in cleared),
                f"\x1b[{first_row};1H",
                "\r\n".join(f"{line}{_CLEAR_LINE}" for line in lines),
                f"\x1b[1;{first_row - 1}r",
                _RESTORE_CURSOR,
            )
        )

    def _leave_split(self) -> str:
        """Return the sequence that removes the scroll region and the lines below it."""
        if self._split is None:
            return ""
        (block_rows, size), self._split = self._split, None
        first_row = max(2, self.size[1] - block_rows + 1)
        clear = f"\x1b[{first_row};1H{_CLEAR_BELOW}" if size == self.size else ""
        sequence = f"{_SAVE_CURSOR}\x1b[r{clear}{_RESTORE_CURSOR}"
        # Why: the rows of the block are unknown after a resize.
        return sequence if clear else sequence + self._clear_below_cursor()

    def _clear_below_cursor(self) -> str:
        """Return the sequence that clears the rows below the row of the cursor."""
        clear = f"{_reserve_rows(1)}{_SAVE_CURSOR}\r\n{_CLEAR_BELOW}{_RESTORE_CURSOR}"
        return self._clear_line_end() + clear

    def _clear_line_end(self) -> str:
        """Return the sequence that clears the rest of the line, unless it is output.

        The cursor is on a row of the block if a prompt was answered.
        """
        return "" if self._is_line_edited else _CLEAR_LINE

    def _start_line(self) -> str:
        """Return the sequence that moves the cursor to the start of an empty line.

        Other output at the cursor stays.
        """
        is_open, self._is_line_open, self._is_line_edited = self._is_line_open, False, False
        is_unknown, self._is_line_unknown = self._is_line_unknown, False
        if is_unknown:
            # Why spaces: they wrap to the next row if the cursor is not at the start of its row.
            return f"\x1b[?7h{' ' * (self.size[0] - 1)}\r{_CLEAR_LINE}\x1b[?7l"
        return "\r\n" if is_open else ""

    def _add_hooks(self) -> None:
        """Hook the streams, also those whose ``write`` another library has replaced.

        IPython does so for each cell, and restores the one before at the end of the cell.
        """
        if self._hooks:
            self._hooks = [self._hook_stream(hook.stream) for hook in self._hooks]
            return
        self._hooks = [self._hook_stream(stream) for stream in _find_terminal_streams(self._stream)]
        if self._sharing.is_terminal:
            self._process_hooks.add()

    def _hook_stream(self, stream: TextIO) -> _Hook:
        hook = getattr(vars(stream).get("write"), "hook", None)
        if isinstance(hook, _Hook) and hook.region is self:
            hook.install()
            return hook
        return _Hook(self, stream)

    def _remove_hooks(self) -> None:
        self._process_hooks.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._is_line_open = self._is_line_edited = self._is_line_unknown = False

    def _write_to_terminal(self, text: str) -> None:
        encoding = get_encoding(self._stream) or "ascii"
        text = text.encode(encoding, "replace").decode(encoding)
        hook = next((hook for hook in self._hooks if hook.stream is self._stream), None)
        with defer_fork_during_output():
            (hook.write_directly if hook else self._stream.write)(text)
            if hook is None:
                flush_stream(self._stream)
            else:
                hook.flush_original()


class _Hook:
    """Hooked ``write``, ``writelines`` and ``flush`` of one stream."""

    def __init__(self, region: Region, stream: TextIO) -> None:
        self.region = region
        self.stream = stream
        self._before = {name: vars(stream).get(name) for name in ("write", "writelines", "flush")}
        """Attributes of the stream before the hook. None for a method of its class."""
        self.write: Callable[[str], int] = stream.write
        # Why: frames are no output of the program, which another hook may store.
        plain_write = getattr(type(stream), "write", None)
        self.write_directly: Callable[[str], int] = (
            partial(plain_write, stream) if plain_write else self.write
        )
        self._original_flush: Callable[[], object] | None = getattr(stream, "flush", None)

        def write(text: str, /) -> int:
            return region.write_above(self.write, text)

        def writelines(lines: Any, /) -> None:
            for line in lines:
                write(line)

        def flush() -> None:
            region.flush_above(self.flush_original)

        write.hook = self  # type: ignore[attr-defined]
        self._functions: dict[str, Any] = {"write": write, "writelines": writelines}
        if self._original_flush is not None:
            self._functions["flush"] = flush
        self.install()

    def install(self) -> None:
        """Replace the methods of the stream."""
        vars(self.stream).update(self._functions)

    def flush_original(self) -> None:
        """Flush the stream without the hook.

        Raises OSError or ValueError if it is closed.
        """
        if self._original_flush is not None:
            self._original_flush()

    def flush(self) -> None:
        """Flush the output of the program. A closed stream is ignored."""
        with contextlib.suppress(OSError, ValueError):
            self.flush_original()

    def remove(self) -> None:
        """Remove the hook, unless another hook was added later.

        That one calls this hook, which then only forwards.
        """
        for name, function in self._functions.items():
            if vars(self.stream).get(name) is function:
                vars(self.stream).pop(name, None)
                if self._before[name] is not None:
                    vars(self.stream)[name] = self._before[name]


def get_terminal_size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows of the terminal of ``stream``. 80 and 24 if unknown."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return _FALLBACK_SIZE
    return columns or _FALLBACK_SIZE[0], rows or _FALLBACK_SIZE[1]


def _reserve_rows(rows: int) -> str:
    """Return the sequence that scrolls until there are ``rows`` rows below the cursor."""
    return f"{_INDEX * rows}\x1b[{rows}A" if rows else ""


def _draw_below_cursor(lines: Sequence[str]) -> str:
    """Return the sequence that draws lines below the cursor and clears the rest."""
    block = "".join(f"{_CLEAR_LINE}\r\n{line}" for line in lines).removeprefix(_CLEAR_LINE)
    return f"{_reserve_rows(len(lines))}{_SAVE_CURSOR}{block}{_CLEAR_BELOW}{_RESTORE_CURSOR}"


def _find_terminal_streams(stream: TextIO) -> list[TextIO]:
    """Return the hookable streams of this process on the terminal of ``stream``."""
    streams: list[TextIO] = []
    for candidate in (stream, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if candidate is None or any(candidate is known for known in streams):
            continue
        if (candidate is stream or is_same_terminal(candidate, stream)) and hasattr(candidate, "__dict__"):
            streams.append(candidate)
    return streams
