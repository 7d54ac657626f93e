"""Parsers of each format, with recorded output of the real tools.

The recordings are of git 2.39, rsync 3.5, ffmpeg 5.1 and tqdm 4 on a terminal. buildx.jsonl follows
the documented format.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_progress.model import Number, Status
from otel_progress.parsers.formats import FORMATS, UNITS, create_parser
from otel_progress.parsers.lines import Line, LineSplitter
from otel_progress.parsers.numbers import find_count, find_percentage
from otel_progress.parsers.readings import Reading

DATA = Path(__file__).parent / "data"


def parse(format_name: str, data: bytes, chunk_bytes: int = 4096) -> list[Reading]:
    """Return all readings of an output."""
    splitter, parser = LineSplitter(), create_parser(format_name)
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()
    return [reading for line in lines for reading in parser.parse_line(line)]


def record(name: str) -> bytes:
    """Return a recorded output."""
    return (DATA / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("12/500", (12, 500)),
        ("[ 12/500] Building CXX object src/a.o", (12, 500)),
        ("12 / 500 files", (12, 500)),
        (" 30%|###   | 12/40 [00:01<00:03,  9.5it/s]", (12, 40)),
        ("1,200/5,000 rows", (1200, 5000)),
        ("1.5M/3.0M", (1_500_000, 3_000_000)),
        ("0/7", (0, 7)),
        ("see /usr/lib/1/2 for it", None),
        ("on 2026/11/29", None),
        ("29/11/2026", None),
        ("13/12", None),
        ("0/0", None),
        ("a1/2", None),
        ("1/2/3", None),
        ("192.168.0.1/24", None),
        ("-1/5", None),
    ],
)
def test_count_parser_finds_counts_and_no_dates_or_paths(
    text: str, count: tuple[Number, Number] | None
) -> None:
    assert find_count(text) == count


@pytest.mark.parametrize(
    ("text", "percentage"),
    [
        ("37%", 37),
        ("37.5 %", 37.5),
        ("######    37,5%", 37.5),
        ("[ 37%] Linking", 37),
        ("100%", 100),
        ("101% of 50%", 50),
        ("%d 5%x 1.2.3%", None),
        ("-5%", None),
    ],
)
def test_percent_parser_finds_percentages(text: str, percentage: Number | None) -> None:
    assert find_percentage(text) == percentage


@pytest.mark.parametrize("format_name", ["git", "auto"])
@pytest.mark.parametrize("chunk_bytes", [1, 97, 65_536])
def test_git_clone_is_read_as_phases(format_name: str, chunk_bytes: int) -> None:
    readings = parse(format_name, record("git-clone.bin"), chunk_bytes)
    ended = [
        (reading.level.name, reading.current) for reading in readings if reading.level and reading.status
    ]
    assert ended == [
        ("Enumerating objects", 604),
        ("Counting objects", 604),
        ("Compressing objects", 604),
        ("Receiving objects", 604),
        ("Resolving deltas", 300),
    ]
    receiving = [reading for reading in readings if reading.level and reading.level.id == "receiving-objects"]
    assert [reading.current for reading in receiving] == sorted(reading.current or 0 for reading in receiving)
    assert receiving[0].unit == "object"
    assert "MiB" in (receiving[-1].message or "")


def test_git_push_is_read_as_phases() -> None:
    readings = parse("git", record("git-push.bin"))
    names = {
        reading.level.name for reading in readings if reading.level and reading.status is Status.COMPLETED
    }
    assert {"Enumerating objects", "Counting objects", "Compressing objects", "Writing objects"} <= names


@pytest.mark.parametrize("format_name", ["rsync", "auto"])
def test_rsync_is_read_as_percentage(format_name: str) -> None:
    readings = parse(format_name, record("rsync.bin"))
    assert len(readings) > 40
    assert readings[-1] == Reading(
        current=100, total=100, unit="%", message="12,000,000 bytes, 40 files, 5.83MB/s"
    )


@pytest.mark.parametrize("format_name", ["ffmpeg", "auto"])
def test_ffmpeg_is_read_as_seconds_of_the_input(format_name: str) -> None:
    readings = parse(format_name, record("ffmpeg.bin"))
    assert readings[0] == Reading(total=6.0, unit="s")
    currents = [reading.current for reading in readings[1:]]
    assert currents == sorted(currents, key=float)  # type: ignore[arg-type]
    assert (currents[-1], readings[-1].message) == (6.0, "frame 150, 10.3x")


def test_buildx_is_read_as_steps() -> None:
    readings = parse("buildx", record("buildx.jsonl"))
    totals = [reading.total for reading in readings if reading.level is None]
    ended = {reading.level.name: reading.status for reading in readings if reading.level and reading.status}
    transfers = [reading for reading in readings if reading.level and reading.level.id == "bbbbbbbbbbbb"]
    assert totals == [1, 4]
    assert ended == {
        "[internal] load build definition from Dockerfile": Status.COMPLETED,
        "[1/3] FROM docker.io/library/alpine": Status.COMPLETED,
        "[2/3] RUN apk add make": Status.COMPLETED,
        "[3/3] RUN make": Status.FAILED,
    }
    assert (transfers[-2].current, transfers[-2].total) == (31366757 + 6291456, 31366757 + 43966889)


def test_buildx_with_indented_output_is_ignored() -> None:
    assert parse("buildx", b'{\n  "vertexes": [\n    {\n      "digest": "sha256:1"\n    }\n  ]\n}\n') == []


def test_detection_of_tqdm_reads_counts() -> None:
    readings = parse("auto", record("tqdm.bin"))
    assert [(reading.current, reading.total) for reading in (readings[0], readings[-1])] == [
        (1, 40),
        (40, 40),
    ]


def test_detection_of_build_tool_reads_counts_of_plain_lines() -> None:
    lines = b"".join(b"[%d/4] cc a%d.c\n" % (number, number) for number in range(1, 5))
    assert [reading.current for reading in parse("auto", lines)] == [2, 3, 4]


@pytest.mark.parametrize(
    "text",
    [
        b"disk is 95% full\ndisk is 95% full\n",
        b"page 3/10\npage 4/10\n",
        b"2026/11/29\r2026/11/30\r",
        b"battery 80%\rloss 3/40\rdone 7%\r",
        b"frame=12\nspeed=3x\n",
        b'{"level":"info","vertexes":"no"}\n{"a":1}\n',
        b"Enumerating things: 12\nWarning: 50% (3/4)\n",
        b"progress=loud\n",
    ],
)
def test_detection_ignores_numbers_that_are_not_progress(text: bytes) -> None:
    assert [reading for reading in parse("auto", text) if reading.current is not None] == []


def test_formats_with_a_unit_are_known() -> None:
    assert UNITS.keys() <= FORMATS.keys()


def test_git_with_unlimited_phases_reads_100() -> None:
    parser = create_parser("git")
    for first in range(26):
        for second in range(26):
            title = f"Phase {chr(97 + first)}{chr(97 + second)}"
            readings = list(parser.parse_line(Line(f"{title}: 50% (1/2)")))
            assert len(readings) == (1 if first * 26 + second < 100 else 0)
