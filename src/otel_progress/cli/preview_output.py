"""Previews on the command line: a list of them, and the newest ones as pictures where the terminal can show any."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import click

from otel_progress.cli.output import echo, style_text
from otel_progress.console.format import moment, percentage, quantity
from otel_progress.console.rows import clean
from otel_progress.errors import MissingExtraError, PreviewError
from otel_progress.previews import media
from otel_progress.previews.images import is_image_type, render_cells, to_png
from otel_progress.previews.stores.base import Store, read_checked
from otel_progress.records import Preview
from otel_progress.text import escape_controls

ImageProtocol: TypeAlias = Literal["kitty", "iterm", "blocks"]
"""How a terminal shows pictures: by the protocol of kitty or of iTerm2, or as coloured half blocks."""


MOST_SHOWN: Final = 4
"""Pictures and texts that are shown: the newest of each level and name."""


_WIDEST: Final = 80


_HIGHEST: Final = 24


_MOST_LINES: Final = 40


_CHUNK: Final = 4_096


def write_previews(previews: Sequence[Preview], store: Store | None, *, color: bool | None) -> None:
    """Write the list, and the newest of each level and name as the terminal can show it; to a file or a pipe only the list."""
    echo()
    echo(style_text("Previews", "bold"))
    if not previews:
        echo("  none")
        return
    for preview in previews:
        echo(f"  {_line(preview)}")
    way = (
        image_protocol(os.environ, getattr(sys.stdout, "encoding", None) or "", color)
        if sys.stdout.isatty()
        else None
    )
    newest = {(preview.path, preview.name): preview for preview in previews}
    for preview in [*newest.values()][-MOST_SHOWN:]:
        _show(preview, store, way)


def image_protocol(environ: Mapping[str, str], encoding: str, color: bool | None) -> ImageProtocol | None:
    """Return how the terminal of an environment shows pictures; None when it shows none, or no colours are wanted."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if color is False or term in ("", "dumb") or (environ.get("NO_COLOR") and not color):
        return None
    inside = "TMUX" in environ or term.startswith(("screen", "tmux"))  # which passes no pictures on
    if not inside and (term == "xterm-kitty" or "KITTY_WINDOW_ID" in environ or program == "ghostty"):
        return "kitty"
    if not inside and (program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2"):
        return "iterm"
    return "blocks" if encoding.lower().replace("-", "") == "utf8" else None


def _line(preview: Preview) -> str:
    size = "" if preview.width is None else f"{preview.width}x{preview.height} "
    place = f" {clean(preview.path)}" if preview.path else ""
    facts = f"{size}{preview.media_type.partition(';')[0]}, {quantity(preview.size_bytes, 'byte')}"
    figures = f"{preview.number:>4}  {moment(preview.at)}  {percentage(preview.ratio):>5}"
    return f"{figures}  {clean(preview.name)}{place}  {escape_controls(facts)}  {style_text(escape_controls(preview.location), 'dim')}"


def _show(preview: Preview, store: Store | None, way: ImageProtocol | None) -> None:
    isa = is_image_type(preview.media_type)
    if isa and way is None:
        return
    echo()
    echo(style_text(f"{clean(preview.name)}, number {preview.number}", "bold"))
    try:
        if store is None:
            raise PreviewError("no place for previews is set: previews=false")
        content = read_checked(store, preview)
        for line in _drawn(content, preview, way) if isa else _written(content):
            click.echo(line, color=True) if isa else echo(line)
    except (PreviewError, MissingExtraError, OSError) as error:
        echo(f"  {escape_controls(str(error))}")


def _drawn(content: bytes, preview: Preview, way: ImageProtocol | None) -> Iterator[str]:
    columns, lines = shutil.get_terminal_size()
    columns, lines = max(1, min(columns, _WIDEST)), max(1, min(lines - 4, _HIGHEST))
    if way == "kitty":
        yield kitty(content if preview.media_type == media.PNG else to_png(content), lines)
    elif way == "iterm":
        yield iterm(content, lines)
    else:
        deep = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
        yield from blocks(render_cells(content, columns, lines), deep=deep)


def _written(content: bytes) -> Iterator[str]:
    """Yield the first lines of a text, with nothing in them that a terminal would obey."""
    lines = content.decode("utf-8", "replace").splitlines()
    for line in lines[:_MOST_LINES]:
        yield f"  {escape_controls(line)}"
    if len(lines) > _MOST_LINES:
        yield style_text(f"  and {len(lines) - _MOST_LINES} more lines", "dim")


def kitty(png: bytes, lines: int) -> str:
    """Return the sequences that show a PNG in kitty and its like, ``lines`` high (its graphics protocol, transmission in pieces)."""
    text = base64.b64encode(png).decode("ascii")
    pieces = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
    first = f"a=T,f=100,q=2,r={lines},"
    return "".join(
        f"\x1b_G{first if index == 0 else ''}m={int(index < len(pieces) - 1)};{piece}\x1b\\"
        for index, piece in enumerate(pieces)
    )


def iterm(content: bytes, lines: int) -> str:
    """Return the sequence that shows a picture in iTerm2 and its like, ``lines`` high (its inline images protocol)."""
    text = base64.b64encode(content).decode("ascii")
    return f"\x1b]1337;File=inline=1;size={len(content)};height={lines};preserveAspectRatio=1:{text}\x07"


def blocks(rows: Sequence[Sequence[tuple[int, int, int]]], *, deep: bool) -> Iterator[str]:
    """Yield lines of half blocks, the upper pixel in the foreground; in 24-bit colours, or the nearest of the usual 256."""
    code = _true if deep else _indexed
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line, before = "", ("", "")
        for above, below in zip(upper, lower, strict=True):
            colours = (code(above), code(below))
            line += "▀" if colours == before else f"\x1b[38;{colours[0]};48;{colours[1]}m▀"
            before = colours
        yield f"{line}\x1b[0m"


def _true(colour: tuple[int, int, int]) -> str:
    return "2;{};{};{}".format(*colour)


def _indexed(colour: tuple[int, int, int]) -> str:
    """Return the index of the nearest colour of the 6x6x6 cube, or of the 24 greys."""
    if max(colour) - min(colour) < 10:
        grey = round((sum(colour) / 3 - 8) / 10)
        return f"5;{16 if grey < 0 else 231 if grey > 23 else 232 + grey}"
    red, green, blue = (0 if value < 48 else 1 if value < 115 else (value - 35) // 40 for value in colour)
    return f"5;{16 + 36 * red + 6 * green + blue}"
