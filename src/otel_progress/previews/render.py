"""Rendering of captured values and of files, off the caller's thread."""

from __future__ import annotations

import os
import stat
from pathlib import PurePath
from typing import Final

from otel_progress.errors import PreviewError
from otel_progress.previews import arrays, figures, texts
from otel_progress.previews.capture import CapturedValue, call_function
from otel_progress.previews.images import (
    MAX_ENCODED_BYTES,
    MAX_PREVIEW_BYTES,
    decode_image,
    load_pillow,
    render_image,
)
from otel_progress.previews.media import RenderedPreview
from otel_progress.text import escape_controls, truncate

TEXT_SUFFIXES: Final = (".txt", ".log", ".md", ".csv")
"""Suffixes of text files. A file with ``.json`` is JSON, and any other must be an image."""


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file, at most ``limit`` + 1 bytes.

    Symbolic links such as ``latest.png`` are followed, because the path comes from the program.
    The type is checked after opening. Raises PreviewError if the file is not a regular file or
    cannot be read.
    """
    shown = escape_controls(truncate(path, 200))
    optional_flags = ("O_NONBLOCK", "O_BINARY", "O_NOCTTY")  # O_NONBLOCK: do not wait for a pipe
    flags = os.O_RDONLY
    for name in optional_flags:
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        msg = f"the file {shown!r} cannot be opened ({reason})"
        raise PreviewError(msg) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            msg = f"invalid file {shown!r}: expected a regular file, not a device, pipe or folder"
            raise PreviewError(msg)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        msg = f"the file {shown!r} cannot be read ({error.strerror})"
        raise PreviewError(msg) from error
    finally:
        os.close(descriptor)


def render_preview(captured: CapturedValue, media_type: str, edge: int) -> RenderedPreview:
    """Return the preview of a captured value.

    Images are encoded as ``media_type`` with a longer side of at most ``edge`` pixels. Raises
    PreviewError if no preview can be rendered, MissingExtraError if PIL is required and not
    installed, and the exceptions of a caller's function.
    """
    if captured.kind == "function":
        captured = call_function(captured, edge)
    if captured.kind == "text":
        return texts.render_text(captured.value)
    if captured.kind == "json":
        return texts.render_json(captured.value)
    if captured.kind == "path":
        return _render_file(captured.value, media_type, edge)
    load_pillow()
    if captured.kind == "array":
        return render_image(arrays.to_image(captured.value), media_type, edge)
    if captured.kind == "figure":
        return render_image(figures.draw_copy(captured.value, edge), media_type, edge)
    if captured.kind == "image":
        return render_image(captured.value, media_type, edge)
    return render_image(decode_image(captured.value, edge), media_type, edge)


def _render_file(path: str, media_type: str, edge: int) -> RenderedPreview:
    suffix = PurePath(path).suffix.lower()
    if suffix in TEXT_SUFFIXES:
        content = read_file(path, 4 * texts.MAX_TEXT_LENGTH)
        return texts.render_text(content.decode("utf-8", "replace"))
    if suffix == ".json":
        content = read_file(path, MAX_PREVIEW_BYTES)
        if len(content) > MAX_PREVIEW_BYTES:
            msg = f"invalid JSON file of more than {MAX_PREVIEW_BYTES} bytes: write a shorter one"
            raise PreviewError(msg)
        return texts.render_json(texts.parse_json(content.decode("utf-8", "replace")))
    load_pillow()
    return render_image(decode_image(read_file(path, MAX_ENCODED_BYTES), edge), media_type, edge)
