"""Pseudo-terminal of a command, connected with the terminal of this process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
import tty
from typing import Any, Final

_OUTPUT_FLAGS: Final = 1
"""Index of the output flags in the attributes of a terminal."""


class PseudoTerminal:
    """Terminal of a command.

    ``real`` is a descriptor of the terminal of this process, from which it has its settings and
    size. ``keyboard`` is the descriptor of the input of that terminal, or None if the command does
    not read from it.
    """

    def __init__(self, real: int | None, keyboard: int | None) -> None:
        self._real = real
        self._keyboard = keyboard
        self._saved: list[Any] | None = None
        self._converts_line_ends = True
        self.main, replica = os.openpty()
        self.path = os.ttyname(replica)
        self._replica = replica
        if real is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(replica, termios.TCSANOW, termios.tcgetattr(real))
        self.copy_size()

    def close_replica(self) -> None:
        """Close the command's end here, after the command has opened it."""
        if self._replica >= 0:
            os.close(self._replica)
            self._replica = -1

    def close(self) -> None:
        """Restore the terminal of this process and close the pseudo-terminal."""
        self.restore_mode()
        self.close_replica()
        with contextlib.suppress(OSError):
            os.close(self.main)

    def copy_size(self) -> None:
        """Give the command's terminal the size of the terminal of this process."""
        if self._real is None:
            return
        # Why suppress: the terminal may be closed, and the size is only a hint.
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self._real, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.main, termios.TIOCSWINSZ, size)

    @property
    def is_raw(self) -> bool:
        """True while all keys of the real terminal are passed to the command."""
        return self._saved is not None

    def enter_raw_mode(self) -> None:
        """Pass all keys to the command, which interprets them with its own terminal.

        In the background the mode of the real terminal stays as it is.
        """
        if self._saved is None and self._keyboard is not None and is_in_foreground(self._keyboard):
            with contextlib.suppress(termios.error):
                saved = termios.tcgetattr(self._keyboard)
                tty.setraw(self._keyboard, termios.TCSADRAIN)
                self._saved = saved
        if self._converts_line_ends is not self.is_raw:
            self._converts_line_ends = self.is_raw
            self._set_line_end_conversion(self.is_raw)

    def restore_mode(self) -> None:
        """Restore the mode of the terminal of this process."""
        saved, self._saved = self._saved, None
        if saved is None or self._keyboard is None or not is_in_foreground(self._keyboard):
            return
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, saved)

    def _set_line_end_conversion(self, is_enabled: bool) -> None:
        """Convert line ends in this terminal or not, as exactly one of both has to."""
        with contextlib.suppress(termios.error):
            attributes = termios.tcgetattr(self.main)
            if is_enabled:
                attributes[_OUTPUT_FLAGS] |= termios.OPOST
            else:
                attributes[_OUTPUT_FLAGS] &= ~termios.OPOST
            termios.tcsetattr(self.main, termios.TCSANOW, attributes)

    def get_foreground_group(self) -> int | None:
        """Return the process group in the foreground of the command's terminal, or None."""
        try:
            group = os.tcgetpgrp(self.main)
        except OSError:
            return None
        return group if group > 0 else None


def is_in_foreground(descriptor: int) -> bool:
    """Return True if this process is in the foreground of its controlling terminal."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False


def has_foreground_terminal() -> bool:
    """Return True if this process has a controlling terminal and is in its foreground."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return is_in_foreground(descriptor)
    finally:
        os.close(descriptor)
