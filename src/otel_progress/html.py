"""HTML tables of progress for notebooks, with inline styles and escaped texts."""

# Why inline styles: notebooks remove style elements from outputs that are not trusted.
# Why no id and no class: an output must not depend on the style sheets of its page.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from otel_progress.text import escape_controls

MAX_CELL_CHARS: Final = 300
"""Longest text of a cell, in characters. Longer ones are cut."""


_COLOURS: Final = {
    "pending": "#888",
    "running": "#1976d2",
    "completed": "#2e8b3d",
    "failed": "#d32f2f",
    "cancelled": "#c77700",
    "skipped": "#888",
}
"""Colours of the bar and the sign by status. They are legible on white and on black."""


_SIGNS: Final = {
    "pending": "·",
    "running": "●",
    "completed": "✓",
    "failed": "✗",
    "cancelled": "■",
    "skipped": "–",
}


_TABLE: Final = (
    "border-collapse:collapse;border:0;margin:2px 0;font-size:13px;line-height:1.4;"
    "font-variant-numeric:tabular-nums"
)


_CELL: Final = "border:0;padding:1px 10px 1px 0;text-align:left;vertical-align:middle;white-space:nowrap"


_TEXT_CELL: Final = f"{_CELL.replace('nowrap', 'normal')};overflow-wrap:anywhere;max-width:40em"


_TRACK: Final = "width:160px;height:8px;border-radius:4px;background:rgba(128,128,128,.25);overflow:hidden"


@dataclass(frozen=True, slots=True)
class HtmlRow:
    """Row of a table: an operation, a level or a batch.

    ``ratio`` is None while unknown. ``note`` is emphasised, ``message`` is shown as it is.
    """

    name: str
    kind: str
    status: str
    ratio: float | None
    percentage: str
    count: str
    rate: str
    time: str
    note: str = ""
    message: str = ""
    indent: int = 0


def render_table(rows: Sequence[HtmlRow], more: str = "") -> str:
    """Return rows as an HTML table, with the line ``more`` below it."""
    body = "".join(_render_row(row) for row in rows)
    if more:
        body += (
            f'<tr style="background:none"><td colspan="6" style="{_CELL};opacity:.7">{_clean(more)}</td></tr>'
        )
    return f'<table style="{_TABLE}"><tbody>{body}</tbody></table>'


def _render_row(row: HtmlRow) -> str:
    colour = _COLOURS.get(row.status, "#888")
    sign = f'<span style="color:{colour}" title="{_clean(row.status)}">{_SIGNS.get(row.status, "?")}</span>'
    kind = f' <span style="opacity:.65">{_clean(row.kind)}</span>' if row.kind else ""
    name = f"{_clean(row.name)}" if row.indent else f"<b>{_clean(row.name)}</b>"
    title_style = f"{_CELL};padding-left:{min(row.indent, 10) * 16}px"
    note = f'<span style="color:{_COLOURS["cancelled"]}">{_clean(row.note)}</span> ' if row.note else ""
    if row.note and row.status == "failed":
        note = note.replace(_COLOURS["cancelled"], _COLOURS["failed"])
    return (
        '<tr style="background:none">'
        f'<td style="{title_style}">{sign} {name}{kind}</td>'
        f'<td style="{_CELL}">{_render_bar(row, colour)}</td>'
        f'<td style="{_CELL};text-align:right">{_clean(row.percentage)}</td>'
        f'<td style="{_CELL};text-align:right">{_clean(" ".join(p for p in (row.count, row.rate) if p))}</td>'
        f'<td style="{_CELL}">{_clean(row.time)}</td>'
        f'<td style="{_TEXT_CELL}">{note}{_clean(row.message)}</td>'
        "</tr>"
    )


def _render_bar(row: HtmlRow, colour: str) -> str:
    """Return a bar. Without a ratio it is a short piece in the middle."""
    if row.ratio is None:
        fill = f"width:20%;margin-left:40%;opacity:.6;height:100%;background:{colour}"
        return f'<div role="progressbar" style="{_TRACK}"><div style="{fill}"></div></div>'
    percent = round(100.0 * min(1.0, max(0.0, row.ratio)), 1)
    return (
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:g}" '
        f'style="{_TRACK}"><div style="width:{percent:g}%;height:100%;background:{colour}"></div></div>'
    )


def _clean(text: str) -> str:
    """Return text for HTML, on one line and cut."""
    text = text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"
    return escape(escape_controls(" ".join(text.split())))
