"""Files as previews: read off the caller's thread, regular ones only, and no more of them than is needed."""

from __future__ import annotations

import os
import stat
from pathlib import PurePath
from typing import Final

from otel_progress.errors import PreviewError
from otel_progress.previews import arrays, figures, texts
from otel_progress.previews.capture import CapturedValue, call
from otel_progress.previews.images import MAX_ENCODED, MAX_MADE, make_picture, need_pillow, open_picture
from otel_progress.previews.media import RenderedPreview
from otel_progress.text import escape_controls, truncate

TEXT_SUFFIXES: Final = (".txt", ".log", ".md", ".csv")
"""What a file that is a text preview ends in; one that ends in ``.json`` is JSON, any other has to be a picture."""


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a regular file, at most ``limit`` + 1 bytes. Raises PreviewError for anything else.

    Symbolic links are followed, as in ``latest.png``: the path is the program's own. What is opened is what is looked at.
    """
    shown = escape_controls(truncate(path, 200))
    try:
        # A pipe would be waited for without O_NONBLOCK; for regular files it means nothing.
        descriptor = os.open(
            path,
            os.O_RDONLY
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0)
            | getattr(os, "O_NOCTTY", 0),
        )
    except (OSError, ValueError) as error:
        msg = f"the file {shown!r} cannot be opened ({getattr(error, 'strerror', None) or type(error).__name__})"
        raise PreviewError(msg) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            msg = f"{shown!r} is no regular file: devices, pipes and folders are not read"
            raise PreviewError(msg)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        msg = f"the file {shown!r} cannot be read ({error.strerror})"
        raise PreviewError(msg) from error
    finally:
        os.close(descriptor)


def render_preview(taken: CapturedValue, media_type: str, edge: int) -> RenderedPreview:
    """Return the preview of what was taken, pictures as ``media_type`` with a longer side of at most ``edge`` pixels.

    Raises PreviewError when there can be none, MissingExtraError when it needs PIL and that is not installed, and whatever a caller's
    function raises.
    """
    if taken.kind == "function":
        taken = call(taken, edge)
    if taken.kind == "text":
        return texts.make_text(taken.value)
    if taken.kind == "json":
        return texts.make_json(taken.value)
    if taken.kind == "path":
        return _of_file(taken.value, media_type, edge)
    need_pillow()
    if taken.kind == "array":
        return make_picture(arrays.to_image(taken.value), media_type, edge)
    if taken.kind == "figure":
        return make_picture(figures.draw_copy(taken.value, edge), media_type, edge)
    if taken.kind == "image":
        return make_picture(taken.value, media_type, edge)
    return make_picture(open_picture(taken.value, edge), media_type, edge)


def _of_file(path: str, media_type: str, edge: int) -> RenderedPreview:
    suffix = PurePath(path).suffix.lower()
    if suffix in TEXT_SUFFIXES:
        content = read_file(path, 4 * texts.MAX_TEXT)
        return texts.make_text(content.decode("utf-8", "replace"))
    if suffix == ".json":
        content = read_file(path, MAX_MADE)
        if len(content) > MAX_MADE:
            msg = f"the JSON file has more than {MAX_MADE} bytes: write a shorter one"
            raise PreviewError(msg)
        return texts.make_json(texts.parse_json(content.decode("utf-8", "replace")))
    need_pillow()
    return make_picture(open_picture(read_file(path, MAX_ENCODED), edge), media_type, edge)
