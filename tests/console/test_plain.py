"""Plain lines for log files."""

from __future__ import annotations

import io
import re

from otel_progress.console.plain import PlainConsole
from otel_progress.model import Eta, Failure, Status
from tests.support.factories import CLOCK, WALL, ended, operation, snapshot
from tests.support.terminal import Clock, Shelf, tick


class Log:
    """A plain console with a clock, and what it wrote."""

    def __init__(self, *operations: object) -> None:
        self.clock = Clock()
        self.stream = io.StringIO()
        self.shelf = Shelf(*operations)  # type: ignore[arg-type]
        self.console = PlainConsole(self.shelf, self.stream, clock=self.clock)

    def lines(self) -> list[str]:
        """The lines so far."""
        return self.stream.getvalue().splitlines()

    def without_time(self) -> list[str]:
        """The lines without their first word."""
        return [line.partition(" ")[2] for line in self.lines()]


def test_a_run_is_its_start_some_states_and_its_end() -> None:
    """One line every five seconds, one at each change of status."""
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


def test_a_line_has_time_condition_and_what_remains() -> None:
    """It stands for itself: whoever finds it in a log needs no other."""
    root = snapshot(ratio=0.5, failed=2, eta=Eta(90.0, None, None, "ok", "rate", 0, CLOCK + 300.0))
    log = Log()
    log.console.show_operations([operation(root, clock=CLOCK + 300.0)])
    line = log.lines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line)
    assert "running stalled for 5m 00s 50% 2 failed after 5m 00s 1m 30s left" in line


def test_failed_levels_get_a_line_each_up_to_a_bound() -> None:
    """Ten thousand broken files do not fill a disk; how many were left out is told at the end."""
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


def test_hostile_text_stays_on_its_line() -> None:
    """No escape, no carriage return, no line end of a caller's reaches the log."""
    log = Log()
    evil = "\x1b[2J\r\nforged line\u2028"
    log.console.show_operations([operation(snapshot(name=evil, message=evil * 1000))])
    assert len(log.stream.getvalue().splitlines()) == 1
    assert not set("\x1b\r\u2028") & set(log.stream.getvalue())
    assert len(log.lines()[0]) <= 1000


def test_only_some_of_very_many_operations_are_told_at_a_time() -> None:
    """The others are counted."""
    many = [operation(snapshot(run=f"r{number}", operation_id=f"o{number}")) for number in range(100)]
    log = Log(*many)
    log.console.show_operations(many)
    log.clock.now += 5.0
    log.console.show_operations(many)
    assert len(log.lines()) < 45
    assert any("and 80 more operations" in line for line in log.lines())


def test_nothing_is_asked_of_the_reader_between_two_lines() -> None:
    """Ten ticks a second cost nothing but a look at the clock."""
    log = Log(operation())
    for _ in range(40):
        log.console.write(tick(snapshot()))
        log.clock.now += 0.1
    assert log.shelf.asked == 0
