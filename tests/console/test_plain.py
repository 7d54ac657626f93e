"""Plain display for log files."""

from __future__ import annotations

import io
import re

from otel_progress.console.plain import PlainConsole
from otel_progress.model import Eta, Failure, Status
from tests.support.factories import CLOCK, WALL, ended, operation, snapshot
from tests.support.terminal import Clock, Shelf, tick


class Log:
    """Plain console with a clock and its output."""

    def __init__(self, *operations: object) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.shelf = Shelf(*operations)  # type: ignore[arg-type]
        self.console = PlainConsole(self.shelf, self.stream, clock=self.clock)

    def lines(self) -> list[str]:
        """Return the lines written so far."""
        return self.stream.getvalue().splitlines()

    def without_time(self) -> list[str]:
        """Return the lines without their time."""
        return [line.partition(" ")[2] for line in self.lines()]


def test_run_has_lines_for_start_intervals_and_end() -> None:
    log = Log()
    for second in range(13):
        root = snapshot(current=second, total=20, ratio=second / 20, unit="song", message="Mixing")
        log.shelf.operations = (operation(root, read_at=WALL + second, clock=CLOCK + second),)
        log.console.write(tick(root, seconds=second))
        log.clock.now += 1.0
    log.console.write(tick(ended(current=20, total=20, ratio=1.0, unit="song"), seconds=13.0))
    assert log.without_time() == [
        "setlist Name of friday-42 (friday-42) running 0% 0/20 songs after 0.0s: Mixing",
        "setlist Name of friday-42 (friday-42) running 25% 5/20 songs 1.0/s after 5.0s: Mixing",
        "setlist Name of friday-42 (friday-42) running 50% 10/20 songs 1.0/s after 10s: Mixing",
        "setlist Name of friday-42 (friday-42) completed 100% 20/20 songs 20.0/min in 1m 00s",
    ]


def test_line_has_time_condition_and_time_left() -> None:
    root = snapshot(ratio=0.5, failed=2, eta=Eta(90.0, None, None, "ok", "rate", 0, CLOCK + 300.0))
    log = Log()
    log.console.show_operations([operation(root, clock=CLOCK + 300.0)])
    line = log.lines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line)
    assert "running stalled for 5m 00s 50% 2 failed after 5m 00s 1m 30s left" in line


def test_failed_levels_beyond_rate_limit_are_counted() -> None:
    log = Log(operation())
    broken = [
        snapshot(f"file:{number}", status=Status.FAILED, error=Failure("OSError", "gone"))
        for number in range(10_000)
    ]
    log.console.write(tick(snapshot(), *broken))
    log.console.write(tick(ended()))
    log.console.close()
    assert log.without_time()[0] == "friday-42 file Name of 0 failed OSError: gone"
    assert len(log.lines()) < 25
    assert re.search(r"99\d\d more changes not shown", log.lines()[-1])


def test_control_characters_are_escaped_in_one_line() -> None:
    log = Log()
    evil = "\x1b[2J\r\nforged line\u2028"
    log.console.show_operations([operation(snapshot(name=evil, message=evil * 1000))])
    assert len(log.stream.getvalue().splitlines()) == 1
    assert not set("\x1b\r\u2028") & set(log.stream.getvalue())
    assert len(log.lines()[0]) <= 1000


def test_operations_beyond_limit_are_counted() -> None:
    many = [operation(snapshot(run=f"r{number}", operation_id=f"o{number}")) for number in range(100)]
    log = Log(*many)
    log.console.show_operations(many)
    log.clock.now += 5.0
    log.console.show_operations(many)
    assert len(log.lines()) < 45
    assert any("and 80 more operations" in line for line in log.lines())


def test_reader_is_not_called_between_intervals() -> None:
    log = Log(operation())
    for _ in range(40):
        log.console.write(tick(snapshot()))
        log.clock.now += 0.1
    assert log.shelf.asked == 0
