"""Block of lines below the cursor of an emulated terminal."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.console.region import Region, _Hook
from tests.support.examples import scale_examples
from tests.support.terminal import Terminal


@pytest.fixture
def terminal() -> Terminal:
    """Emulated terminal of 60 columns and 20 rows."""
    return Terminal()


def region_on(terminal: Terminal) -> Region:
    """Return a region at the bottom of a terminal."""
    return Region(terminal, size=terminal.size)  # type: ignore[arg-type]


def block(*lines: str) -> list[tuple[str, int]]:
    """Return lines with their widths."""
    return [(line, len(line)) for line in lines]


def test_block_is_redrawn_in_place(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("one long line", "two", "three"))
    region.draw(block("1", "2"))
    assert terminal.lines() == ["", "1", "2"]


def test_print_and_logging_are_above_the_block(terminal: Terminal) -> None:
    handler = logging.StreamHandler(terminal)  # type: ignore[type-var]
    region = region_on(terminal)
    region.draw(block("bar"))
    print("printed", 1, file=terminal)  # type: ignore[arg-type]
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "logged", None, None))
    terminal.writelines(["a\n", "b\n"])  # type: ignore[attr-defined]
    region.draw(block("bar"))
    assert terminal.lines() == ["printed 1", "logged", "a", "b", "", "bar"]


def test_partial_line_is_continued_after_frames(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("bar", "bar"))
    terminal.write("Loading…")
    region.draw(block("bar", "bar"))
    assert terminal.lines() == ["Loading…", "bar", "bar"]
    region.draw(block("baz"))
    terminal.write(" done\n")
    region.draw(block("bar"))
    assert terminal.lines() == ["Loading… done", "", "bar"]


def test_rewritten_line_of_other_bar_is_above_the_block(terminal: Terminal) -> None:
    """tqdm rewrites its line with carriage returns."""
    region = region_on(terminal)
    region.draw(block("bar"))
    for percent in range(0, 100, 10):
        terminal.write(f"\r{percent}%|##  |")
        region.draw(block("bar"))
    assert terminal.lines() == ["90%|##  |", "bar"]


def test_permanent_lines_are_above_the_block(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("a", "b"))
    region.draw(block("b"), above=["a done"])
    region.draw([], above=["b done"])
    assert terminal.lines() == ["a done", "b done"]
    assert "write" not in vars(terminal)


def test_partial_line_ends_before_permanent_lines(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("bar"))
    terminal.write("partial")
    region.draw(block("bar"), above=["permanent"])
    terminal.write("next\n")
    region.draw([])
    assert terminal.lines() == ["partial", "permanent", "next"]


def test_line_wider_than_its_cells_does_not_wrap(terminal: Terminal) -> None:
    region = region_on(terminal)
    for _ in range(3):
        region.draw([("x" * 100, 59), ("second", 6)])
    assert terminal.lines()[2:] == ["second"]


def test_every_write_shows_the_cursor_again(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("bar"))
    terminal.write("text\n")
    region.draw([])
    assert all(text.count("\x1b[?25l") == text.count("\x1b[?25h") for text in terminal.writes)
    assert all(text.count("\x1b[?7l") == text.count("\x1b[?7h") for text in terminal.writes)


def test_block_on_narrowed_terminal_is_redrawn(terminal: Terminal) -> None:
    region = region_on(terminal)
    terminal.write("text\n")
    region.draw(block("x" * 59, "y" * 20))
    terminal.screen.resize(columns=30)
    region.draw(block("z"))
    assert terminal.lines() == ["text", "", "z"]


def test_empty_block_writes_nothing(terminal: Terminal) -> None:
    region_on(terminal).draw([])
    assert terminal.writes == []


def test_later_hook_of_stream_is_not_removed(terminal: Terminal) -> None:
    region = region_on(terminal)
    region.draw(block("bar"))
    region_write, written = terminal.write, []
    terminal.write = lambda text: (written.append(text), region_write(text))[1]  # type: ignore[method-assign]
    region.draw([])
    terminal.write("later\n")
    assert terminal.lines() == ["later"]
    assert written[-1] == "later\n"


@contextmanager
def replaced_write(terminal: Terminal, written: list[str]) -> Iterator[None]:
    """Replace the method for the length of a block, as IPython does for each cell."""
    before = terminal.write
    terminal.write = lambda text: (written.append(text), before(text))[1]  # type: ignore[method-assign]
    yield
    terminal.write = before  # type: ignore[method-assign]


def test_block_that_was_drawn_while_write_was_replaced_is_removed_by_output(terminal: Terminal) -> None:
    """The hook is lost when the method is restored. The next frame adds it again."""
    region, written = region_on(terminal), []
    with replaced_write(terminal, written):
        region.draw(block("bar"))
        terminal.write("first\n")
        region.draw(block("bar"))
    region.draw(block("a long bar"))
    terminal.write("second\n")
    assert terminal.lines() == ["first", "second"]
    assert written == ["first\n"], "frames are no output of the program"


def test_write_that_is_replaced_often_calls_one_hook(terminal: Terminal) -> None:
    """Output reaches the terminal once, and the hooks do not become more."""
    region, written = region_on(terminal), []
    for number in range(200):
        if number % 3:
            region.draw(block("bar"))
        with replaced_write(terminal, written):
            region.draw(block("bar"))
            terminal.write("x\n")
            if number % 2:
                region.draw([])
        terminal.write("y\n")
    region.draw([])
    depth, function = 0, terminal.write
    while isinstance(hook := getattr(function, "hook", None), _Hook):
        depth, function = depth + 1, hook.write  # type: ignore[method-assign]
    assert depth <= 1
    assert written == ["x\n"] * 200
    assert [text for text in terminal.writes if text in ("x\n", "y\n")] == ["x\n", "y\n"] * 200


# Wide characters and carriage returns are separate: the emulator cannot show an overwritten half.
STEPS = st.sampled_from(["ab混 \n", "ab \n\r"]).flatmap(
    lambda alphabet: st.lists(st.one_of(st.text(alphabet, max_size=6), st.integers(0, 3)), max_size=12)
)


@settings(max_examples=scale_examples(150), deadline=None)
@given(STEPS)
def test_any_output_is_unchanged_by_frames(steps: list[str | int]) -> None:
    plain, shared = Terminal(80, 90), Terminal(80, 90)
    region = region_on(shared)
    region.draw(block("bar"))  # adds the hooks
    for step in steps:
        if isinstance(step, str):
            plain.write(step)
            shared.write(step)
        else:
            region.draw(block(*["bar"] * (step + 1)))
    region.draw([])
    assert shared.lines() == plain.lines()


FORKING = """
import os, signal, sys, threading
from otel_progress.console.region import Region, _Hook
region = Region(sys.stdout, size=lambda: (80, 24))
region.draw([("bar", 3)])
held = threading.Event()
def hold():
    with region._lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that waits for the lock must not outlive the test
    print("from the child", flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this platform")
def test_forked_child_can_print_while_parent_holds_lock() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "from the child" in run.stdout
