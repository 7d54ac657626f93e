"""The live display as a sink."""

from __future__ import annotations

import io

import pytest

from otel_progress.console.plain import PlainConsole
from otel_progress.console.terminal import MAX_DRAWING_RATIO, LiveConsole, make_console
from otel_progress.model import Failure, Status
from otel_progress.protocols import Sink
from tests.support.factories import CLOCK, ended, operation, snapshot
from tests.support.terminal import Clock, Shelf, Terminal, tick


class Stage:
    """A live console on an emulated terminal with a clock."""

    def __init__(self, *operations: object) -> None:
        self.terminal = Terminal(80, 24)
        self.clock = Clock()
        self.shelf = Shelf(*operations)  # type: ignore[arg-type]
        self.console = LiveConsole(self.shelf, self.terminal, clock=self.clock, size=self.terminal.size)  # type: ignore[arg-type]


def running(name: str = "r", **fields: object) -> object:
    """Return an operation half done."""
    return operation(snapshot(name=name, ratio=0.5, operation_id=name, id=name, run=name, **fields))


def test_it_is_a_sink() -> None:
    """A lane takes it like any other."""
    assert isinstance(Stage().console, Sink)


def test_nothing_is_written_before_something_runs() -> None:
    """A program that never reports progress sees no trace of the display."""
    stage = Stage()
    stage.console.write(tick())
    stage.console.close()
    assert stage.terminal.writes == []


def test_an_operation_is_drawn_and_leaves_one_line() -> None:
    """While it runs a bar, afterwards what came of it."""
    stage = Stage(running("Friday"))
    stage.console.write(tick())
    assert "Friday" in stage.terminal.lines()[0]
    assert "50%" in stage.terminal.lines()[0]
    end = ended(name="Friday", operation_id="Friday", run="Friday", ratio=1.0)
    stage.shelf.operations = (operation(end),)
    stage.console.write(tick(end))
    assert stage.terminal.lines() == ["✓ setlist Friday completed in 1m 00s"]
    stage.console.close()
    assert stage.terminal.lines() == ["✓ setlist Friday completed in 1m 00s"]


def test_the_very_last_end_is_drawn_at_once() -> None:
    """There may be no further tick, however fresh the last frame is."""
    stage = Stage(running("a"))
    stage.console.write(tick())
    stage.shelf.operations = ()
    stage.console.write(tick(ended(name="a", run="a")))
    assert [line.split()[0] for line in stage.terminal.lines()] == ["✓"]


def test_at_most_ten_frames_a_second() -> None:
    """A tick of ten milliseconds does not make it draw more."""
    stage = Stage(running())
    for _ in range(100):
        stage.console.write(tick())
        stage.clock.now += 0.01
    assert 9 <= len(stage.terminal.writes) <= 11


def test_slow_frames_come_less_often() -> None:
    """A reader that takes half a second costs no more than its share of the time."""
    stage = Stage(running())
    quick = stage.shelf.active

    def slow(*, levels: bool = True) -> object:
        stage.clock.now += 0.25
        return quick(levels=levels)

    stage.shelf.active = slow  # type: ignore[method-assign, assignment]
    began = stage.clock.now
    while stage.clock.now < began + 100.0:
        stage.console.write(tick())
        stage.clock.now += 0.1
    spent = 0.5 * len(stage.terminal.writes)
    assert 0.5 < spent <= 1.3 * MAX_DRAWING_RATIO * 100.0


def test_a_thousand_ends_do_not_flood_the_terminal() -> None:
    """Some are shown, failed ones first; the others are counted."""
    stage = Stage()
    ends = [ended(name=f"n{number}", run=f"r{number}") for number in range(1000)]
    ends[777] = ended(name="unlucky", run="u", status=Status.FAILED, error=Failure("OSError", "gone"))
    stage.console.write(tick(*ends))
    lines = stage.terminal.lines()
    assert len(lines) == 21
    assert "unlucky" in lines[0]
    assert lines[-1] == "… 980 more operations finished"


def test_what_runs_at_the_end_stays_on_the_screen() -> None:
    """When the program ends in the middle, its last frame is left, and the stream is given back."""
    stage = Stage(running("half"))
    stage.console.write(tick())
    stage.console.close()
    assert "half" in stage.terminal.lines()[0]
    assert "write" not in vars(stage.terminal)


def test_a_terminal_that_has_gone_is_told_once() -> None:
    """The error is the lane's to count; after it nothing is tried any more."""
    stage = Stage(running())

    def gone(_: str) -> int:
        raise OSError(5, "Input/output error")

    stage.terminal.write = gone  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Input/output"):
        stage.console.write(tick())
    stage.clock.now += 10.0
    stage.console.write(tick())
    stage.console.close()


def test_a_narrow_encoding_gets_question_marks_not_errors() -> None:
    """A name the terminal cannot show is no reason to raise."""
    stage = Stage(running("混合"))
    stage.terminal.encoding = "ascii"
    stage.console = LiveConsole(stage.shelf, stage.terminal, clock=stage.clock, size=stage.terminal.size)  # type: ignore[arg-type]
    stage.console.write(tick())
    assert stage.terminal.lines()[0].startswith("> ?? ")


def test_more_operations_than_lines_are_read_without_levels() -> None:
    """Their levels would not be seen."""
    stage = Stage(*(running(f"n{number}") for number in range(30)))
    stage.console.write(tick())
    assert stage.shelf.asked == 1
    assert stage.terminal.lines()[-1] == "… 8 more"


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({"TERM": "xterm"}, LiveConsole),
        ({"TERM": "dumb"}, PlainConsole),
        ({"TERM": "xterm", "CI": "true"}, PlainConsole),
        ({"TERM": "xterm", "CI": "false"}, LiveConsole),
    ],
)
def test_the_terminal_and_the_environment_choose(environ: dict[str, str], kind: type) -> None:
    """Bars are for a terminal that can, and somebody who looks."""
    assert type(make_console(Shelf(), stream=Terminal(), environ=environ)) is kind  # type: ignore[arg-type]


def test_a_file_gets_lines_and_false_gets_nothing() -> None:
    """True draws all the same, for who wants to record it."""
    assert type(make_console(Shelf(), stream=io.StringIO())) is PlainConsole
    assert type(make_console(Shelf(), stream=io.StringIO(), mode=True)) is LiveConsole
    assert make_console(Shelf(), mode=False) is None


def test_the_time_is_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """Elapsed time comes from the snapshot's clock, whatever the console's clock says."""
    stage = Stage(operation(snapshot(ratio=0.5), clock=CLOCK + 3600.0))
    stage.clock.now = 0.0
    stage.console.write(tick())
    assert "1h 00m" in stage.terminal.lines()[0]
    assert capsys.readouterr() == ("", "")
