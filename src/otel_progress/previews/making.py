"""From what was taken of a caller to a preview that can be stored: the work that happens off their thread."""

from __future__ import annotations

from pathlib import PurePath

from otel_progress.errors import PreviewError
from otel_progress.previews import arrays, figures, files, pictures, texts
from otel_progress.previews.media import Made
from otel_progress.previews.taking import Taken, call


def make(taken: Taken, media_type: str, edge: int) -> Made:
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
    pictures.need_pillow()
    if taken.kind == "array":
        return pictures.make_picture(arrays.to_image(taken.value), media_type, edge)
    if taken.kind == "figure":
        return pictures.make_picture(figures.draw_copy(taken.value, edge), media_type, edge)
    if taken.kind == "image":
        return pictures.make_picture(taken.value, media_type, edge)
    return pictures.make_picture(pictures.open_picture(taken.value, edge), media_type, edge)


def _of_file(path: str, media_type: str, edge: int) -> Made:
    suffix = PurePath(path).suffix.lower()
    if suffix in files.TEXT_SUFFIXES:
        content = files.read_file(path, 4 * texts.MAX_TEXT)
        return texts.make_text(content.decode("utf-8", "replace"))
    if suffix == ".json":
        content = files.read_file(path, pictures.MAX_MADE)
        if len(content) > pictures.MAX_MADE:
            msg = f"the JSON file has more than {pictures.MAX_MADE} bytes: write a shorter one"
            raise PreviewError(msg)
        return texts.make_json(texts.parse_json(content.decode("utf-8", "replace")))
    pictures.need_pillow()
    return pictures.make_picture(pictures.open_picture(files.read_file(path, pictures.MAX_ENCODED), edge), media_type, edge)
