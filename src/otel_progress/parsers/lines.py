"""Lines of a byte stream: bounded, valid text without terminal sequences."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_LINE_BYTES: Final = 65_536
"""Bytes of a line that are stored. The rest of a longer line is dropped."""


# Why no class of characters: alternatives that start with a literal are searched ten times as fast.
_ENDS: Final = re.compile(rb"\r\n|\r|\n|\x08|\x1b\[[01]?G")
"""Ends of a segment: a new line, or a return to the start of the line."""


_SEQUENCES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
)
"""Control sequences of terminals: colours, cursor movement, titles and links."""


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


_MAX_UNFINISHED_BYTES: Final = 4
"""Bytes at the end of a chunk that may be the start of an end of a segment."""


class Line(NamedTuple):
    """One line of output.

    ``is_refreshed`` is True if the program returned to the start of the line instead of starting a
    new one, as progress displays do. ``is_refresh`` is True if it did so before this text.
    ``is_truncated`` is True if the end of the line was dropped.
    """

    text: str
    is_refreshed: bool = False
    is_truncated: bool = False
    is_refresh: bool = False


class LineSplitter:
    """Splits a byte stream into lines. Its memory is bounded by MAX_LINE_BYTES."""

    __slots__ = ("_buffer", "_is_refresh", "_is_truncated", "_unfinished")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_truncated = self._is_refresh = False
        self._unfinished = b""

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that end in ``chunk``. Empty lines are left out."""
        data = self._unfinished + chunk
        self._unfinished = _find_unfinished_end(data)
        if self._unfinished:
            data = data[: -len(self._unfinished)]
        lines: list[Line] = []
        start = 0
        for match in _ENDS.finditer(data):
            self._append(data, start, match.start())
            start = match.end()
            self._finish_line(lines, is_refreshed=match.group() not in (b"\n", b"\r\n"))
        self._append(data, start, len(data))
        return lines

    def finish(self) -> list[Line]:
        """Return the last line, if the stream did not end with a new line."""
        lines: list[Line] = []
        ending, self._unfinished = self._unfinished, b""
        self._append(ending, 0, len(ending))
        self._finish_line(lines, is_refreshed=ending.startswith(b"\r"))
        return lines

    def _append(self, data: bytes, start: int, end: int) -> None:
        space = MAX_LINE_BYTES - len(self._buffer)
        if end - start > space:
            self._is_truncated = True
            end = start + space
        if start < end:
            self._buffer += data[start:end]

    def _finish_line(self, lines: list[Line], *, is_refreshed: bool) -> None:
        if self._buffer:
            text = clean_line(bytes(self._buffer))
            if text:
                lines.append(Line(text, is_refreshed, self._is_truncated, self._is_refresh))
            self._buffer.clear()
        self._is_truncated = False
        self._is_refresh = is_refreshed


def clean_line(data: bytes) -> str:
    """Return the text of a line without control sequences and outer spaces."""
    text = data.decode("utf-8", "replace")
    if not text.isprintable():
        text = _CONTROLS.sub("", _SEQUENCES.sub("", text))
    return text.strip()


def _find_unfinished_end(data: bytes) -> bytes:
    """Return the end of ``data`` that may be the start of an end of a segment."""
    if data.endswith(b"\r"):
        return b"\r"
    tail = data[-_MAX_UNFINISHED_BYTES:]
    index = tail.rfind(b"\x1b")
    if index < 0:
        return b""
    return tail[index:] if tail[index:] in (b"\x1b", b"\x1b[", b"\x1b[0", b"\x1b[1") else b""
