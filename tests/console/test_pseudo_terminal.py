"""The display on a real pseudo-terminal, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyte
import pytest

from otel_progress.console.region import Region

pytestmark = pytest.mark.process

termios = pytest.importorskip("termios", reason="no terminals of this kind on this platform")
pty = pytest.importorskip("pty", reason="no pseudo-terminals on this platform")

PROGRAM = """
import logging, sys, threading
early = logging.StreamHandler()  # holds sys.stderr as it is before there is a display
logging.basicConfig(handlers=[early], level=logging.INFO)
import otel_progress as progress
from otel_progress.console.region import Region
draw, drawn = Region.draw, threading.Event()

def draw_and_tell(self, lines, above=()):
    draw(self, lines, above)
    if lines:
        drawn.set()

def until_a_frame_came_in_between():
    drawn.clear()
    assert drawn.wait(60)

Region.draw = draw_and_tell
runtime = progress.configure(service_name="test", store="memory:", console="auto")
with progress.operation("survey", "Friday", total=3, unit="song") as op:
    for number in range(3):
        with op.level("song", str(number)):
            until_a_frame_came_in_between()
            print(f"printed {number} " + "x" * 60)
            logging.info("logged %d", number)
            print("begun ", end="", flush=True)
            until_a_frame_came_in_between()
            print("and ended")
    if "fail" in sys.argv:
        raise LookupError("on purpose")
    if "wait" in sys.argv:
        print("waiting")
        threading.Event().wait(600)
print("after")
"""


class Session:
    """A program that runs on a pseudo-terminal, and the screen that shows what it wrote."""

    def __init__(self, *arguments: str, redirect: Path | None = None) -> None:
        ours, theirs = pty.openpty()
        environ = {
            name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR", "TERM"}
        }
        stdout = theirs if redirect is None else redirect.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=theirs,
            stdout=stdout,
            stderr=theirs,
            env={**environ, "TERM": "xterm-256color", "OTEL_PROGRESS_CONSOLE": "auto"},
            start_new_session=True,
        )
        os.close(theirs)
        if redirect is not None:
            stdout.close()  # type: ignore[union-attr]
        self._terminal = ours
        self.raw = ""
        self.screen = pyte.Screen(80, 24)

    def read_until(self, text: str | None = None) -> None:
        """Read until ``text`` has come, or (None) until the program has closed the terminal."""
        while text is None or text not in self.raw:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # Linux: the other side has been closed
                break
            if not data:
                break
            self.raw += data.decode("utf-8", "replace")

    def end(self) -> list[str]:
        """Wait for the end and return the lines that stay on the screen."""
        self.read_until()
        os.close(self._terminal)
        self.process.wait(60)
        pyte.Stream(self.screen).feed(self.raw)
        return [line.rstrip() for line in self.screen.display if line.strip()]


def test_print_and_logging_live_with_the_bars() -> None:
    """What the program writes comes out whole and in order, its bars are seen meanwhile, and one line stays of them."""
    session = Session()
    lines = session.end()
    expected = [
        text
        for number in range(3)
        for text in (f"printed {number} {'x' * 60}", f"logged {number}", "begun and ended")
    ]
    written = [line.removeprefix("INFO:root:") for line in lines]
    assert written[:9] == expected
    last, final = sorted(written[9:])  # the end is drawn on the next tick, so either may come first
    assert last == "after"
    assert final.startswith("✓ survey Friday completed 3/3 songs in ")
    assert "━" in session.raw
    assert not session.screen.cursor.hidden
    assert session.process.returncode == 0


def test_an_exception_leaves_a_clean_terminal() -> None:
    """The traceback is whole, the operation is shown as failed, the cursor is there."""
    session = Session("fail")
    lines = session.end()
    assert "Traceback (most recent call last):" in lines
    assert "LookupError: on purpose" in lines
    assert any(line.startswith("✗ survey Friday failed") for line in lines)
    assert not session.screen.cursor.hidden
    assert session.process.returncode == 1


def test_ctrl_c_leaves_a_clean_terminal() -> None:
    """So does an interrupt in the middle."""
    session = Session("wait")
    session.read_until("waiting")
    session.process.send_signal(signal.SIGINT)
    lines = session.end()
    assert any(line.startswith("■ survey Friday cancelled") for line in lines)
    assert "KeyboardInterrupt" in lines
    assert not session.screen.cursor.hidden


def test_a_stopped_terminal_holds_up_nobody() -> None:
    """Ctrl-S stops the output of a terminal; the display waits for Ctrl-Q without blocking the thread that draws."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        region = Region(stream)
        assert region.is_ready()
        termios.tcflow(theirs, termios.TCOOFF)
        assert not region.is_ready()
        termios.tcflow(theirs, termios.TCOON)
        assert region.is_ready()
    os.close(ours)


def test_a_redirected_stdout_stays_in_its_file(tmp_path: Path) -> None:
    """With bars on stderr, ``program > file`` gets every printed line and nothing else."""
    output = tmp_path / "out.txt"
    session = Session(redirect=output)
    lines = session.end()
    printed = output.read_text(encoding="utf-8").splitlines()
    assert len(printed) == 7
    assert "\x1b" not in output.read_text(encoding="utf-8")
    assert not any("printed" in line for line in lines)
    assert any(line.startswith("✓ survey Friday") for line in lines)
