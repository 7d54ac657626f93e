"""Last lines of an output as an error."""

from __future__ import annotations

from otel_progress.parsers.lines import Line
from otel_progress.runner.output_tail import MAX_LINES, OutputTail
from otel_progress.text import MAX_DETAILS


def test_tail_has_the_newest_lines() -> None:
    tail = OutputTail()
    for number in range(MAX_LINES + 10):
        tail.add(Line(f"line {number}"))
    assert tail.text is not None
    assert tail.text.splitlines() == [f"line {number}" for number in range(10, MAX_LINES + 10)]
    assert tail.last_line == f"line {MAX_LINES + 9}"


def test_tail_without_lines_has_no_text() -> None:
    tail = OutputTail()
    tail.add(Line("50%", is_refreshed=True))
    tail.add(Line("100%", is_refresh=True))
    assert (tail.text, tail.last_line) == (None, None)


def test_tail_is_bounded_and_drops_the_oldest_lines() -> None:
    tail = OutputTail()
    for number in range(MAX_LINES):
        tail.add(Line(f"{number} " + "x" * 5000))
    assert tail.text is not None
    assert len(tail.text) <= MAX_DETAILS
    assert tail.text.splitlines()[-1].startswith(f"{MAX_LINES - 1} x")


def test_tail_has_an_error_that_replaces_the_progress() -> None:
    tail = OutputTail()
    tail.add(Line("ERROR: disk full", is_refresh=True))
    assert tail.last_line == "ERROR: disk full"
