"""Parsers with arbitrary input: no exception, no invalid number, bounded time."""

from __future__ import annotations

import time
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.parsers.formats import FORMATS, create_parser
from otel_progress.parsers.lines import MAX_LINE_BYTES, LineSplitter
from otel_progress.parsers.readings import Reading

DATA = Path(__file__).parent / "data"
SAMPLES = [path.read_bytes() for path in sorted(DATA.iterdir())]

FRAGMENTS = st.sampled_from(
    [
        *(b"12/500", b"37%", b"1e999%", b"99999999999999999999/99999999999999999999", b"Receiving objects: "),
        *(
            b"50% (1/2)",
            b", done.",
            b"remote: ",
            b"out_time_us=",
            b"progress=continue\n",
            b"-1",
            b"N/A",
            b"\n",
        ),
        *(b"1,234  45%  1.2MB/s  0:00:10 (xfr#1, to-chk=1/2)", b"Duration: 99:99:99.99, ", b"\r", b"\x1b[K"),
        *(
            b'{"vertexes":[{"digest":"a","started":"x"}]}\n',
            b'{"statuses":[{"id":"a","vertex":"a","total":1e400}]}\n',
        ),
        *(
            b'{"vertexes":',
            b"[" * 500,
            b'{"vertexes":5}\n',
            b'{"vertexes":[{"digest":{}}]}\n',
            b"\xff",
            b"\x00",
        ),
    ]
)


def check(data: bytes) -> None:
    """Parse an output in every format and check all readings."""
    for name in FORMATS:
        splitter, parser = LineSplitter(), create_parser(name)
        for line in [*splitter.feed(data), *splitter.finish()]:
            for reading in parser.parse_line(line):
                check_reading(reading)


def check_reading(reading: Reading) -> None:
    """Check that a reading can be applied to a level."""
    for number in (reading.current, reading.total):
        assert number is None or (isfinite(number) and number >= 0)
    assert reading.current is None or reading.total is None or reading.current <= reading.total
    if reading.level is not None:
        assert reading.level.type
        assert reading.level.id
        assert len(reading.level.name) <= 200


@given(st.lists(FRAGMENTS, max_size=12))
def test_parsers_with_fragments_return_valid_readings(fragments: list[bytes]) -> None:
    check(b"".join(fragments))


@given(st.binary(max_size=400))
def test_parsers_with_any_bytes_return_valid_readings(data: bytes) -> None:
    check(data)


@given(st.sampled_from(SAMPLES), st.data())
def test_parsers_with_damaged_recordings_return_valid_readings(sample: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, max(0, len(sample) - 800)))
    part = bytearray(sample[start : start + 800])
    for _ in range(data.draw(st.integers(0, 5))):
        if part:
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(part))


@pytest.mark.parametrize(
    "line",
    [b"1/" * 30_000, b"1" * 60_000, b"9%" * 30_000, b"A a" * 20_000, b" " * 60_000 + b"%", b"1," * 30_000],
)
def test_parsers_with_longest_line_take_time_in_proportion_to_its_length(line: bytes) -> None:
    """The control is the same line at a tenth of its length."""
    assert len(line) <= MAX_LINE_BYTES
    short = min(measure(line[: len(line) // 10]) for _ in range(3))
    full = min(measure(line) for _ in range(3))
    assert full < 100 * short + 0.2


def measure(line: bytes) -> float:
    """Return the seconds of processor time for parsing a line in every format."""
    start = time.thread_time()
    check(line + b"\n")
    return time.thread_time() - start
