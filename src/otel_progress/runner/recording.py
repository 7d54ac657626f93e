"""Progress of an operation from the output of its command."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.model import Number, Status
from otel_progress.parsers.lines import Line, LineSplitter
from otel_progress.runner.output_tail import OutputTail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_progress.instrument.level import Level
    from otel_progress.parsers.readings import LevelKey, Parser, Reading


MAX_UNDETECTED_BYTES: Final = 16 * 1024 * 1024
"""Bytes of output without any progress after which an automatic parser stops, so that it does not
slow down commands with much output.
"""


MAX_TAIL_BYTES: Final = 16_384
"""Bytes at the end of a chunk that are read for the tail only. Bytes before are not read."""


MAX_LATEST_BYTES: Final = 4096
"""Bytes at the end of a chunk that are read if only the latest progress is needed."""


MAX_OPEN_LINE_BYTES: Final = 4096
"""Bytes of a line without progress so far that wait for its end. A longer line is read in parts."""


_MAY_HAVE_PROGRESS: Final = re.compile(rb"\d[kKMGTiB]{0,3}\s?[%/]|=|\{\"|objects|Duration: ")
"""Bytes without which a chunk cannot contain progress in any format."""


class OutputRecorder:
    """Observer of the output of a command. Its methods never raise.

    ``parser`` is None if nothing is parsed. ``has_total`` is True if the user gave the total, which
    the output then does not change. With ``is_automatic`` the parser ends if it finds nothing.
    """

    def __init__(self, level: Level, parser: Parser | None, *, has_total: bool, is_automatic: bool) -> None:
        self._level = level
        self._parser = parser
        self._has_total = has_total
        self._is_automatic = is_automatic
        self._found = False
        self._observed_bytes = 0
        self._total: Number | None = None
        self._levels: dict[LevelKey, Level] = {}
        # Why: stdout and stderr have a thread each, and one parser.
        self._lock = threading.Lock()
        self.tail = OutputTail()

    def create_observer(self, *, has_errors: bool) -> StreamObserver:
        """Return the observer of one stream. ``has_errors`` adds its lines to the tail."""
        return StreamObserver(self, has_errors=has_errors)

    def stop_parsing(self) -> None:
        """Stop to read progress from the output, because it is reported in another way."""
        if self._is_automatic:
            self._parser = None

    @property
    def is_automatic(self) -> bool:
        """True if the format of the output is detected."""
        return self._is_automatic

    @property
    def needs_all_lines(self) -> bool:
        """False if the last lines of a chunk are enough."""
        return self._parser is not None and not self._parser.is_stateless

    def may_have_progress(self, chunk: bytes) -> bool:
        """Return False if a chunk needs no parsing."""
        if self._parser is None:
            return False
        if _MAY_HAVE_PROGRESS.search(chunk) is None:
            return False
        if not self._is_automatic or self._found:
            return True
        self._observed_bytes += len(chunk)
        if self._observed_bytes > MAX_UNDETECTED_BYTES:
            self._parser = None
            return False
        return True

    def parse_lines(self, lines: Sequence[Line]) -> None:
        """Apply the progress of lines to the operation."""
        with self._lock:
            parser = self._parser
            if parser is None:
                return
            if parser.is_stateless and self._found:
                lines = self._find_last_progress(parser, lines)
            for line in lines:
                for reading in parser.parse_line(line):
                    self._found = True
                    self._apply(reading)

    def _find_last_progress(self, parser: Parser, lines: Sequence[Line]) -> Sequence[Line]:
        return next(([line] for line in reversed(lines) if any(True for _ in parser.parse_line(line))), ())

    def _apply(self, reading: Reading) -> None:
        if reading.level is not None:
            self._apply_to_child(reading.level, reading)
            return
        if reading.total is not None and not self._has_total:
            self._total = reading.total
        changes: dict[str, Any] = {}
        if self._total is not None:
            changes["total"] = self._total
        if reading.current is not None:
            total = self._level.snapshot().total if self._has_total else self._total
            changes["current"] = reading.current if total is None else min(reading.current, total)
        if reading.message is not None:
            changes["message"] = reading.message
        self._level.update(**changes)

    def _apply_to_child(self, key: LevelKey, reading: Reading) -> None:
        child = self._levels.get(key)
        if child is None:
            child = self._level.level(key.type, key.id, key.name, total=reading.total, unit=reading.unit)
            self._levels[key] = child.start()
        child.update(current=reading.current, total=reading.total, message=reading.message)
        if reading.status is None:
            return
        del self._levels[key]
        if reading.status is Status.COMPLETED:
            child.complete()
        elif reading.status is Status.FAILED:
            child.fail(reading.message or "failed")


class StreamObserver:
    """Observer of one stream, for the thread that copies it."""

    def __init__(self, recorder: OutputRecorder, *, has_errors: bool) -> None:
        self._recorder = recorder
        self._has_errors = has_errors
        self._splitter = LineSplitter()
        self._open_line = b""
        """Start of a line that has no progress so far. Programs write lines in several parts."""
        self._is_line_open = False
        """True if the splitter has the start of a line that may have progress."""
        self._is_binary = False
        """True if the stream has binary data, in which random counts and percentages are found."""

    def observe(self, chunk: bytes) -> None:
        """Read the progress and the tail of a chunk."""
        try:
            chunk = self._open_line + chunk
            self._open_line = b""
            if b"\0" in chunk and self._recorder.is_automatic:
                self._is_binary = True
            if not self._is_binary and (self._recorder.may_have_progress(chunk) or self._is_line_open):
                if len(chunk) > MAX_LATEST_BYTES and not self._recorder.needs_all_lines:
                    chunk = _cut_lines(chunk, MAX_LATEST_BYTES)
                self._is_line_open = not chunk.endswith((b"\n", b"\r"))
                self._read(self._splitter.feed(chunk), True)
                return
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
            if len(chunk) - end <= MAX_OPEN_LINE_BYTES:
                chunk, self._open_line = chunk[:end], chunk[end:]
            if self._has_errors and chunk:
                self._read(self._splitter.feed(chunk[-MAX_TAIL_BYTES:]), False)
        except Exception as error:
            report_internal_error("processor", "The output of a command could not be read", error=error)

    def finish(self) -> None:
        """Read the last line."""
        try:
            lines = [*self._splitter.feed(self._open_line), *self._splitter.finish()]
            self._open_line = b""
            self._read(lines, not self._is_binary)
        except Exception as error:
            report_internal_error("processor", "The output of a command could not be read", error=error)

    def _read(self, lines: list[Line], may_have_progress: bool) -> None:
        if self._has_errors:
            for line in lines:
                self._recorder.tail.add(line)
        if may_have_progress:
            self._recorder.parse_lines(lines)


def _cut_lines(chunk: bytes, limit: int) -> bytes:
    """Return the lines at the end of a chunk, without a part of a line before them."""
    end = chunk[-limit:]
    starts = [index for index in (end.find(b"\n"), end.find(b"\r")) if index >= 0]
    return end[min(starts) :] if starts else b""
