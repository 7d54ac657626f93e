"""Batches and requests to stop in the terminal display, live and as plain lines."""

from __future__ import annotations

import io
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from otel_progress.batches import BatchCursor
from otel_progress.console.batches import MAX_SHOWN_BATCHES, format_batch, render_batch
from otel_progress.console.glyphs import ASCII, UNICODE
from otel_progress.console.plain import INTERVAL_S, PlainConsole
from otel_progress.console.terminal import LiveConsole
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from tests.support.factories import WALL, operation, snapshot
from tests.support.terminal import Clock, Shelf, Terminal, tick

EVIL = "\x1b]0;evil\x07[bold]\r\nline\u202e"
UNSAFE = set("\x1b\x07\r\n\u202e")


def group(
    id: str = "thumbs", name: str = "Thumbnails", total: int | None = 40, **counts: int
) -> BatchSnapshot:
    """Return a batch as read ten seconds after it began; counts by status."""
    found = MappingProxyType({status: counts.get(status.value, 0) for status in Status})
    ended = sum(count for status, count in found.items() if status.finished)
    ratio = None if total is None else ended / total
    return BatchSnapshot(id, name, "images", total, WALL, None, WALL + 10, found, ratio, 2.0, 9.0, (), ())


def live(terminal: Terminal, shelf: Shelf, **options: Any) -> LiveConsole:
    """Return a display on a terminal."""
    return LiveConsole(shelf, terminal, clock=Clock(), size=terminal.size, **options)  # type: ignore[arg-type]


def test_a_batch_under_way_has_one_line_below() -> None:
    """Its bar, percentage, counts, pace and remaining time, under the operations."""
    terminal, shelf = Terminal(110), Shelf(operation())
    shelf.groups = [group(completed=9, failed=1, running=4)]
    live(terminal, shelf).show_operations(shelf.active())
    *above, line = terminal.lines()
    assert any("friday-42" in one for one in above)
    assert (
        line
        == "● images Thumbnails ━━━━━─────────────── 25% 10/40 operations 4 running 1 failed 2.0/s after 10s 9.0s left"
    )


def test_no_more_than_a_few_batches_and_half_of_the_screen() -> None:
    """Many batches take a few lines, and a small terminal keeps room for the operations."""
    shelf = Shelf(operation())
    shelf.groups = [group(f"b{number}", f"Many {number}", running=1) for number in range(10)]
    terminal = Terminal(80, 20)
    live(terminal, shelf).show_operations(shelf.active())
    assert sum("Many" in line for line in terminal.lines()) == MAX_SHOWN_BATCHES
    small = Terminal(80, 4)
    live(small, shelf).show_operations(shelf.active())
    assert sum("Many" in line for line in small.lines()) == 1
    assert any("friday-42" in line for line in small.lines())


def test_a_batch_that_is_over_leaves_its_line_behind() -> None:
    """Once, above the display; also when it is closed after the last operation has ended."""
    terminal, shelf = Terminal(110), Shelf(operation())
    shelf.groups = [group(completed=39, running=1)]
    console = live(terminal, shelf)
    console.show_operations(shelf.active())
    shelf.operations, shelf.groups = (), [replace(group(completed=38, failed=2), ended_at=WALL + 8)]
    console.close()
    assert terminal.lines() == [
        "✗ images Thumbnails ━━━━━━━━━━━━━━━━━━━━ 100% 40/40 operations 2 failed 2.0/s in 8.0s"
    ]


def test_a_batch_without_operations_says_nothing_yet() -> None:
    """And none does when batches are not wanted, as while watching single operations."""
    terminal, shelf = Terminal(), Shelf(operation())
    shelf.groups = [group()]
    live(terminal, shelf).show_operations(shelf.active())
    shelf.groups = [group(running=1)]
    live(terminal, shelf, batches=False).show_operations(shelf.active())
    assert not any("Thumbnails" in line for line in terminal.lines())


def test_a_journal_that_cannot_be_read_for_a_moment_ends_no_display() -> None:
    """The operations are drawn without the batches."""

    class Torn(Shelf):
        def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> list[BatchSnapshot]:
            raise JournalError(f"{limit} {after}")

    terminal, shelf = Terminal(110), Torn(operation())
    live(terminal, shelf).show_operations(shelf.active())
    assert any("friday-42" in line for line in terminal.lines())


@pytest.mark.parametrize("width", [1, 5, 20, 79, 80, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_a_line_fits_and_harms_no_terminal(width: int, glyphs: Any) -> None:
    """Whatever a batch is called and however narrow the terminal is."""
    for one in (
        group(EVIL, EVIL, total=None, running=3),
        group("x" * 10_000, "漢字" * 5_000, total=3, failed=1),
    ):
        line = render_batch(one, width, glyphs)
        assert line.cell_len <= width
        assert not UNSAFE & set(line.plain)
        assert not UNSAFE & set(format_batch(one))


def test_an_unknown_total_has_no_bar_and_no_percentage() -> None:
    """Never 0 %, which would be a claim."""
    line = render_batch(group(total=None, completed=3), 200, UNICODE).plain
    assert line.startswith("● images Thumbnails 3 operations")
    assert "%" not in line


def test_plain_lines_tell_of_batches_at_each_interval_and_at_the_end() -> None:
    """One line a batch and interval, and one when it is over."""
    stream, clock, shelf = io.StringIO(), Clock(), Shelf(operation())
    console = PlainConsole(shelf, stream, clock=clock)  # type: ignore[arg-type]
    shelf.groups = [group(completed=10, running=4)]
    console.write(tick(snapshot()))
    assert "Thumbnails" not in stream.getvalue()
    clock.now += INTERVAL_S
    console.write(tick(snapshot(sequence=2)))
    assert stream.getvalue().count("images Thumbnails (thumbs) running 25% 10/40 operations 4 running") == 1
    shelf.operations, shelf.groups = (), [replace(group(completed=40), ended_at=WALL + 8)]
    console.close()
    assert (
        stream.getvalue().splitlines()[-1].endswith("(thumbs) completed 100% 40/40 operations 2.0/s in 8.0s")
    )


def test_an_operation_that_was_asked_to_stop_is_cancelling() -> None:
    """Until it has; live and as a plain line."""
    asked = operation(cancel_requested_at=WALL + 5)
    terminal, stream = Terminal(110), io.StringIO()
    live(terminal, Shelf(asked)).show_operations([asked])
    assert "cancelling" in terminal.lines()[0]
    PlainConsole(Shelf(asked), stream, clock=Clock()).show_operations([asked])  # type: ignore[arg-type]
    assert " running cancelling " in stream.getvalue()
    over = operation(
        snapshot(status=Status.CANCELLED, ended_at=WALL + 9, duration_s=9.0), cancel_requested_at=WALL + 5
    )
    ended = io.StringIO()
    PlainConsole(Shelf(over), ended, clock=Clock()).show_operations((), [over])  # type: ignore[arg-type]
    assert "cancelled" in ended.getvalue()
    assert "cancelling" not in ended.getvalue()
