"""End of the output of a command, as the error of a failed operation."""

from __future__ import annotations

from collections import deque
from typing import Final

from otel_progress.parsers.lines import Line
from otel_progress.parsers.numbers import find_count, find_percentage
from otel_progress.text import MAX_DETAILS, truncate

MAX_LINES: Final = 40
"""Lines that are stored. Beyond it the oldest line is dropped."""


MAX_LINE_CHARACTERS: Final = 1000
"""Characters of a line that are stored. The rest is dropped."""


class OutputTail:
    """Last lines of an output, without those that show progress in place."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def add(self, line: Line) -> None:
        """Add a line."""
        if line.is_refreshed or (line.is_refresh and _has_progress(line.text)):
            return
        self._lines.append(truncate(line.text, MAX_LINE_CHARACTERS))

    @property
    def last_line(self) -> str | None:
        """Newest line, or None without one."""
        return self._lines[-1] if self._lines else None

    @property
    def text(self) -> str | None:
        """Stored lines as one text of at most MAX_DETAILS characters. None without one."""
        lines, size = deque[str](), 0
        for line in reversed(self._lines):
            size += len(line) + 1
            if size > MAX_DETAILS:
                break
            lines.appendleft(line)
        return "\n".join(lines) if lines else None


def _has_progress(text: str) -> bool:
    return find_count(text) is not None or find_percentage(text) is not None
