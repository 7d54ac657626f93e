"""Detection of the output format.

The formats of git, rsync, ffmpeg and buildx are unambiguous. Counts and percentages are found in
many texts, such as dates or disk usage. They are used only in a line that the program refreshes in
place or starts with a bracket, and only after a second one that continues the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otel_progress.parsers.buildx import BuildxParser
from otel_progress.parsers.ffmpeg import FfmpegParser
from otel_progress.parsers.git import GitParser
from otel_progress.parsers.numbers import CountParser, PercentParser
from otel_progress.parsers.rsync import RsyncParser

if TYPE_CHECKING:
    from otel_progress.parsers.lines import Line
    from otel_progress.parsers.readings import Parser, Reading


_BRACKET: Final = re.compile(r"\[\s*(?:\d{1,18}\s?/\s?\d{1,18}|\d{1,3}(?:\.\d+)?\s?%)\s*\]")
"""Start of a line of ninja, CMake, Bazel and other build tools."""


class DetectingParser:
    """Parser that uses the first format that it detects."""

    __slots__ = ("_candidate", "_detected", "_loose", "_strict")

    def __init__(self) -> None:
        self._strict: list[Parser] = [GitParser(), RsyncParser(), FfmpegParser(), BuildxParser()]
        self._loose: list[Parser] = [CountParser(), PercentParser()]
        self._detected: Parser | None = None
        self._candidate: tuple[Parser, Reading] | None = None

    @property
    def is_stateless(self) -> bool:
        """True unless a format was detected whose lines depend on each other."""
        return self._detected is None or self._detected.is_stateless

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress of a line, if its format was detected."""
        if self._detected is not None and self._detected not in self._loose:
            return self._detected.parse_line(line)
        for parser in self._strict:
            readings = list(parser.parse_line(line))
            if any(reading.current is not None or reading.level is not None for reading in readings):
                self._detected = parser
            if readings:
                return readings
        if not (line.is_refreshed or line.is_refresh) and _BRACKET.match(line.text) is None:
            return ()
        if self._detected is not None:
            return self._detected.parse_line(line)
        return self._compare_with_candidate(line)

    def _compare_with_candidate(self, line: Line) -> Iterable[Reading]:
        """Return the readings of a loose parser that already read the previous one."""
        for parser in self._loose:
            readings = list(parser.parse_line(line))
            if not readings:
                continue
            before, self._candidate = self._candidate, (parser, readings[0])
            if before is not None and before[0] is parser and _continues(before[1], readings[0]):
                self._detected = parser
                return readings
            return ()
        return ()


def _continues(before: Reading, after: Reading) -> bool:
    if before.current is None or after.current is None:
        return False
    return before.total == after.total and before.current <= after.current
