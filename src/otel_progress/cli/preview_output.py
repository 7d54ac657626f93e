"""Previews on the command line: a list, and images if the terminal supports them."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import click

from otel_progress.cli.output import echo, style_text
from otel_progress.console.rows import clean_text
from otel_progress.errors import MissingExtraError, PreviewError
from otel_progress.formats import format_moment, format_percentage, format_quantity
from otel_progress.previews import media
from otel_progress.previews.images import is_image_type, render_cells, to_png
from otel_progress.previews.stores.base import Store, read_checked
from otel_progress.records import Preview
from otel_progress.text import escape_controls

ImageProtocol: TypeAlias = Literal["kitty", "iterm", "blocks"]
"""Image protocol of a terminal: kitty, iTerm2, or coloured half blocks."""


MAX_SHOWN: Final = 4
"""Images and texts that are shown, of the newest per level and name."""


_MAX_COLUMNS: Final = 80
"""Width of an image on a larger terminal."""


_MAX_LINES: Final = 24
"""Height of an image on a larger terminal."""


_MAX_TEXT_LINES: Final = 40
"""Lines of a text preview that are written. The others are counted."""


_CHUNK_BYTES: Final = 4_096
"""Longest chunk of kitty's protocol. Longer images are sent in several chunks."""


def write_previews(previews: Sequence[Preview], store: Store | None, *, color: bool | None) -> None:
    """Write a list of previews and the content of the newest per level and name.

    Images are written only to a terminal, in the protocol it supports.
    """
    echo()
    echo(style_text("Previews", "bold"))
    if not previews:
        echo("  none")
        return
    for preview in previews:
        echo(f"  {_format_preview(preview)}")
    protocol = (
        image_protocol(os.environ, getattr(sys.stdout, "encoding", None) or "", color)
        if sys.stdout.isatty()
        else None
    )
    newest = {(preview.path, preview.name): preview for preview in previews}
    for preview in [*newest.values()][-MAX_SHOWN:]:
        _write_content(preview, store, protocol)


def image_protocol(environ: Mapping[str, str], encoding: str, color: bool | None) -> ImageProtocol | None:
    """Return the image protocol of a terminal. None without images or colours."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if color is False or term in ("", "dumb") or (environ.get("NO_COLOR") and not color):
        return None
    # Why: tmux and screen do not forward images.
    in_multiplexer = "TMUX" in environ or term.startswith(("screen", "tmux"))
    if not in_multiplexer and (term == "xterm-kitty" or "KITTY_WINDOW_ID" in environ or program == "ghostty"):
        return "kitty"
    if not in_multiplexer and (program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2"):
        return "iterm"
    return "blocks" if encoding.lower().replace("-", "") == "utf8" else None


def _format_preview(preview: Preview) -> str:
    size = "" if preview.width is None else f"{preview.width}x{preview.height} "
    path = f" {clean_text(preview.path)}" if preview.path else ""
    facts = f"{size}{preview.media_type.partition(';')[0]}, {format_quantity(preview.size_bytes, 'byte')}"
    figures = f"{preview.number:>4}  {format_moment(preview.at)}  {format_percentage(preview.ratio):>5}"
    location = style_text(escape_controls(preview.location), "dim")
    return f"{figures}  {clean_text(preview.name)}{path}  {escape_controls(facts)}  {location}"


def _write_content(preview: Preview, store: Store | None, protocol: ImageProtocol | None) -> None:
    is_image = is_image_type(preview.media_type)
    if is_image and protocol is None:
        return
    echo()
    echo(style_text(f"{clean_text(preview.name)}, number {preview.number}", "bold"))
    try:
        if store is None:
            raise PreviewError(
                "Invalid setting previews=false: expected a preview store. Set OTEL_PROGRESS_PREVIEWS."
            )
        content = read_checked(store, preview)
        for line in _draw_picture(content, preview, protocol) if is_image else _format_text(content):
            click.echo(line, color=True) if is_image else echo(line)
    except (PreviewError, MissingExtraError, OSError) as error:
        echo(f"  {escape_controls(str(error))}")


def _draw_picture(content: bytes, preview: Preview, protocol: ImageProtocol | None) -> Iterator[str]:
    columns, lines = shutil.get_terminal_size()
    columns, lines = max(1, min(columns, _MAX_COLUMNS)), max(1, min(lines - 4, _MAX_LINES))
    if protocol == "kitty":
        yield encode_kitty(content if preview.media_type == media.PNG else to_png(content), lines)
    elif protocol == "iterm":
        yield encode_iterm(content, lines)
    else:
        is_true_colour = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
        yield from draw_blocks(render_cells(content, columns, lines), is_true_colour=is_true_colour)


def _format_text(content: bytes) -> Iterator[str]:
    """Yield the first lines of a text with escaped control characters."""
    lines = content.decode("utf-8", "replace").splitlines()
    for line in lines[:_MAX_TEXT_LINES]:
        yield f"  {escape_controls(line)}"
    if len(lines) > _MAX_TEXT_LINES:
        yield style_text(f"  and {len(lines) - _MAX_TEXT_LINES} more lines", "dim")


def encode_kitty(png: bytes, lines: int) -> str:
    """Return the sequences of kitty's graphics protocol for a PNG, ``lines`` high."""
    text = base64.b64encode(png).decode("ascii")
    chunks = [text[at : at + _CHUNK_BYTES] for at in range(0, len(text), _CHUNK_BYTES)]
    first = f"a=T,f=100,q=2,r={lines},"
    return "".join(
        f"\x1b_G{first if index == 0 else ''}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
        for index, chunk in enumerate(chunks)
    )


def encode_iterm(content: bytes, lines: int) -> str:
    """Return the escape sequence of iTerm2's inline image protocol, ``lines`` high."""
    text = base64.b64encode(content).decode("ascii")
    return f"\x1b]1337;File=inline=1;size={len(content)};height={lines};preserveAspectRatio=1:{text}\x07"


def draw_blocks(rows: Sequence[Sequence[tuple[int, int, int]]], *, is_true_colour: bool) -> Iterator[str]:
    """Yield an image as lines of half blocks.

    The upper pixel is the foreground. Uses 24-bit colours or the nearest of 256.
    """
    encode = _encode_true_colour if is_true_colour else _encode_indexed_colour
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line, previous = "", ("", "")
        for above, below in zip(upper, lower, strict=True):
            colours = (encode(above), encode(below))
            line += "▀" if colours == previous else f"\x1b[38;{colours[0]};48;{colours[1]}m▀"
            previous = colours
        yield f"{line}\x1b[0m"


def _encode_true_colour(colour: tuple[int, int, int]) -> str:
    return "2;{};{};{}".format(*colour)


def _encode_indexed_colour(colour: tuple[int, int, int]) -> str:
    """Return the code of the nearest colour in the 6x6x6 cube or among the 24 greys."""
    if max(colour) - min(colour) < 10:
        grey = round((sum(colour) / 3 - 8) / 10)
        return f"5;{16 if grey < 0 else 231 if grey > 23 else 232 + grey}"
    red, green, blue = (0 if value < 48 else 1 if value < 115 else (value - 35) // 40 for value in colour)
    return f"5;{16 + 36 * red + 6 * green + blue}"
