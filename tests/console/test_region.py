"""The block at the bottom of the terminal, on an emulated terminal."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.console.region import Region
from tests.support.terminal import Terminal


@pytest.fixture
def terminal() -> Terminal:
    """A terminal of 60 columns and 20 rows."""
    return Terminal()


def region_on(terminal: Terminal) -> Region:
    """Return a region at the bottom of a terminal."""
    return Region(terminal, size=terminal.size)  # type: ignore[arg-type]  # all that is used of a TextIO


def block(*lines: str) -> list[tuple[str, int]]:
    """Return lines as a region takes them."""
    return [(line, len(line)) for line in lines]


def test_a_block_is_redrawn_in_place(terminal: Terminal) -> None:
    """Longer, shorter and fewer lines leave nothing of the frame before."""
    region = region_on(terminal)
    region.draw(block("one long line", "two", "three"))
    region.draw(block("1", "2"))
    assert terminal.lines() == ["1", "2"]


def test_print_and_logging_come_out_above(terminal: Terminal) -> None:
    """A handler that took the stream before the block was there is no different."""
    handler = logging.StreamHandler(terminal)  # type: ignore[type-var]
    region = region_on(terminal)
    region.draw(block("bar"))
    print("printed", 1, file=terminal)  # type: ignore[arg-type]
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "logged", None, None))
    terminal.writelines(["a\n", "b\n"])  # type: ignore[attr-defined]
    region.draw(block("bar"))
    assert terminal.lines() == ["printed 1", "logged", "a", "b", "bar"]


def test_a_line_begun_is_continued(terminal: Terminal) -> None:
    """``print("Loading…", end="")`` is not torn apart by frames in between."""
    region = region_on(terminal)
    region.draw(block("bar", "bar"))
    terminal.write("Loading…")
    region.draw(block("bar", "bar"))
    assert terminal.lines() == ["Loading…", "bar", "bar"]
    region.draw(block("baz"))
    terminal.write(" done\n")
    region.draw(block("bar"))
    assert terminal.lines() == ["Loading… done", "bar"]


def test_another_progress_bar_lives_above(terminal: Terminal) -> None:
    """A line that is rewritten with carriage returns (tqdm) stays one line."""
    region = region_on(terminal)
    region.draw(block("bar"))
    for percent in range(0, 100, 10):
        terminal.write(f"\r{percent}%|##  |")
        region.draw(block("bar"))
    assert terminal.lines() == ["90%|##  |", "bar"]


def test_lines_for_good_stay_above_the_block(terminal: Terminal) -> None:
    """They are written once, and scroll like everything else."""
    region = region_on(terminal)
    region.draw(block("a", "b"))
    region.draw(block("b"), above=["a ended"])
    region.draw([], above=["b ended"])
    assert terminal.lines() == ["a ended", "b ended"]
    assert "write" not in vars(terminal)


def test_a_begun_line_ends_where_lines_for_good_come(terminal: Terminal) -> None:
    """It cannot be continued once something stands below it."""
    region = region_on(terminal)
    region.draw(block("bar"))
    terminal.write("begun")
    region.draw(block("bar"), above=["ended"])
    terminal.write("next\n")
    region.draw([])
    assert terminal.lines() == ["begun", "ended", "next"]


def test_a_character_wider_than_thought_does_not_wrap(terminal: Terminal) -> None:
    """A line that turns out too long is cut by the terminal, and the frame keeps its height."""
    region = region_on(terminal)
    for _ in range(3):
        region.draw([("x" * 100, 59), ("second", 6)])
    assert terminal.lines()[1:] == ["second"]


def test_a_frame_never_leaves_the_cursor_hidden(terminal: Terminal) -> None:
    """What hides it shows it again, in the same write."""
    region = region_on(terminal)
    region.draw(block("bar"))
    terminal.write("text\n")
    region.draw([])
    assert all(text.count("\x1b[?25l") == text.count("\x1b[?25h") for text in terminal.writes)
    assert all(text.count("\x1b[?7l") == text.count("\x1b[?7h") for text in terminal.writes)


def test_a_narrower_terminal_has_wrapped_the_block(terminal: Terminal) -> None:
    """The way up is as many rows as the lines take now."""
    region = region_on(terminal)
    region.draw(block("x" * 59, "y" * 20))
    terminal.screen.resize(columns=30)
    region.draw(block("z"))
    assert "\x1b[3A" in terminal.writes[-1]


def test_nothing_is_written_when_there_is_nothing(terminal: Terminal) -> None:
    """No block, no escape: a program without progress keeps a clean terminal."""
    region_on(terminal).draw([])
    assert terminal.writes == []


def test_a_hook_of_somebody_else_stays(terminal: Terminal) -> None:
    """Who hooks the stream after us is not unhooked by us, and still reaches the terminal."""
    region = region_on(terminal)
    region.draw(block("bar"))
    ours, seen = terminal.write, []
    terminal.write = lambda text: (seen.append(text), ours(text))[1]  # type: ignore[method-assign]
    region.draw([])
    terminal.write("later\n")
    assert terminal.lines() == ["later"]
    assert seen[-1] == "later\n"


# Wide characters and carriage returns apart: the emulator does not show half a wide character that was written over.
STEPS = st.sampled_from(["ab混 \n", "ab \n\r"]).flatmap(
    lambda alphabet: st.lists(st.one_of(st.text(alphabet, max_size=6), st.integers(0, 3)), max_size=12)
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_is_written_stays_as_it_would_be_without_a_block(steps: list[str | int]) -> None:
    """Frames in between, of any height, change nothing of what others write."""
    plain, shared = Terminal(80, 90), Terminal(80, 90)
    region = region_on(shared)
    region.draw(block("bar"))  # from now on the region sees what is written
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
from otel_progress.console.region import Region
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
    signal.alarm(30)  # or one that waits for the lock would outlive the test
    print("from the child", flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this platform")
def test_a_forked_child_can_print() -> None:
    """A thread of the parent held the lock at the fork; the child has let go of it."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "from the child" in run.stdout
