"""The live display at three widths, and plain lines, for the fixed state."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from otel_progress.console.plain import PlainConsole
from otel_progress.console.terminal import LiveConsole
from tests.support.golden.console import Clock, Terminal
from tests.support.golden.files import Golden
from tests.support.golden.sample_journal import (
    CLOCK,
    WALL,
    ended,
    make_change_set,
    open_scene_journal,
    other_operations,
    write_scene,
)

MOMENT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_live_display_equals_golden_file(golden: Golden, tmp_path: Path, width: int) -> None:
    """The screen, then the screen after an end, then the written bytes."""
    write_scene(tmp_path / "progress.db")
    terminal, clock = Terminal(width, 40), Clock()
    with open_scene_journal(tmp_path / "progress.db") as journal:
        console = LiveConsole(journal, terminal, clock=clock, size=terminal.size)
        console.write(make_change_set(at=WALL + 120.0, clock=CLOCK + 120.0))
        first = terminal.lines()
        clock.now += 10.0
        console.write(
            make_change_set(ended(name="Sunday"), *other_operations(), at=WALL + 120.0, clock=CLOCK + 120.0)
        )
        console.close()
    second = terminal.lines()
    raw = "".join(terminal.writes).replace("\x1b", "\\e").replace("\r", "\\r")
    golden.lines(f"terminal/live-{width}.txt", [*first, "-" * width, *second, "-" * width, raw])


def test_plain_lines_equal_golden_file(golden: Golden, tmp_path: Path) -> None:
    """Lines of states, ends and batches, without their time."""
    write_scene(tmp_path / "progress.db")
    stream, clock = io.StringIO(), Clock()
    with open_scene_journal(tmp_path / "progress.db") as journal:
        console = PlainConsole(journal, stream, clock=clock)
        for _ in range(3):
            console.write(
                make_change_set(
                    ended(name="Sunday"), *other_operations(), at=WALL + 120.0, clock=CLOCK + 120.0
                )
            )
            clock.now += 10.0
        console.close()
    golden.lines(
        "terminal/plain.txt", [MOMENT.sub("MOMENT", line) for line in stream.getvalue().splitlines()]
    )
