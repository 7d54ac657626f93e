"""The display while work runs: a live tree of bars on a terminal, plain lines elsewhere. Both are Sinks over any Reader."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

from otel_progress.console.batches import BatchWatch, render_batch
from otel_progress.console.glyphs import choose_glyphs
from otel_progress.console.layout import render_finished, render_tree
from otel_progress.console.plain import PlainConsole, find_finished_roots, load_finished_operation
from otel_progress.console.rate_limit import RateLimiter
from otel_progress.console.region import Region
from otel_progress.errors import JournalError
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet, Reader
from otel_progress.settings.parsing import ConsoleMode

REFRESH_S: Final = 0.1
"""Shortest time between two frames, in seconds."""


MAX_DRAWING_RATIO: Final = 0.03
"""Largest share of wall time that drawing may take; after a slow frame the next one waits for longer."""


_TOLERANCE_S: Final = 0.01
"""A tick that comes a little early still draws: or every second frame would be lost."""


class LiveConsole:
    """A Sink that draws the running operations of ``reader`` in place on ``stream`` (a terminal; default: stderr).

    The display is there while something runs; each operation that ends leaves a line (and some of its failed levels) behind.
    ``write`` and ``show`` are called from one thread at a time. They raise OSError or ValueError when the terminal has gone; from
    then on nothing is drawn. Batches under way have a line each below, at most three, unless ``batches`` is False.
    ``clock`` is monotonic, in seconds; ``size`` gives columns and rows; ``color`` None asks NO_COLOR.
    """

    def __init__(
        self,
        reader: Reader,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], tuple[int, int]] | None = None,
        color: bool | None = None,
        batches: bool = True,
    ) -> None:
        self._reader = reader
        self._batches = BatchWatch(reader) if batches else None
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._region = Region(self._stream, size=size)
        # Only turns styles into escapes (or not: NO_COLOR); what reaches the terminal goes through the region.
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=10_000,
            highlight=False,
            no_color=None if color is None else not color,
        )
        self._glyphs = choose_glyphs(self._stream.encoding)
        self._allowance = RateLimiter(clock)
        self._ended: list[OperationSnapshot] = []
        self._due = 0.0
        self._gone = False

    def write(self, batch: ChangeSet) -> None:
        """Draw what one tick brought, unless the last frame is too fresh; an end is never missed."""
        if self._gone:
            return
        began = self._clock()
        roots = _sort_failed_first(find_finished_roots(batch))
        self._ended.extend(
            load_finished_operation(self._reader, batch, root) for root in roots if self._allowance.allow()
        )
        early = began + _TOLERANCE_S < self._due
        if early and not roots:
            return
        active = self._reader.active(levels=False)
        if early and active:  # there will be another tick; after the very last end there may be none
            return
        if active and len(active) <= self._region.size[1]:
            active = self._reader.active()
        self._draw(active, began)

    def show_operations(
        self, active: Sequence[OperationSnapshot], ended: Sequence[OperationSnapshot] = ()
    ) -> None:
        """Draw operations that somebody else has read: those that run, and those that ended since the last call."""
        if not self._gone:
            self._ended.extend(operation for operation in ended if self._allowance.allow())
            self._draw(active, self._clock())

    def close(self) -> None:
        """Leave the last frame on the screen and let go of the streams; the stream stays open."""
        if not self._gone and (self._ended or self._batch_may_be_over()):
            self._draw((), self._clock())
        self._region.release()

    def _draw(self, active: Sequence[OperationSnapshot], began: float) -> None:
        if not self._region.is_ready():
            return
        columns, rows = self._region.size
        width = max(1, columns - 1)
        at_work, over = ((), ()) if self._batches is None else self._batches.poll()
        height = max(1, rows - 1)
        groups = [render_batch(batch, width, self._glyphs) for batch in at_work][: height // 2]
        lines = [*render_tree(active, width=width, height=height - len(groups), glyphs=self._glyphs), *groups]
        above = [
            line
            for operation in self._ended
            for line in render_finished(operation, width=width, glyphs=self._glyphs)
        ]
        above.extend(render_batch(batch, width, self._glyphs) for batch in over)
        if not active or self._allowance.suppressed > 100:
            above.extend(self._refused())
        try:
            self._region.draw(
                [(self._paint(line), line.cell_len) for line in lines], [self._paint(line) for line in above]
            )
        except (OSError, ValueError):
            self._gone = True
            self._region.release()
            raise
        self._ended.clear()
        spent = self._clock() - began
        self._due = began + max(REFRESH_S, spent / MAX_DRAWING_RATIO)

    def _batch_may_be_over(self) -> bool:
        """Return whether a batch was shown and nothing runs any more: it is closed after its last operation has ended."""
        with suppress(JournalError):
            return (
                self._batches is not None
                and self._batches.has_active
                and not self._reader.active(levels=False)
            )
        return False

    def _refused(self) -> list[Text]:
        refused = self._allowance.take_suppressed()
        return [Text(f"{self._glyphs.more} {refused} more operations ended", style="dim")] if refused else []

    def _paint(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True)
        return capture.get()


def make_console(
    reader: Reader,
    *,
    stream: TextIO | None = None,
    mode: ConsoleMode = "auto",
    environ: Mapping[str, str] | None = None,
    color: bool | None = None,
    batches: bool = True,
) -> LiveConsole | PlainConsole | None:
    """Return the display that suits ``stream`` (default: stderr), or None when ``mode`` is False or there is no stream.

    ``True`` draws whatever the stream is; ``"auto"`` draws on a terminal, and writes plain lines to a file or pipe, to
    ``TERM=dumb``, under CI and in notebooks. ``batches`` says whether batches have lines.
    """
    target = stream if stream is not None else sys.stderr
    if mode is False or target is None:  # there is no stderr under pythonw
        return None
    if mode is True or _can_draw_on(target, os.environ if environ is None else environ):
        return LiveConsole(reader, target, color=color, batches=batches)
    return PlainConsole(reader, target, batches=batches)


def _can_draw_on(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream is a terminal that takes escapes and that somebody looks at."""
    try:
        terminal = stream.isatty() and not stream.closed
    except (AttributeError, ValueError):
        return False
    if not terminal or environ.get("TERM", "").lower() in {"dumb", "unknown"}:
        return False
    if environ.get("CI", "").lower() not in {"", "0", "false"}:
        return False
    return not Console(file=stream).legacy_windows


def _sort_failed_first(roots: list[LevelSnapshot]) -> list[LevelSnapshot]:
    return sorted(roots, key=lambda root: root.status is not Status.FAILED)
