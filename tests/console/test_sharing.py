"""Bars on a terminal that prompts, child processes and other displays share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.console.region import SHARED_S, Region
from otel_progress.console.sharing import TerminalSharing, _has_ended
from tests.support.examples import scale_examples
from tests.support.terminal import Clock, Terminal

termios = pytest.importorskip("termios", reason="no terminals of this kind on this platform")
terminal_process = pytest.importorskip("tests.support.terminal_process")

BAR = [("bar 50%", 7)]


class Stage:
    """A region on an emulated terminal, with a clock and child processes to set."""

    def __init__(self, columns: int = 40, rows: int = 8) -> None:
        self.terminal = Terminal(columns, rows)
        self.clock = Clock()
        self.has_children = False
        self.region = Region(
            self.terminal,  # type: ignore[arg-type]
            size=self.terminal.size,
            has_child_processes=lambda: self.has_children,
            clock=self.clock,
        )

    def write_unseen(self, text: str) -> None:
        """Write to the terminal as a child process does, which no hook receives."""
        Terminal.write(self.terminal, text)

    def all_lines(self) -> list[str]:
        """Return the lines that were scrolled away, and those on the screen."""
        screen = self.terminal.screen
        gone = ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in screen.history.top]
        return gone + self.terminal.lines()


def test_prompt_below_which_bars_are_drawn_stays() -> None:
    stage = Stage()
    stage.region.draw(BAR)
    stage.write_unseen("Overwrite? [y/N] ")
    stage.region.draw(BAR)
    assert stage.terminal.lines() == ["Overwrite? [y/N]", "bar 50%"]
    stage.write_unseen("y\n")  # echo of the answer
    stage.terminal.write("you said y\n")
    assert stage.terminal.lines() == ["Overwrite? [y/N] y", "you said y"]


def test_prompt_of_several_lines_is_not_mixed_with_bars() -> None:
    """``input`` flushes before it writes."""
    stage = Stage()
    stage.region.draw(BAR)
    stage.terminal.flush()
    stage.write_unseen("Menu\n 1) a\n> ")
    assert stage.terminal.lines() == ["Menu", " 1) a", ">"]


def test_end_of_operation_starts_a_line_after_open_prompt() -> None:
    stage = Stage()
    stage.region.draw(BAR)
    stage.terminal.flush()
    stage.write_unseen("Name: ")
    stage.region.draw(BAR, above=["done"])
    assert stage.terminal.lines() == ["Name:", "done", "", "bar 50%"]


def test_end_of_operation_after_flush_at_start_of_line_adds_no_line() -> None:
    stage = Stage()
    stage.region.draw(BAR)
    stage.terminal.flush()
    stage.region.draw(BAR, above=["done"])
    assert stage.terminal.lines() == ["done", "", "bar 50%"]


def test_cursor_and_colours_of_program_are_unchanged_by_frames() -> None:
    stage = Stage()
    stage.terminal.write("\x1b[31mred ")
    stage.region.draw(BAR)
    stage.write_unseen("also red")
    red = [stage.terminal.screen.buffer[0][column].fg for column in (0, 5)]
    assert red == ["red", "red"]
    assert stage.terminal.screen.buffer[1][0].fg == "default"


STEPS = st.lists(
    st.one_of(st.text("ab \n", max_size=8), st.integers(1, 3), st.just("\n" * 9), st.booleans()), max_size=20
)


@settings(max_examples=scale_examples(100), deadline=None)
@given(STEPS)
def test_output_of_child_process_is_complete_for_any_order(steps: list[str | int | bool]) -> None:
    """A number draws bars, True and False are a child that starts or ends."""
    stage, plain = Stage(), Terminal(40, 8)
    stage.has_children = True
    stage.region.draw(BAR)
    for step in steps:
        if isinstance(step, bool):
            if step:
                stage.region.prepare_for_process()
            stage.has_children = step
        elif isinstance(step, int):
            stage.clock.now += 0.1 * SHARED_S
            stage.region.draw(BAR * step)
        elif stage.has_children or stage.terminal.screen.margins:
            plain.write(step)
            stage.write_unseen(step)
        else:
            plain.write(step)
            stage.terminal.write(step)
    stage.region.draw([])
    written = [line for line in stage.all_lines() if line]
    stage.terminal.screen, screen = plain.screen, stage.terminal.screen
    assert written == [line for line in stage.all_lines() if line]
    assert screen.margins is None


def test_scroll_region_is_used_only_while_child_process_exists() -> None:
    stage = Stage()
    stage.region.draw(BAR)
    assert stage.terminal.screen.margins is None
    stage.has_children = True
    stage.region.draw(BAR)
    assert stage.terminal.screen.margins == (0, 6)
    assert stage.terminal.lines()[-1] == "bar 50%"
    for number in range(20):
        stage.write_unseen(f"child {number}\n")
    assert stage.terminal.lines() == [*(f"child {number}" for number in range(14, 20)), "", "bar 50%"]
    stage.has_children = False
    stage.clock.now += SHARED_S / 2  # another child may follow
    stage.region.draw(BAR)
    assert stage.terminal.screen.margins == (0, 6)
    stage.clock.now += SHARED_S
    stage.region.draw(BAR)
    assert stage.terminal.screen.margins is None


@pytest.mark.parametrize("rows", [5, 6, 12])
def test_scroll_region_follows_size_of_terminal(rows: int) -> None:
    stage = Stage()
    stage.has_children = True
    stage.region.draw(BAR * 2)
    stage.write_unseen("child\n")
    stage.terminal.screen.resize(lines=rows)
    stage.region.draw(BAR * 2)
    assert stage.terminal.screen.margins == (0, rows - 3)
    assert stage.terminal.lines()[-2:] == ["bar 50%"] * 2
    assert [line for line in stage.all_lines() if line.startswith("child")] == ["child"]


def test_bars_that_fill_the_screen_leave_rows_for_child_process() -> None:
    stage = Stage(rows=4)
    stage.has_children = True
    stage.region.draw(BAR * 9)
    stage.write_unseen("one\ntwo\n")
    assert [line for line in stage.all_lines() if line] == ["one", "two", *["bar 50%"] * 2]


def test_release_removes_scroll_region_and_keeps_bars() -> None:
    stage = Stage()
    stage.has_children = True
    stage.region.draw(BAR)
    stage.write_unseen("child\n")
    stage.region.release()
    assert stage.terminal.screen.margins is None
    assert stage.terminal.lines() == ["child", "bar 50%"]
    stage.write_unseen("$ ")
    assert stage.terminal.lines()[-1] == "$"


def test_frames_after_start_of_process_use_scroll_region_until_it_is_listed() -> None:
    stage = Stage()
    stage.region.draw(BAR)
    stage.region.prepare_for_process()
    assert stage.terminal.lines() == []
    stage.region.draw(BAR)
    stage.write_unseen("".join(f"child {number}\n" for number in range(20)))
    stage.region.draw(BAR)
    assert [line for line in stage.all_lines() if line] == [*(f"child {n}" for n in range(20)), "bar 50%"]
    stage.clock.now += SHARED_S
    stage.region.draw(BAR)
    assert stage.terminal.screen.margins is None


def test_processes_in_quick_succession_do_not_hide_the_bars() -> None:
    stage = Stage()
    for _ in range(50):
        stage.region.draw(BAR)
        assert stage.terminal.lines()[-1] == "bar 50%"
        stage.region.prepare_for_process()
        stage.clock.now += 0.05
        assert stage.region.is_ready()


def test_hooks_of_processes_are_removed_with_the_bars() -> None:
    """On a real terminal. The functions are those of before."""
    code = (
        "import os, subprocess, sys\n"
        "from otel_progress.console.region import Region\n"
        "names = [(os, 'system'), (os, 'write'), (os, 'execve'), (subprocess, '_cleanup')]\n"
        "before = [getattr(*name) for name in names]\n"
        "region = Region(sys.stderr)\n"
        "region.draw([('bar', 3)])\n"
        "hooked = [getattr(*name) for name in names]\n"
        "region.draw([])\n"
        "after = [getattr(*name) for name in names]\n"
        "print(after == before, any(a is b for a, b in zip(before, hooked)), sys.stdout.flush)\n"
    )
    screen = run_on_terminal(code)
    assert screen[0].startswith("True False <built-in method flush of ")


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
def test_only_running_children_on_the_terminal_count() -> None:
    """Children of other tests do not: they have another terminal or none."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        sharing = TerminalSharing(stream)
        assert sharing.is_terminal
        assert not sharing.has_child_processes()
        silent = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert not sharing.has_child_processes()
        loud = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=stream)
        assert sharing.has_child_processes()
        loud.kill()
        os.waitid(os.P_PID, loud.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not reaped
        assert not sharing.has_child_processes()
        assert _has_ended(loud.pid)
        assert not _has_ended(silent.pid)
        silent.kill()
        for process in (silent, loud):
            process.wait(60)
        assert not sharing.has_child_processes()
    os.close(ours)


def test_terminal_is_occupied_while_keys_are_read_without_echo() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        sharing = TerminalSharing(stream)
        normal = termios.tcgetattr(theirs)
        assert not sharing.is_occupied()
        password, single_keys, editor = ([*normal[:3], normal[3], *normal[4:]] for _ in range(3))
        password[3] &= ~termios.ECHO
        single_keys[3] &= ~(termios.ECHO | termios.ICANON)
        editor[3] &= ~(termios.ECHO | termios.ICANON)
        editor[0] &= ~termios.ICRNL
        for attributes, is_occupied in (
            (password, True),
            (single_keys, False),
            (editor, True),
            (normal, False),
        ):
            termios.tcsetattr(theirs, termios.TCSANOW, attributes)
            assert sharing.is_occupied() is is_occupied
        termios.tcsetattr(theirs, termios.TCSANOW, password)
        assert not TerminalSharing(stream).is_occupied()  # it has no echo from the start
    os.close(ours)


# --- programs on a pseudo-terminal ---------------------------------------------------------------

PREAMBLE = """
import os, subprocess, sys, threading, time
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
progress.configure(service_name="test", store="memory:", console="auto")
"""


def start_on_terminal(code: str) -> terminal_process.TerminalProcess:  # type: ignore[name-defined]
    """Start a program on a terminal of its own."""
    environ = {name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR"}}
    environ.update(TERM="xterm-256color", OTEL_PROGRESS_CONSOLE="auto")
    return terminal_process.TerminalProcess([sys.executable, "-c", code], environ, Path.cwd())


def read_lines(output: bytes) -> list[str]:
    """Return all lines of output, without empty ones."""
    screen = pyte.HistoryScreen(80, 24, history=10_000)
    pyte.ByteStream(screen).feed(output)
    assert screen.margins is None
    assert not screen.cursor.hidden
    gone = ["".join(row[x].data for x in range(80)) for row in screen.history.top]
    return [line.rstrip() for line in [*gone, *screen.display] if line.strip()]


def run_on_terminal(code: str) -> list[str]:
    """Run a program to its end and return the lines that it leaves."""
    with start_on_terminal(code) as process:
        assert process.finish() == 0, process.output
        return read_lines(process.output)


OTHER_OUTPUT = """
import ctypes, multiprocessing

def work(number):
    for line in range(20):
        # Why not print: with PYTHONUNBUFFERED, it writes the end of the line separately.
        sys.stdout.write(f"worker {number} line {line}\\n")
        sys.stdout.flush()

with progress.operation("build", "Build", total=3) as op, op.level("file", "b", total=5):
    for command in ("echo one", "seq -f 'burst %g' 1 60", "printf 'half '; sleep 0.3; echo line"):
        wait_for_frame()
        subprocess.run(["sh", "-c", command], check=True)
    wait_for_frame()
    os.system("seq -f 'system %g' 1 5")
    wait_for_frame()
    os.write(2, b"raw 1\\nraw 2\\nraw 3\\n")
    wait_for_frame()
    ctypes.CDLL(None).write(2, b"of an extension\\n", 16)
    wait_for_frame()
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    op.increment(3)
"""


@pytest.mark.process
def test_output_of_children_and_raw_writes_is_whole() -> None:
    lines = run_on_terminal(PREAMBLE + OTHER_OUTPUT)
    workers = [line for line in lines if line.startswith("worker")]
    others = [line for line in lines if not line.startswith("worker")]
    assert others[:-1] == [
        "one",
        *(f"burst {number}" for number in range(1, 61)),
        "half line",
        *(f"system {number}" for number in range(1, 6)),
        *(f"raw {number}" for number in range(1, 4)),
        "of an extension",
    ]
    assert others[-1].startswith("✓ Build completed 3/3")
    assert sorted(workers) == sorted(f"worker {n} line {line}" for n in range(2) for line in range(20))


PROMPTS = """
import getpass, pdb
with progress.operation("install", "Install", total=4) as op:
    wait_for_frame()
    print("answer", input("Overwrite the file? [y/N] "))
    wait_for_frame()
    print("secret", getpass.getpass("Password: "))
    import readline
    wait_for_frame()
    print("text", input("With readline: "))
    wait_for_frame()
    breakpoint()
    print("after")
    op.increment(4)
"""


@pytest.mark.process
def test_prompts_and_debugger_stay_visible() -> None:
    with start_on_terminal(PREAMBLE + PROMPTS) as process:
        for prompt, keys in (
            ("Overwrite the file? [y/N] ", "yes\n"),
            ("Password: ", "open\n"),
            ("With readline: ", "x" * 100 + "\x01y\n"),
            ("(Pdb) ", "p 6 * 7\n"),
            ("(Pdb) ", "c\n"),
        ):
            process.wait_for(prompt)
            if prompt == "Overwrite the file? [y/N] ":
                process.wait_for("Install")  # bars below the open prompt
            process.press(keys)
        assert process.finish() == 0
        lines = read_lines(process.output)
    assert lines[:3] == ["Overwrite the file? [y/N] yes", "answer yes", "Password:"]
    assert lines[3] == "secret open"
    assert "".join(lines[4:8]) == f"With readline: y{'x' * 100}text y{'x' * 100}"
    assert "(Pdb) p 6 * 7" in lines
    assert "42" in lines
    assert lines[-2] == "after"
    assert lines[-1].startswith("✓ Install completed 4/4")


DISPLAYS = """
from otel_progress.console.sharing import TerminalSharing
from tqdm import tqdm
import rich.progress
sharing = TerminalSharing(sys.stderr)

with progress.operation("outer", "Outer") as op:
    wait_for_frame()
    assert not sharing.is_occupied()
    for _ in tqdm(range(2), desc="first", ascii=True):
        for _ in tqdm(range(3), desc="second", leave=True, position=1, ascii=True):
            assert sharing.is_occupied()
        with progress.operation("inner", "Inner"):
            pass
    print("between")
    wait_for_frame()
    with rich.progress.Progress() as bars:
        task = bars.add_task("of rich", total=2)
        assert sharing.is_occupied()
        for _ in range(2):
            print("printed below rich")
            bars.advance(task)
            bars.refresh()
    wait_for_frame()
    with tqdm(range(2), gui=False) as forgotten:
        forgotten.last_print_t -= 60
        assert not sharing.is_occupied()
"""


@pytest.mark.process
@pytest.mark.filterwarnings("ignore")
def test_displays_of_other_libraries_have_the_terminal() -> None:
    lines = run_on_terminal(PREAMBLE + DISPLAYS)
    text = "\n".join(lines)
    assert "first: 100%|" in text
    assert [line for line in lines if line.startswith("printed below rich")] == ["printed below rich"] * 2
    assert any(line.startswith("of rich ━") and "100%" in line for line in lines)
    assert sum(line.startswith("✓ Inner") for line in lines) == 2
    assert lines[-1].startswith("✓ Outer")


@pytest.mark.process
def test_killed_process_without_children_leaves_no_scroll_region() -> None:
    code = PREAMBLE + "with progress.operation('x'):\n  wait_for_frame(); os.kill(os.getpid(), 9)"
    with start_on_terminal(code) as process:
        assert process.finish() == -9
        read_lines(process.output)


@pytest.mark.process
def test_exec_removes_bars() -> None:
    code = "with progress.operation('x'):\n  wait_for_frame(); os.execvp('sh', ['sh', '-c', 'seq 5'])"
    end, *lines = run_on_terminal(PREAMBLE + code)
    assert "x cancelled" in end
    assert lines == ["1", "2", "3", "4", "5"]


@pytest.mark.process
def test_lines_of_a_busy_thread_are_complete() -> None:
    code = (
        "def talk():\n  for number in range(1000): print('line', number)\n"
        "with progress.operation('x'):\n  wait_for_frame()\n"
        "  thread = threading.Thread(target=talk); thread.start(); thread.join()\n"
    )
    lines = run_on_terminal(PREAMBLE + code)
    assert lines[:-1] == [f"line {number}" for number in range(1000)]


@pytest.mark.process
def test_errors_of_popen_show_no_hook_in_their_traceback() -> None:
    code = "with progress.operation('x'):\n  wait_for_frame(); subprocess.run(['/does/not/exist'])"
    with start_on_terminal(PREAMBLE + code) as process:
        assert process.finish() == 1
        lines = read_lines(process.output)
    assert not any("otel_progress/console" in line for line in lines)
    assert any(line.startswith("FileNotFoundError") for line in lines)


def test_clock_of_region_is_monotonic() -> None:
    """The default clock continues when the time of day changes."""
    region = Region(Terminal())  # type: ignore[arg-type]
    assert region._clock is time.monotonic
