"""Batches and cancellation requests in the live and the plain display."""

from __future__ import annotations

import io
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from otel_progress.console.batches import MAX_SHOWN_BATCHES, format_batch, render_batch
from otel_progress.console.glyphs import ASCII, UNICODE
from otel_progress.console.plain import INTERVAL_S, PlainConsole
from otel_progress.console.terminal import LiveConsole
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery
from tests.support.factories import WALL, operation, snapshot
from tests.support.terminal import Clock, Shelf, Terminal, tick

EVIL = "\x1b]0;evil\x07[bold]\r\nline\u202e"
UNSAFE = set("\x1b\x07\r\n\u202e")


def group(
    id: str = "thumbs", name: str = "Thumbnails", total: int | None = 40, **counts: int
) -> BatchSnapshot:
    """Return a batch ten seconds after its start, with counts by status."""
    by_status = MappingProxyType({status: counts.get(status.value, 0) for status in Status})
    finished = sum(count for status, count in by_status.items() if status.finished)
    ratio = None if total is None else finished / total
    return BatchSnapshot(id, name, "images", total, WALL, None, WALL + 10, by_status, ratio, 2.0, 9.0, (), ())


def live(terminal: Terminal, shelf: Shelf, **options: Any) -> LiveConsole:
    """Return a display on a terminal."""
    return LiveConsole(shelf, terminal, clock=Clock(), size=terminal.size, **options)  # type: ignore[arg-type]


def test_active_batch_has_one_line_below_operations() -> None:
    terminal, shelf = Terminal(110), Shelf(operation())
    shelf.groups = [group(completed=9, failed=1, running=4)]
    live(terminal, shelf).show_operations(shelf.active())
    *above, line = terminal.lines()
    assert any("friday-42" in operation_line for operation_line in above)
    assert line == (
        "● images Thumbnails ━━━━━─────────────── 25% 10/40 operations "
        "4 running 1 failed 2.0/s after 10s 9.0s left"
    )


def test_batches_use_at_most_half_of_the_screen() -> None:
    shelf = Shelf(operation())
    shelf.groups = [group(f"b{number}", f"Many {number}", running=1) for number in range(10)]
    terminal = Terminal(80, 20)
    live(terminal, shelf).show_operations(shelf.active())
    assert sum("Many" in line for line in terminal.lines()) == MAX_SHOWN_BATCHES
    small = Terminal(80, 4)
    live(small, shelf).show_operations(shelf.active())
    assert sum("Many" in line for line in small.lines()) == 1
    assert any("friday-42" in line for line in small.lines())


def test_finished_batch_leaves_one_line() -> None:
    """Also if it is closed after its last operation."""
    terminal, shelf = Terminal(110), Shelf(operation())
    shelf.groups = [group(completed=39, running=1)]
    console = live(terminal, shelf)
    console.show_operations(shelf.active())
    shelf.operations, shelf.groups = (), [replace(group(completed=38, failed=2), ended_at=WALL + 8)]
    console.close()
    assert terminal.lines() == [
        "✗ images Thumbnails ━━━━━━━━━━━━━━━━━━━━ 100% 40/40 operations 2 failed 2.0/s in 8.0s"
    ]


def test_batch_without_operations_has_no_line() -> None:
    """Nor with ``batches=False``."""
    terminal, shelf = Terminal(), Shelf(operation())
    shelf.groups = [group()]
    live(terminal, shelf).show_operations(shelf.active())
    shelf.groups = [group(running=1)]
    live(terminal, shelf, batches=False).show_operations(shelf.active())
    assert not any("Thumbnails" in line for line in terminal.lines())


def test_unreadable_batches_do_not_stop_the_display() -> None:

    class Unreadable(Shelf):
        def batches(self, query: BatchQuery = BatchQuery()) -> list[BatchSnapshot]:
            raise JournalError(str(query))

    terminal, shelf = Terminal(110), Unreadable(operation())
    live(terminal, shelf).show_operations(shelf.active())
    assert any("friday-42" in line for line in terminal.lines())


@pytest.mark.parametrize("width", [1, 5, 20, 79, 80, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_batch_line_fits_width_and_has_no_control_characters(width: int, glyphs: Any) -> None:
    for batch in (
        group(EVIL, EVIL, total=None, running=3),
        group("x" * 10_000, "漢字" * 5_000, total=3, failed=1),
    ):
        line = render_batch(batch, width, glyphs)
        assert line.cell_len <= width
        assert not UNSAFE & set(line.plain)
        assert not UNSAFE & set(format_batch(batch))


def test_batch_without_total_has_no_bar_and_percentage() -> None:
    line = render_batch(group(total=None, completed=3), 200, UNICODE).plain
    assert line.startswith("● images Thumbnails 3 operations")
    assert "%" not in line


def test_plain_console_writes_batches_per_interval_and_at_end() -> None:
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


def test_operation_with_cancel_request_is_cancelling_until_its_end() -> None:
    cancelling = operation(cancel_requested_at=WALL + 5)
    terminal, stream = Terminal(110), io.StringIO()
    live(terminal, Shelf(cancelling)).show_operations([cancelling])
    assert "cancelling" in terminal.lines()[1]
    PlainConsole(Shelf(cancelling), stream, clock=Clock()).show_operations([cancelling])  # type: ignore[arg-type]
    assert " running cancelling " in stream.getvalue()
    cancelled = operation(
        snapshot(status=Status.CANCELLED, ended_at=WALL + 9, duration_s=9.0), cancel_requested_at=WALL + 5
    )
    ended = io.StringIO()
    PlainConsole(Shelf(cancelled), ended, clock=Clock()).show_operations((), [cancelled])  # type: ignore[arg-type]
    assert "cancelled" in ended.getvalue()
    assert "cancelling" not in ended.getvalue()
