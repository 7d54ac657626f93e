"""Commands as operations on a terminal: keys, size, job control and modes."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from otel_progress.model import Status
from tests.support.command_runs import CommandRuns
from tests.support.terminal_process import TerminalProcess

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="commands run on POSIX systems"),
]


@pytest.fixture
def runs(tmp_path: Path) -> CommandRuns:
    """Runs with a journal of their own."""
    return CommandRuns(tmp_path)


def open_terminal(runs: CommandRuns, *arguments: str) -> TerminalProcess:
    """Start a run on a terminal."""
    return TerminalProcess(runs.build_command(*arguments), runs.environ, runs.folder)


@pytest.mark.parametrize("format_name", ["auto", "none"])
def test_command_on_terminal_has_terminal_of_the_same_size(runs: CommandRuns, format_name: str) -> None:
    code = (
        "import os; print([os.isatty(n) for n in range(3)], os.get_terminal_size());"
        "name = input('name? '); print('hello', name); raise SystemExit(4)"
    )
    with open_terminal(runs, "--parse", format_name, "--", sys.executable, "-c", code) as terminal:
        before = terminal.get_mode()
        assert "[True, True, True] os.terminal_size(columns=80, lines=24)" in terminal.wait_for("name? ")
        terminal.press("Ada\r")
        terminal.wait_for("hello Ada")
        assert terminal.finish() == 4
        assert terminal.output.endswith(b"hello Ada\r\n")
        assert terminal.get_mode() == before


def test_ctrl_c_on_terminal_interrupts_the_command(runs: CommandRuns) -> None:
    # Why no shell: dash ignores the signal between two of its commands.
    code = "import signal, time; signal.signal(2, signal.SIG_DFL); print('ready', flush=True); time.sleep(99)"
    with open_terminal(runs, "--", sys.executable, "-c", code) as terminal:
        terminal.wait_for("ready")
        terminal.press("\x03")
        assert terminal.finish() == 130
    root = runs.get().root
    assert (root.status, root.message, root.metadata["exit_status"]) == (Status.CANCELLED, "SIGINT", 130)


def test_resized_terminal_resizes_that_of_the_command(runs: CommandRuns) -> None:
    code = (
        "import os, select, signal\n"
        "show = lambda *_: os.write(1, b'size %d %d\\r\\n' % os.get_terminal_size())\n"
        "signal.signal(signal.SIGWINCH, show)\n"
        "print('ready', flush=True)\n"
        # Why not input(): Python handles a signal that arrives just before it only after it.
        "while not select.select([0], [], [], 0.05)[0]: pass"
    )
    with open_terminal(runs, "--", sys.executable, "-c", code) as terminal:
        terminal.wait_for("ready")
        terminal.resize(100, 30)
        terminal.wait_for("size 100 30")
        terminal.press("\r")
        assert terminal.finish() == 0


def test_command_on_terminal_shows_its_progress_unchanged(runs: CommandRuns) -> None:
    code = "import sys; sys.stdout.write('\\r 10%\\r 20%\\x1b[K\\r 30%\\n'); sys.stderr.write('e\\n')"
    with open_terminal(runs, "--", sys.executable, "-c", code) as terminal:
        assert terminal.finish() == 0
        assert terminal.output == b"\r 10%\r 20%\x1b[K\r 30%\r\ne\r\n"
    assert (runs.get().root.current, runs.get().root.total) == (30, 100)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
@pytest.mark.parametrize("format_name", ["auto", "none"])
def test_ctrl_z_stops_the_job_until_fg(runs: CommandRuns, format_name: str) -> None:
    script = "echo ready; read x"
    command = shlex.join(runs.build_command("--parse", format_name, "--", "sh", "-c", script))
    shell = TerminalProcess(
        ["bash", "--norc", "-i"], {**runs.environ, "PS1": "$ ", "TERM": "dumb"}, runs.folder
    )
    with shell as terminal:
        terminal.wait_for("$ ")
        terminal.press(f"{command}; echo code=$?\r")
        terminal.wait_for("ready\r\n")
        terminal.press("\x1a")
        terminal.wait_for("Stopped")
        terminal.wait_for("code=148")
        assert runs.get().root.paused_clock is not None
        terminal.wait_for("$ ")
        terminal.press("fg\r")
        terminal.wait_for("read x'\r\n")
        terminal.press("\r")
        terminal.wait_for("$ ")
        terminal.press("echo still; exit 5\r")
        terminal.wait_for("still")
        assert terminal.finish() == 5
    root = runs.get().root
    assert (root.status, root.paused_clock) == (Status.COMPLETED, None)
    assert root.paused_s > 0


@pytest.mark.skipif(shutil.which("less") is None, reason="needs less")
def test_pager_below_run_reads_keys_from_its_terminal(runs: CommandRuns) -> None:
    file = runs.folder / "lines.txt"
    file.write_text("".join(f"line {number}\n" for number in range(200)))
    environ = {**runs.environ, "LESS": "", "TERM": "xterm"}
    command = runs.build_command("--", "less", str(file))
    with TerminalProcess(command, environ, runs.folder) as terminal:
        terminal.wait_for("line 10")
        terminal.press("G")
        terminal.wait_for("line 199")
        terminal.press("q")
        assert terminal.finish() == 0
