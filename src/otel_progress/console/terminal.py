"""Live display of operations: a tree of bars on a terminal, plain lines elsewhere."""

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

from otel_progress.console.batches import make_batch_watch, render_batch
from otel_progress.console.glyphs import choose_glyphs
from otel_progress.console.layout import render_finished, render_tree
from otel_progress.console.plain import PlainConsole, find_finished_roots, load_finished_operation
from otel_progress.console.rate_limit import RateLimiter
from otel_progress.console.region import Region
from otel_progress.console.streams import get_encoding
from otel_progress.errors import JournalError
from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet, Reader
from otel_progress.settings.parsing import AutoMode

REFRESH_S: Final = 0.1
"""Shortest time between two frames. Changes in between are drawn with the next frame."""


MAX_DRAWING_RATIO: Final = 0.03
"""Largest share of wall time for drawing. After a slow frame the next one is delayed."""


MAX_WAITING: Final = 100
"""Finished operations whose lines wait while the terminal is in use. Further ones are counted."""


_TOLERANCE_S: Final = 0.01
"""Time by which a tick may be early and still draw. Otherwise every second frame would be lost."""


class LiveConsole:
    """Sink that draws active operations on a terminal ``stream`` (default: stderr).

    Each finished operation leaves a line, with lines for its last failed levels. Up to three active
    batches have a line below the operations, unless ``batches`` is False. ``clock`` is monotonic,
    in seconds. ``size`` returns columns and rows. ``color`` None follows NO_COLOR.
    ``has_child_processes`` returns whether a child process may write to the terminal.

    ``write`` and ``show_operations`` are called from one thread at a time. They raise OSError or
    ValueError if the terminal is closed. After that, nothing is drawn.
    """

    is_live_display: Final = True
    """Other sinks do not have this attribute."""

    def __init__(
        self,
        reader: Reader,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], tuple[int, int]] | None = None,
        color: bool | None = None,
        batches: bool | Sequence[str] = True,
        has_child_processes: Callable[[], bool] | None = None,
    ) -> None:
        self._reader = reader
        self._batches = make_batch_watch(reader, batches)
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._region = Region(self._stream, size=size, has_child_processes=has_child_processes, clock=clock)
        # Why: this console only converts styles to escape sequences. The region writes them.
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=10_000,
            highlight=False,
            no_color=None if color is None else not color,
        )
        self._glyphs = choose_glyphs(get_encoding(self._stream))
        self._rate_limiter = RateLimiter(clock)
        self._finished: list[OperationSnapshot] = []
        self._next_frame_at = 0.0
        self._is_closed = False

    def write(self, batch: ChangeSet) -> None:
        """Draw the changes of one tick, unless the last frame is too recent.

        Ends are always drawn.
        """
        if self._is_closed:
            return
        started_at = self._clock()
        roots = _sort_failed_first(find_finished_roots(batch))
        self._finished.extend(
            load_finished_operation(self._reader, batch, root) for root in roots if self._rate_limiter.allow()
        )
        is_early = started_at + _TOLERANCE_S < self._next_frame_at
        if is_early and not roots:
            return
        active = self._reader.active(levels=False)
        if is_early and active:  # another tick follows, which is not certain after the last end
            return
        if active and len(active) <= self._region.size[1]:
            active = self._reader.active()
        self._draw(active, started_at)

    def show_operations(
        self, active: Sequence[OperationSnapshot], finished: Sequence[OperationSnapshot] = ()
    ) -> None:
        """Draw active operations, and the ones that finished since the last call."""
        if not self._is_closed:
            self._finished.extend(operation for operation in finished if self._rate_limiter.allow())
            self._draw(active, self._clock())

    def close(self) -> None:
        """Keep the last frame on the screen and remove the hooks. The stream remains open."""
        if not self._is_closed and (self._finished or self._may_have_finished_batch()):
            self._draw((), self._clock(), is_last=True)
        self._region.release()

    def _draw(self, active: Sequence[OperationSnapshot], started_at: float, *, is_last: bool = False) -> None:
        # Why: the last lines would be lost while another display has the terminal.
        if not (self._region.is_writable() if is_last else self._region.is_ready()):
            self._rate_limiter.suppressed += len(self._finished[MAX_WAITING:])
            del self._finished[MAX_WAITING:]
            return
        columns, rows = self._region.size
        width = max(1, columns - 1)
        active_batches, finished_batches = ((), ()) if self._batches is None else self._batches.poll()
        height = max(1, rows - 1)
        batch_lines = [render_batch(batch, width, self._glyphs) for batch in active_batches][: height // 2]
        lines = [
            *render_tree(active, width=width, height=height - len(batch_lines), glyphs=self._glyphs),
            *batch_lines,
        ]
        above = [
            line
            for operation in self._finished
            for line in render_finished(operation, width=width, glyphs=self._glyphs)
        ]
        above.extend(render_batch(batch, width, self._glyphs) for batch in finished_batches)
        if not active or self._rate_limiter.suppressed > 100:
            above.extend(self._render_suppressed_count())
        try:
            self._region.draw(
                [(self._style_line(line), line.cell_len) for line in lines],
                [self._style_line(line) for line in above],
            )
        except (OSError, ValueError):
            self._is_closed = True
            self._region.release()
            raise
        self._finished.clear()
        drawing_s = self._clock() - started_at
        self._next_frame_at = started_at + max(REFRESH_S, drawing_s / MAX_DRAWING_RATIO)

    def _may_have_finished_batch(self) -> bool:
        """Return whether a shown batch may have finished: no operation is active.

        A batch is closed after its last operation.
        """
        with suppress(JournalError):
            return (
                self._batches is not None
                and self._batches.has_active
                and not self._reader.active(levels=False)
            )
        return False

    def _render_suppressed_count(self) -> list[Text]:
        count = self._rate_limiter.take_suppressed()
        return [Text(f"{self._glyphs.more} {count} more operations finished", style="dim")] if count else []

    def _style_line(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True)
        return capture.get()


def make_console(
    reader: Reader,
    *,
    stream: TextIO | None = None,
    mode: AutoMode = "auto",
    environ: Mapping[str, str] | None = None,
    color: bool | None = None,
    batches: bool | Sequence[str] = True,
) -> LiveConsole | PlainConsole | None:
    """Return a display for ``stream`` (default: stderr), None if ``mode`` is False.

    Also None if there is no stream. ``True`` always draws. ``"auto"`` draws on a terminal, and
    writes plain lines to files and pipes, with ``TERM=dumb`` and under CI. ``batches`` enables the
    lines of batches, of all or of those with the given ids.
    """
    target = stream if stream is not None else sys.stderr
    if mode is False or target is None:  # pythonw has no stderr
        return None
    if mode is True or _can_draw_on(target, os.environ if environ is None else environ):
        return LiveConsole(reader, target, color=color, batches=batches)
    return PlainConsole(reader, target, batches=batches)


def _can_draw_on(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a stream is a terminal that supports escape sequences."""
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
