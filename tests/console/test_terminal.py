"""Live display as a sink."""

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
    """Live console on an emulated terminal, with a clock."""

    def __init__(self, *operations: object) -> None:
        self.terminal = Terminal(80, 24)
        self.clock = Clock()
        self.shelf = Shelf(*operations)  # type: ignore[arg-type]
        self.console = LiveConsole(self.shelf, self.terminal, clock=self.clock, size=self.terminal.size)  # type: ignore[arg-type]


def running(name: str = "r", **fields: object) -> object:
    """Return an operation at 50 %."""
    return operation(snapshot(name=name, ratio=0.5, operation_id=name, id=name, run=name, **fields))


def test_live_console_is_a_sink() -> None:
    assert isinstance(Stage().console, Sink)


def test_console_without_operations_writes_nothing() -> None:
    stage = Stage()
    stage.console.write(tick())
    stage.console.close()
    assert stage.terminal.writes == []


def test_finished_operation_leaves_one_line() -> None:
    stage = Stage(running("Friday"))
    stage.console.write(tick())
    assert "Friday" in stage.terminal.lines()[1]
    assert "50%" in stage.terminal.lines()[1]
    end = ended(name="Friday", operation_id="Friday", run="Friday", ratio=1.0)
    stage.shelf.operations = (operation(end),)
    stage.console.write(tick(end))
    assert stage.terminal.lines() == ["✓ setlist Friday completed in 1m 00s"]
    stage.console.close()
    assert stage.terminal.lines() == ["✓ setlist Friday completed in 1m 00s"]


def test_last_end_is_drawn_immediately() -> None:
    """No further tick may follow."""
    stage = Stage(running("a"))
    stage.console.write(tick())
    stage.shelf.operations = ()
    stage.console.write(tick(ended(name="a", run="a")))
    assert [line.split()[0] for line in stage.terminal.lines()] == ["✓"]


def test_frames_are_limited_to_ten_per_second() -> None:
    stage = Stage(running())
    for _ in range(100):
        stage.console.write(tick())
        stage.clock.now += 0.01
    assert 9 <= len(stage.terminal.writes) <= 11


def test_slow_frames_stay_within_share_of_time() -> None:
    stage = Stage(running())
    read_active = stage.shelf.active

    def slow(*, levels: bool = True) -> object:
        stage.clock.now += 0.25
        return read_active(levels=levels)

    stage.shelf.active = slow  # type: ignore[method-assign, assignment]
    started_at = stage.clock.now
    while stage.clock.now < started_at + 100.0:
        stage.console.write(tick())
        stage.clock.now += 0.1
    drawing_s = 0.5 * len(stage.terminal.writes)
    assert 0.5 < drawing_s <= 1.3 * MAX_DRAWING_RATIO * 100.0


def test_thousand_ends_are_limited_and_counted() -> None:
    """Failed operations are shown first."""
    stage = Stage()
    ends = [ended(name=f"n{number}", run=f"r{number}") for number in range(1000)]
    ends[777] = ended(name="unlucky", run="u", status=Status.FAILED, error=Failure("OSError", "gone"))
    stage.console.write(tick(*ends))
    lines = stage.terminal.lines()
    assert len(lines) == 21
    assert "unlucky" in lines[0]
    assert lines[-1] == "… 980 more operations finished"


def test_close_keeps_last_frame_and_removes_hooks() -> None:
    stage = Stage(running("half"))
    stage.console.write(tick())
    stage.console.close()
    assert "half" in stage.terminal.lines()[0]
    assert "write" not in vars(stage.terminal)


def test_closed_terminal_raises_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(running())

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(stage.terminal), "write", fail)
    with pytest.raises(OSError, match="Input/output"):
        stage.console.write(tick())
    stage.clock.now += 10.0
    stage.console.write(tick())
    stage.console.close()


def test_unencodable_text_becomes_question_marks() -> None:
    stage = Stage(running("混合"))
    stage.terminal.encoding = "ascii"
    stage.console = LiveConsole(stage.shelf, stage.terminal, clock=stage.clock, size=stage.terminal.size)  # type: ignore[arg-type]
    stage.console.write(tick())
    assert stage.terminal.lines()[1].startswith("> ?? ")


def test_more_operations_than_lines_are_read_without_levels() -> None:
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
def test_console_depends_on_terminal_and_environment(environ: dict[str, str], kind: type) -> None:
    assert type(make_console(Shelf(), stream=Terminal(), environ=environ)) is kind  # type: ignore[arg-type]


def test_console_mode_and_file_choose_display() -> None:
    assert type(make_console(Shelf(), stream=io.StringIO())) is PlainConsole
    assert type(make_console(Shelf(), stream=io.StringIO(), mode=True)) is LiveConsole
    assert make_console(Shelf(), mode=False) is None


def test_elapsed_time_is_from_the_snapshot_clock(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(operation(snapshot(ratio=0.5), clock=CLOCK + 3600.0))
    stage.clock.now = 0.0
    stage.console.write(tick())
    assert "1h 00m" in stage.terminal.lines()[1]
    assert capsys.readouterr() == ("", "")
