"""Pictures as previews: opened with suspicion, turned upright, made small and encoded anew, which leaves everything but the pixels behind.

Runs off the caller's thread. The only module that imports PIL, and only when a picture is there.
"""

from __future__ import annotations

import math
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import MissingExtraError, PreviewError
from otel_progress.fork import defer_fork
from otel_progress.previews.media import JPEG, PNG, SUFFIXES, WEBP, RenderedPreview
from otel_progress.text import escape_controls, truncate

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_PIXELS: Final = 50_000_000
"""Pixels of a picture that is given encoded; a larger one is refused before any of it is decoded."""


MAX_ENCODED: Final = 32 * 1024 * 1024
"""Bytes of a picture that is given encoded."""


MAX_MADE: Final = 2 * 1024 * 1024
"""Bytes of one preview; one that is larger is made smaller, and refused when even that does not help."""


_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


_SAVED_AS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    PNG: ("PNG", {"compress_level": 6}),
    WEBP: ("WEBP", {"quality": 80, "method": 2}),
    JPEG: ("JPEG", {"quality": 85}),
}


_ready = False


_COPIED_EDGE: Final = 1024


_MARKUP: Final = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
    (b"%pdf", "PDF"),
)


def is_image(value: object) -> bool:
    """Tell whether a value is a PIL image."""
    module = sys.modules.get("PIL.Image")
    kind = getattr(module, "Image", None)  # absent while another thread is still importing it
    return kind is not None and isinstance(value, kind)


def copy_image(image: Any) -> Any:
    """Return a copy that later changes do not reach, on the caller's thread: the nearest pixels of one with an edge above 1024.

    One that was opened from a file and not decoded yet stays so: its path comes back.
    """
    if not image.width or not image.height:
        msg = f"a picture of {image.width}x{image.height} has no pixels"
        raise PreviewError(msg)
    if getattr(image, "tile", None):  # not decoded yet
        _check_size(image)
        name = getattr(image, "filename", None)
        if name and not getattr(image, "tell", int)():
            return name
    largest = max(image.size)
    if largest <= _COPIED_EDGE:
        return image.copy()
    size = tuple(max(1, side * _COPIED_EDGE // largest) for side in image.size)
    return image.resize(size, 0)  # 0: the nearest pixel, which looks at no others


def open_picture(content: bytes, edge: int) -> Image:
    """Return the first frame of an encoded picture, turned as its camera says. Raises PreviewError with the reason when it cannot be."""
    from PIL import Image, ImageOps

    if len(content) > MAX_ENCODED:
        msg = f"the picture has {len(content)} bytes: at most {MAX_ENCODED} are taken"
        raise PreviewError(msg)
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
        _check_size(image)
        image.draft("RGB", (2 * edge, 2 * edge))  # a JPEG need not be decoded in full
        image.load()
        return ImageOps.exif_transpose(image)
    except PreviewError:
        raise
    except Exception as error:  # whatever a decoder says of what it was given
        raise PreviewError(_why_not(content, error)) from error


def _check_size(image: Any) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        msg = f"a picture of {width}x{height} is too large: at most {MAX_PIXELS} pixels are decoded, scale it down first"
        raise PreviewError(msg)


def _why_not(content: bytes, error: Exception) -> str:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, name in _MARKUP:
        if start.startswith(mark) or (mark == b"<svg" and mark in start):
            return f"{name} is not taken, as it can carry scripts: render it, or pass a text"
    why = escape_controls(truncate(f"{type(error).__name__}: {error}", 120))
    return f"the content is no picture that can be decoded ({why}): expected {', '.join(_FORMATS)}"


def make_picture(image: Image, media_type: str, edge: int) -> RenderedPreview:
    """Return a picture with a longer side of at most ``edge`` pixels, encoded. Raises PreviewError when it stays too large."""
    image = _plain(image, alpha=media_type != JPEG)
    for longest in (edge, edge // 2, edge // 4):
        small = _scaled(image, max(1, longest))
        content = _encoded(small, media_type)
        if len(content) <= MAX_MADE:
            return RenderedPreview(media_type, content, *small.size)
    msg = f"the preview has {len(content)} bytes: at most {MAX_MADE} are kept, use a smaller edge or another format"
    raise PreviewError(msg)


def _scaled(image: Image, edge: int) -> Image:
    from PIL.Image import Resampling

    largest = max(image.size)
    if largest <= edge:
        return image
    width, height = (max(1, round(side * edge / largest)) for side in image.size)
    return image.resize((width, height), Resampling.LANCZOS, reducing_gap=3.0)


def _encoded(image: Image, media_type: str) -> bytes:
    name, options = _SAVED_AS[media_type]
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _plain(image: Image, *, alpha: bool) -> Image:
    """Return the picture as L, RGB or RGBA and nothing besides; without alpha, on white."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _spread(image)
    transparent = image.has_transparency_data
    if transparent and not alpha:
        over = image.convert("RGBA")
        ground = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(ground, over).convert("RGB")
    wanted = "RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB"
    plain = image if image.mode == wanted else image.convert(wanted)
    if plain is image:
        plain = image.copy()
    plain.info = {}
    return plain


def _spread(image: Image) -> Image:
    """Return a picture of wide numbers as 8 bits, from its least to its most."""
    from PIL.Image import new

    if image.mode.startswith("I;"):
        image = image.convert("I")
    low, high = (float(one) for one in image.getextrema())  # type: ignore[arg-type]  # of one band a pair
    if not (math.isfinite(low) and math.isfinite(high)) or not high > low:
        return new("L", image.size)
    scale = 255.0 / (high - low)
    return image.point(lambda value: value * scale - low * scale).convert("L")


def need_pillow() -> None:
    """Have PIL imported, with all it reads and writes. Raises MissingExtraError when there is none."""
    global _ready
    if _ready:
        return
    try:
        with defer_fork():
            import PIL.Image
            import PIL.ImageOps

            PIL.Image.init()
    except ImportError as error:
        raise MissingExtraError("Previews of pictures and arrays", "previews") from error
    _ready = True


def is_picture(media_type: str) -> bool:
    """Tell whether a media type is a picture's."""
    return media_type in SUFFIXES and media_type.startswith("image/")


def cells(content: bytes, columns: int, rows: int) -> list[list[tuple[int, int, int]]]:
    """Return an encoded preview as rows of red, green and blue, at most ``columns`` wide and twice ``rows`` high. Raises PreviewError.

    An even number of rows comes back: a terminal shows two in a line.
    """
    need_pillow()
    image = _plain(open_picture(content, max(columns, 2 * rows)), alpha=False).convert("RGB")
    scale = min(columns / image.width, 2 * rows / image.height)
    width, height = (
        max(1, min(most, round(side * scale)))
        for side, most in zip(image.size, (columns, 2 * rows), strict=True)
    )
    height += height % 2
    raw = image.resize((width, height)).tobytes()
    line = [tuple(raw[at : at + 3]) for at in range(0, len(raw), 3)]
    return [line[at : at + width] for at in range(0, len(line), width)]  # type: ignore[misc]  # three bytes each


def as_png(content: bytes) -> bytes:
    """Return an encoded preview as PNG, for terminals that take no other. Raises PreviewError."""
    need_pillow()
    image = open_picture(content, MAX_PIXELS)
    return _encoded(_plain(image, alpha=True), PNG)
