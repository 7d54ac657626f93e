"""Layout of the terminal display: bars in columns, cut to the size of a terminal.

A bar without a total moves and has no percentage. If space is short, the message is cut first, then
the columns in the order of ``_Columns.fit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from otel_progress.console.cells import cut_cells
from otel_progress.console.glyphs import STATUS_STYLES, UNICODE, Glyphs
from otel_progress.console.rows import (
    MAX_FAILED,
    Part,
    Rank,
    Row,
    build_rows,
    clean_text,
    format_failed_level,
    format_failure,
    format_figures,
    format_state_notes,
    format_title,
)
from otel_progress.formats import format_duration, format_time_left
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


_MIN_LABEL_CELLS: Final = 12
"""Width that a label always gets."""


_WIDE_CELLS: Final = 100
"""Width of a terminal from which labels get a larger share."""


_MIN_BOUNDS_CELLS: Final = 120
"""Width from which intervals are shown. On a narrower terminal the message has priority."""


_MIN_BAR_CELLS: Final = 8
"""Shortest bar. Without this space other columns are omitted, then the bar."""


_MAX_BAR_CELLS: Final = 30
"""Longest bar. Further space stays empty."""


_GOOD_BAR_CELLS: Final = 16
"""Shortest bar next to intervals. Without this space the intervals are omitted."""


_MIN_MESSAGE_CELLS: Final = 16
"""Space for a message in the line of its bar. With less it gets a line of its own."""


_MIN_TITLE_CELLS: Final = 2
"""Space for the title of a finished operation. With less the count is left out."""


_PULSE_CELLS_PER_S: Final = 6.0


@dataclass(frozen=True, slots=True)
class ProgressTree:
    """Rich renderable of operations with at most ``height`` lines.

    None shows all lines.
    """

    operations: Sequence[OperationSnapshot]
    height: int | None = None
    glyphs: Glyphs = UNICODE

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines for ``Console.print``."""
        yield from render_tree(
            self.operations, width=options.max_width, height=self.height or 10_000, glyphs=self.glyphs
        )


def render_tree(
    operations: Sequence[OperationSnapshot], *, width: int, height: int, glyphs: Glyphs = UNICODE
) -> list[Text]:
    """Return operations as at most ``height`` lines of at most ``width`` cells."""
    if height < 1 or not operations:
        return []
    rows = build_rows(operations, glyphs, height)
    hidden = len(operations) - min(len(operations), height)
    columns = _Columns.fit([row for row in rows if row.level is not None], width)
    lines = [line for row in rows for line in _render_row(row, columns, width, glyphs)]
    if len(lines) + bool(hidden) > height:
        by_rank = sorted(range(len(lines)), key=lambda index: (lines[index][0], index))
        shown = sorted(by_rank[: height - 1])
        omitted = len(lines) - len(shown) + hidden
        lines = [lines[index] for index in shown]
        lines.append(((0, 0), _join_parts(((f"{glyphs.more} {omitted} more", "dim"),), width, glyphs)))
    return [line for _, line in lines]


