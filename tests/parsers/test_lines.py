"""Lines of a byte stream, for every way in which it can be split into chunks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from otel_progress.parsers.lines import MAX_LINE_BYTES, Line, LineSplitter


def split(*chunks: bytes) -> list[Line]:
    """Return all lines of a stream."""
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.finish()


def test_splitter_returns_lines_and_refreshes() -> None:
    assert split(b"one\ntwo\r\n 10%\r 20%\r", b"rest") == [
        Line("one"),
        Line("two"),
        Line("10%", is_refreshed=True),
        Line("20%", is_refreshed=True, is_refresh=True),
        Line("rest", is_refresh=True),
    ]


def test_splitter_with_line_end_in_two_chunks_returns_one_line() -> None:
    assert split(b"one\r", b"\ntwo\r", b"three") == [
        Line("one"),
        Line("two", is_refreshed=True),
        Line("three", is_refresh=True),
    ]


def test_splitter_removes_terminal_sequences() -> None:
    text = b"\x1b]0;title\x07\x1b[1;32mReceiving\x1b[0m objects: 3%\x1b[K\x1b[1Gnext\x1b]8;;http://x\x1b\\\n"
    assert split(text) == [Line("Receiving objects: 3%", is_refreshed=True), Line("next", is_refresh=True)]


def test_splitter_with_backspaces_returns_each_state() -> None:
    assert [line.text for line in split(b"1%\b\b2%\b\b3%\n")] == ["1%", "2%", "3%"]


def test_splitter_with_invalid_utf8_returns_valid_text() -> None:
    assert split(b"a\xff\xfeb \xc3\xa9\n") == [Line("a\ufffd\ufffdb é")]


def test_splitter_with_10_mb_line_has_bounded_memory() -> None:
    splitter = LineSplitter()
    for _ in range(160):
        assert splitter.feed(b"x" * 65_536) == []
    assert len(splitter._buffer) == MAX_LINE_BYTES
    (line,) = splitter.feed(b"\n")
    assert (len(line.text), line.is_truncated) == (MAX_LINE_BYTES, True)
    assert splitter.feed(b"next\n") == [Line("next")]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_splitter_with_any_chunks_returns_the_same_lines(data: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[start:end] for start, end in pairwise(borders)]
    assert split(*chunks) == split(data)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\x1b", b"[", b"1", b"G", b"\b", b"a"]), max_size=40))
def test_splitter_with_any_line_ends_returns_the_same_lines(parts: list[bytes]) -> None:
    assert split(*parts) == split(b"".join(parts))


@given(st.binary(max_size=500))
def test_splitter_with_any_bytes_returns_printable_lines(data: bytes) -> None:
    for line in split(data):
        assert line.text
        assert "\x1b" not in line.text
        assert "\n" not in line.text
        line.text.encode("utf-8")
