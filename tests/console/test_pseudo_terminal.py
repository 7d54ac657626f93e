"""Live display on a pseudo-terminal, in a process."""

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
early = logging.StreamHandler()  # holds the stderr from before the display
logging.basicConfig(handlers=[early], level=logging.INFO)
import otel_progress as progress
from otel_progress.console.region import Region
draw, drawn = Region.draw, threading.Event()

def draw_and_notify(self, lines, above=()):
    draw(self, lines, above)
    if lines:
        drawn.set()

def wait_for_frame():
    drawn.clear()
    assert drawn.wait(60)

Region.draw = draw_and_notify
runtime = progress.configure(service_name="test", store="memory:", console="auto")
with progress.operation("survey", "Friday", total=3, unit="song") as op:
    for number in range(3):
        with op.level("song", str(number)):
            wait_for_frame()
            print(f"printed {number} " + "x" * 60)
            logging.info("logged %d", number)
            print("first ", end="", flush=True)
            wait_for_frame()
            print("and last")
    if "fail" in sys.argv:
        raise LookupError("on purpose")
    if "wait" in sys.argv:
        print("waiting")
        threading.Event().wait(600)
print("after")
"""


class Session:
    """Program on a pseudo-terminal, and the screen of its output."""

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
        """Read until ``text`` is received. None reads until the terminal is closed."""
        while text is None or text not in self.raw:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # on Linux: the other side is closed
                break
            if not data:
                break
            self.raw += data.decode("utf-8", "replace")

    def end(self) -> list[str]:
        """Wait for the end and return the lines of the screen."""
        self.read_until()
        os.close(self._terminal)
        self.process.wait(60)
        pyte.Stream(self.screen).feed(self.raw)
        return [line.rstrip() for line in self.screen.display if line.strip()]


def test_output_of_program_is_whole_and_above_the_bars() -> None:
    session = Session()
    lines = session.end()
    expected = [
        text
        for number in range(3)
        for text in (f"printed {number} {'x' * 60}", f"logged {number}", "first and last")
    ]
    written = [line.removeprefix("INFO:root:") for line in lines]
    assert written[:9] == expected
    last, final = sorted(written[9:])  # the end is drawn in the next tick, so the order varies
    assert last == "after"
    assert final.startswith("✓ survey Friday completed 3/3 songs in ")
    assert "━" in session.raw
    assert not session.screen.cursor.hidden
    assert session.process.returncode == 0


def test_exception_leaves_clean_terminal() -> None:
    """The cursor is visible and the traceback is whole."""
    session = Session("fail")
    lines = session.end()
    assert "Traceback (most recent call last):" in lines
    assert "LookupError: on purpose" in lines
    assert any(line.startswith("✗ survey Friday failed") for line in lines)
    assert not session.screen.cursor.hidden
    assert session.process.returncode == 1


def test_interrupt_leaves_clean_terminal() -> None:
    session = Session("wait")
    session.read_until("waiting")
    session.process.send_signal(signal.SIGINT)
    lines = session.end()
    assert any(line.startswith("■ survey Friday cancelled") for line in lines)
    assert "KeyboardInterrupt" in lines
    assert not session.screen.cursor.hidden


def test_region_on_stopped_terminal_is_not_ready() -> None:
    """Ctrl-S stops the output, Ctrl-Q resumes it."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        region = Region(stream)
        assert region.is_ready()
        termios.tcflow(theirs, termios.TCOOFF)
        assert not region.is_ready()
        termios.tcflow(theirs, termios.TCOON)
        assert region.is_ready()
    os.close(ours)


def test_redirected_stdout_has_only_printed_lines(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    session = Session(redirect=output)
    lines = session.end()
    printed = output.read_text(encoding="utf-8").splitlines()
    assert len(printed) == 7
    assert "\x1b" not in output.read_text(encoding="utf-8")
    assert not any("printed" in line for line in lines)
    assert any(line.startswith("✓ survey Friday") for line in lines)