def render_finished(operation: OperationSnapshot, *, width: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """Return the final lines of a finished operation: result and failed levels."""
    root = operation.root
    percentage, count, _ = format_figures(root, operation.rate_seconds_of(root))
    style = STATUS_STYLES[root.status]
    ratio = f"at {percentage}" if root.status is not Status.COMPLETED and percentage else ""
    status, notes = (root.status.value, style), format_state_notes(root)
    result: list[Part] = [part for part in (status, (ratio, style), (count, ""), *notes) if part[0]]
    title_cells = width - 2 - _count_cells(result)
    if title_cells < _MIN_TITLE_CELLS:
        # Why: neither a long title nor the count may hide the failed count.
        result = [status, *notes]
        title_cells = max(_MIN_TITLE_CELLS, width - 2 - _count_cells(result))
    parts: list[Part] = [
        (glyphs.status(root.status), style),
        (cut_cells(format_title(root), title_cells, glyphs.more), "bold"),
        *result,
        (f"in {format_duration(operation.elapsed_seconds)}", "dim"),
    ]
    parts.append(
        (format_failure(root), "red") if root.status is Status.FAILED else (clean_text(root.message), "dim")
    )
    lines = [_join_parts(parts, width, glyphs)]
    failed = [level for level in operation.levels if level.status is Status.FAILED]
    lines.extend(
        _join_parts(format_failed_level(level, glyphs), width, glyphs, indent=2)
        for level in failed[-MAX_FAILED:]
    )
    evicted = sum(counts.failed for counts in operation.count_evicted_levels().values())
    if more := max(0, len(failed) - MAX_FAILED) + evicted:
        lines.append(_join_parts(((f"{glyphs.more} {more} more failed", "dim"),), width, glyphs, indent=2))
    return lines


def _count_cells(parts: Sequence[Part]) -> int:
    """Return the cells of parts, each with the space before it."""
    return sum(cell_len(text) + 1 for text, _ in parts)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Widths of the columns in cells. A column of width 0 is omitted."""

    label: int
    bar: int
    percentage: int
    count: int
    rate: int
    time: int
    inline_message: bool
    bounds: bool

    @classmethod
    def fit(cls, bars: Sequence[Row], width: int) -> _Columns:
        """Distribute a width.

        If space is short, intervals are omitted first, then rate, times, count and bar.
        """
        label = max((_measure_label(row, width) for row in bars), default=0)
        label = min(label, max(_MIN_LABEL_CELLS, width * (35 if width >= _WIDE_CELLS else 29) // 100))
        shares = _measure_columns(bars, bounds=True)
        bounds = (
            width >= _MIN_BOUNDS_CELLS
            and label + sum(share + 1 for share in shares.values() if share) + 1 + _GOOD_BAR_CELLS <= width
        )
        if not bounds:
            shares = _measure_columns(bars, bounds=False)
        used = label + sum(share + 1 for share in shares.values() if share)
        for name in ("rate", "time", "count"):
            if used + 1 + _MIN_BAR_CELLS > width and shares[name]:
                used -= shares[name] + 1
                shares[name] = 0
        notes = max((sum(cell_len(text) + 1 for text, _ in row.notes) for row in bars), default=0)
        spare = width - used - 1 - min(notes, 24)
        message = max((cell_len(row.message) for row in bars), default=0)
        wanted = min(message, 40) + 1 if message else 0
        inline = bool(message) and spare - _MIN_BAR_CELLS >= min(wanted, _MIN_MESSAGE_CELLS)
        message_cells = min(wanted, max(_MIN_MESSAGE_CELLS + 1, spare // 2)) if inline else 0
        bar = min(_MAX_BAR_CELLS, max(_MIN_BAR_CELLS, spare - message_cells))
        return cls(
            label,
            bar if used + 1 + _MIN_BAR_CELLS <= width else 0,
            inline_message=inline,
            bounds=bounds,
            **shares,
        )


def _measure_columns(bars: Sequence[Row], *, bounds: bool) -> dict[str, int]:
    cells = [_format_cells(row, bounds=bounds) for row in bars]
    return {
        name: max((cell_len(cell[index]) for cell in cells), default=0)
        for index, name in enumerate(_CELL_NAMES)
    }


_CELL_NAMES: Final = ("percentage", "count", "rate", "time")


def _format_cells(row: Row, *, bounds: bool) -> tuple[str, str, str, str]:
    if row.level is None:
        return "", "", "", ""
    percentage, count, rate = format_figures(row.level, row.active_s)
    time = format_duration(row.elapsed)
    if time_left := format_time_left(row.eta, bounds=bounds):
        time += f", {time_left}"
    return percentage, count, rate, time


def _measure_label(row: Row, width: int) -> int:
    return _limit_indent(row, width) + sum(cell_len(text) + 1 for text, _ in row.parts) - 1


def _limit_indent(row: Row, width: int) -> int:
    return min(2 * row.indent, width // 4)


def _render_row(
    row: Row, columns: _Columns, width: int, glyphs: Glyphs
) -> list[tuple[tuple[int, int], Text]]:
    indent = _limit_indent(row, width)
    if row.level is None:
        return [(row.rank, _join_parts(row.parts, width, glyphs, indent=indent))]
    line = _join_parts(row.parts, columns.label, glyphs, indent=indent)
    line.append(" " * (columns.label - line.cell_len))
    if columns.bar:
        line.append(" ")
        _append_bar(line, row, columns.bar, glyphs)
    shares = (columns.percentage, columns.count, columns.rate, columns.time)
    for share, cell, (style, align) in zip(
        shares,
        _format_cells(row, bounds=columns.bounds),
        (("bold", ">"), ("", ">"), ("dim", ">"), ("dim", "<")),
        strict=True,
    ):
        if share:
            gap = " " * (share - cell_len(cell))
            line.append(f" {gap}{cell}" if align == ">" else f" {cell}{gap}", style)
    message: tuple[Part, ...] = ((row.message, "italic"),) if row.message else ()
    fit = line.cell_len + sum(cell_len(text) + 1 for text, _ in row.notes) <= width
    for text, style in (*(row.notes if fit else ()), *(message if fit and columns.inline_message else ())):
        free_cells = width - line.cell_len - 1
        if free_cells > 1:
            line.append(" ").append(cut_cells(text, free_cells, glyphs.more), style)
    _crop_line(line, width)
    lines = [(row.rank, line)]
    if not fit:
        rank = Rank.NOTES if row.urgent else Rank.MESSAGE
        lines.append(
            ((rank, row.indent), _join_parts((*row.notes, *message), width, glyphs, indent=indent + 2))
        )
    elif message and not columns.inline_message:
        lines.append(((Rank.MESSAGE, row.indent), _join_parts(message, width, glyphs, indent=indent + 2)))
    return lines


def _join_parts(parts: Sequence[Part], width: int, glyphs: Glyphs, indent: int = 0) -> Text:
    """Return parts joined by spaces and cut to ``width``.

    The last parts are cut first.
    """
    used = indent = min(indent, width)
    line = Text(" " * indent, no_wrap=True, overflow="crop")
    for text, style in parts:
        if not text:
            continue
        gap = 1 if used > indent else 0
        free_cells = width - used - gap
        if free_cells < 1:
            break
        text = cut_cells(text, free_cells, glyphs.more)
        line.append(" " * gap).append(text, style or None)
        used += gap + cell_len(text)
    return line


def _crop_line(line: Text, width: int) -> None:
    if line.cell_len > width:
        line.truncate(width, overflow="crop")


def _append_bar(line: Text, row: Row, width: int, glyphs: Glyphs) -> None:
    level = row.level
    if level is None:
        return
    style = STATUS_STYLES[level.status]
    if level.ratio is None:
        span = width - len(glyphs.pulse)
        is_moving = not row.frozen and not level.status.finished
        step = int(row.elapsed * _PULSE_CELLS_PER_S) % (2 * span) if is_moving else 0
        start = step if step <= span else 2 * span - step
        line.append(glyphs.rest * start, "dim").append(glyphs.pulse, style)
        line.append(glyphs.rest * (span - start), "dim")
        return
    filled, empty = glyphs.draw_bar(level.ratio, width)
    line.append(filled, style).append(empty, "dim")
