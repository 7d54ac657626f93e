"""Taskbar: the escape sequence on a real terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from otel_progress.model import LevelSnapshot, Status
from otel_progress.platforms.report import EndedOperations, build_report
from otel_progress.platforms.taskbar import choose_state, is_supported
from tests.support.factories import CLOCK, ended, operation, snapshot
from tests.support.terminal_process import TerminalProcess

PROGRAM = """
import sys, time
import otel_progress as progress
with progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="auto"):
    with progress.operation("import", total=4) as op:
        op.increment()
        sys.stdin.readline()
print("end")
"""


@pytest.mark.process
@pytest.mark.parametrize("program", ["ghostty", "vscode"])
def test_taskbar_of_a_terminal_that_supports_it_shows_progress(program: str, tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "TERM_PROGRAM": program,
    }
    with TerminalProcess([sys.executable, "-c", PROGRAM], environ, tmp_path) as terminal:
        if program == "ghostty":
            terminal.wait_for("\x1b]9;4;1;25\x07")
        terminal.press("\n")
        terminal.wait_for("end")
        assert terminal.finish() == 0
        sequences = terminal.output.count(b"\x1b]9;4;")
        assert (sequences >= 2) is (program == "ghostty")
        if program == "ghostty":
            assert terminal.output.rindex(b"\x1b]9;4;0;0\x07") > terminal.output.rindex(b"\x1b]9;4;1;")
        else:
            assert sequences == 0


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, False),
        ({"TERM": "xterm", "WT_SESSION": "1"}, True),
        ({"TERM": "xterm", "TERM_PROGRAM": "WezTerm"}, True),
        ({"TERM": "xterm", "TERM_FEATURES": "T3CwLrMSc7UUw9Ts3BFGsSyHNoSxFP"}, True),
        ({"TERM": "xterm", "TERM_FEATURES": "T3CwPa"}, False),
        ({"TERM": "xterm", "VTE_VERSION": "7900"}, True),
        ({"TERM": "xterm", "VTE_VERSION": "7802"}, False),
        ({"TERM": "screen", "TMUX": "1", "WT_SESSION": "1"}, False),
        ({"TERM": "dumb", "ConEmuANSI": "ON"}, False),
        ({"WT_SESSION": "1"}, False),
    ],
)
def test_support_is_detected_by_the_environment(environ: dict[str, str], expected: bool) -> None:
    assert is_supported(environ) is expected


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (snapshot(), (3, 0)),
        (snapshot(ratio=0.25), (1, 25)),
        (snapshot(ratio=0.25, paused_clock=CLOCK), (4, 25)),
        (snapshot(ratio=0.25, advanced_at=0.0, advanced_clock=CLOCK, stall_after_s=1.0), (4, 25)),
        (ended(ratio=0.25, status=Status.FAILED), (2, 25)),
        (ended(), (0, 0)),
    ],
)
def test_state_follows_the_reported_operation(root: LevelSnapshot, expected: tuple[int, int]) -> None:
    done = EndedOperations().add([operation(root)] if root.status.finished else [])
    running = [] if root.status.finished else [operation(root)]
    assert choose_state(build_report(running, done)) == expected
    assert choose_state(build_report(running, done, is_final=True)) == (0, 0)
