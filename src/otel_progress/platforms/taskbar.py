"""Terminals with progress in the taskbar or tab: the escape sequence OSC 9;4."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from otel_progress.model import Status
from otel_progress.operations import Condition
from otel_progress.platforms.report import PlatformReport, get_percentage
from otel_progress.semconv import SinkName

_REMOVED, _NORMAL, _ERROR, _UNKNOWN, _WARNING = 0, 1, 2, 3, 4
"""States of the sequence. A terminal shows the last three in other colours or animated."""


_MIN_VTE: Final = 7_900
"""First version of VTE (GNOME Terminal, Ptyxis) that shows it."""


_PROGRAMS: Final = frozenset({"ghostty", "wezterm"})
"""Values of TERM_PROGRAM of terminals that show it, in lower case."""


class TaskbarPlatform:
    """Writes the sequence to the terminal of stderr."""

    name: SinkName = "platforms.taskbar"
    interval_s = 0.5
    is_always_active = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written = ""

    def send(self, report: PlatformReport) -> float | None:
        """Write the state, if it has changed."""
        state, percentage = choose_state(report)
        text = f"\x1b]9;4;{state};{percentage}\x07"
        if text != self._written and (self._written or state != _REMOVED):
            # Why one write of the stream: it never splits other output of the program.
            self._stream.write(text)
            self._stream.flush()
            self._written = text
        return None


def choose_state(report: PlatformReport) -> tuple[int, int]:
    """Return the state and percentage. A failure stays until the next operation."""
    operation = report.operation
    if operation is None or report.is_final:
        return _REMOVED, 0
    percentage = get_percentage(operation)
    if operation.status is Status.FAILED:
        return _ERROR, 100 if percentage is None else percentage
    if operation.status.finished:
        return _REMOVED, 0
    if operation.condition in (Condition.STALLED, Condition.PAUSED):
        return _WARNING, percentage or 0
    return (_UNKNOWN, 0) if percentage is None else (_NORMAL, percentage)


def find_terminal() -> TextIO | None:
    """Return the original stderr if it is a terminal.

    A replacement of ``sys.stderr`` may be the live display, which would draw again.
    """
    stream = sys.__stderr__
    try:
        return stream if stream is not None and stream.isatty() else None
    except ValueError:
        return None


def is_supported(environ: Mapping[str, str]) -> bool:
    """Return True if the terminal shows the sequence.

    Multiplexers do not pass it on, although they pass the variables of the terminal on.
    """
    if environ.get("TMUX") or environ.get("STY") or environ.get("TERM", "").lower() in {"", "dumb"}:
        return False
    version = environ.get("VTE_VERSION", "")
    return bool(
        environ.get("WT_SESSION")
        or environ.get("ConEmuANSI", "").upper() == "ON"
        or environ.get("TERM_PROGRAM", "").lower() in _PROGRAMS
        or re.search("P(?![a-z])", environ.get("TERM_FEATURES", ""))
        or (version.isdecimal() and int(version) >= _MIN_VTE)
    )
