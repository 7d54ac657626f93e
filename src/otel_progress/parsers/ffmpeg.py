"""Output of ``ffmpeg -progress``: blocks of ``key=value`` lines.

A block ends with ``progress=continue`` or ``progress=end``. The total is the duration of the
longest input, which ffmpeg prints at the start unless it is silenced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otel_progress.parsers.readings import Reading

if TYPE_CHECKING:
    from otel_progress.model import Number
    from otel_progress.parsers.lines import Line


_DURATION: Final = re.compile(r"Duration: (\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?),")


_KEYS: Final = frozenset({"frame", "out_time_us", "out_time_ms", "out_time", "speed", "progress", "fps"})
"""Keys of a block that are read. Other keys are ignored."""


_MICROSECONDS: Final = 1e6


class FfmpegParser:
    """Parser of ``ffmpeg -progress pipe:1``: seconds of the output that are written."""

    is_stateless = False

    __slots__ = ("_block", "_total_s")

    def __init__(self) -> None:
        self._block: dict[str, str] = {}
        self._total_s: float | None = None

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress at the end of a block, and the total when it becomes known."""
        text = line.text
        key, separator, value = text.partition("=")
        if separator and key in _KEYS and len(value) <= 100:
            if key != "progress":
                self._block[key] = value.strip()
                return ()
            if value not in ("continue", "end"):
                return ()
            block, self._block = self._block, {}
            return self._read_block(block, is_last=value == "end")
        return self._read_duration(text)

    def _read_duration(self, text: str) -> Iterable[Reading]:
        match = _DURATION.search(text[:200])
        if match is None:
            return ()
        seconds = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
        if seconds <= (self._total_s or 0):
            return ()
        self._total_s = seconds
        return (Reading(total=seconds, unit="s"),)

    def _read_block(self, block: dict[str, str], *, is_last: bool) -> Iterable[Reading]:
        seconds = _read_seconds(block)
        if seconds is None:
            return ()
        if self._total_s is not None:
            # Why at the end: the duration of a file is rounded, and the last frame has a length.
            seconds = self._total_s if is_last else min(seconds, self._total_s)
        parts = [f"frame {block['frame']}"] if block.get("frame", "").isdigit() else []
        speed = block.get("speed", "N/A")
        parts += [speed] if speed != "N/A" else []
        return (Reading(current=seconds, unit="s", message=", ".join(parts) or None),)


def _read_seconds(block: dict[str, str]) -> Number | None:
    # Why out_time_ms as well: in ffmpeg it contains microseconds, and old releases have only it.
    for key in ("out_time_us", "out_time_ms"):
        value = block.get(key, "")
        if value.isascii() and value.isdigit() and len(value) <= 18:
            return int(value) / _MICROSECONDS
    return None
