"""Image previews: validated, rotated, downscaled and re-encoded without metadata.

Runs off the caller's thread. This is the only module that imports PIL, and only for images.
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
"""Maximum number of pixels of an encoded image. Larger ones are refused before decoding."""


MAX_ENCODED_BYTES: Final = 32 * 1024 * 1024
"""Maximum size of an encoded image."""


MAX_PREVIEW_BYTES: Final = 2 * 1024 * 1024
"""Maximum size of a preview. A larger one is scaled down, then refused."""


_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


_ENCODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    PNG: ("PNG", {"compress_level": 6}),
    WEBP: ("WEBP", {"quality": 80, "method": 2}),
    JPEG: ("JPEG", {"quality": 85}),
}


_ready = False


_MAX_COPIED_EDGE: Final = 1024
"""Maximum longer side of an image copied whole on the caller's thread, in pixels."""


_MARKUP: Final = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
    (b"%pdf", "PDF"),
)


def is_image(value: object) -> bool:
    """Return whether a value is a PIL image."""
    module = sys.modules.get("PIL.Image")
    image_type = getattr(module, "Image", None)  # absent while another thread imports PIL
    return image_type is not None and isinstance(value, image_type)


def copy_image(image: Any) -> Any:
    """Return a copy that later changes do not affect, on the caller's thread.

    An image with a side above 1024 pixels is scaled to it with the nearest pixels. For an image
    that was opened from a file and not decoded, return its path.
    """
    if not image.width or not image.height:
        msg = f"invalid image of {image.width}x{image.height}: expected at least one pixel"
        raise PreviewError(msg)
    if getattr(image, "tile", None):  # not decoded yet
        _check_size(image)
        name = getattr(image, "filename", None)
        if name and not image.tell():
            return name
    largest = max(image.size)
    if largest <= _MAX_COPIED_EDGE:
        return image.copy()
    size = tuple(max(1, side * _MAX_COPIED_EDGE // largest) for side in image.size)
    return image.resize(size, 0)  # 0 selects the nearest pixel


def decode_image(content: bytes, edge: int) -> Image:
    """Return the first frame of an encoded image, rotated by its EXIF orientation.

    Raises PreviewError with the reason if it cannot be decoded.
    """
    from PIL import Image, ImageOps

    if len(content) > MAX_ENCODED_BYTES:
        msg = f"invalid image of {len(content)} bytes: expected at most {MAX_ENCODED_BYTES}"
        raise PreviewError(msg)
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
        _check_size(image)
        image.draft("RGB", (2 * edge, 2 * edge))  # a JPEG need not be decoded in full
        image.load()
        return ImageOps.exif_transpose(image)
    except PreviewError:
        raise
    except Exception as error:  # decoders raise many types for invalid content
        raise PreviewError(_describe_decode_error(content, error)) from error


def _check_size(image: Any) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        msg = f"invalid image of {width}x{height}: expected at most {MAX_PIXELS} pixels. Scale it down first"
        raise PreviewError(msg)


def _describe_decode_error(content: bytes, error: Exception) -> str:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, name in _MARKUP:
        if start.startswith(mark) or (mark == b"<svg" and mark in start):
            return f"{name} is not accepted, because it can contain scripts: render it, or pass a text"
    reason = escape_controls(truncate(f"{type(error).__name__}: {error}", 120))
    return f"invalid image content ({reason}): expected {', '.join(_FORMATS)}"


def render_image(image: Image, media_type: str, edge: int) -> RenderedPreview:
    """Return an encoded image with a longer side of at most ``edge`` pixels.

    Raises PreviewError if even a quarter of ``edge`` is too large.
    """
    image = _normalize_mode(image, alpha=media_type != JPEG)
    for longest in (edge, edge // 2, edge // 4):
        small = _scale_down(image, max(1, longest))
        content = _encode(small, media_type)
        if len(content) <= MAX_PREVIEW_BYTES:
            return RenderedPreview(media_type, content, *small.size)
    msg = (
        f"invalid preview of {len(content)} bytes: expected at most {MAX_PREVIEW_BYTES}. "
        "Use a smaller edge or another format"
    )
    raise PreviewError(msg)


def _scale_down(image: Image, edge: int) -> Image:
    from PIL.Image import Resampling

    largest = max(image.size)
    if largest <= edge:
        return image
    width, height = (max(1, round(side * edge / largest)) for side in image.size)
    return image.resize((width, height), Resampling.LANCZOS, reducing_gap=3.0)


def _encode(image: Image, media_type: str) -> bytes:
    name, options = _ENCODERS[media_type]
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _normalize_mode(image: Image, *, alpha: bool) -> Image:
    """Return the image as L, RGB or RGBA without metadata.

    Without alpha it is on white.
    """
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _scale_to_8_bits(image)
    transparent = image.has_transparency_data
    if transparent and not alpha:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    mode = "RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB"
    plain = image.copy() if image.mode == mode else image.convert(mode)
    plain.info = {}
    return plain


def _scale_to_8_bits(image: Image) -> Image:
    """Return an image of large numbers as 8 bits, scaled from minimum to maximum."""
    from PIL.Image import new

    if image.mode.startswith("I;"):
        image = image.convert("I")
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]  # one band
    if not (math.isfinite(low) and math.isfinite(high)) or not high > low:
        return new("L", image.size)
    scale = 255.0 / (high - low)
    return image.point(lambda value: value * scale - low * scale).convert("L")


def load_pillow() -> None:
    """Import PIL with its decoders and encoders.

    Raises MissingExtraError if it is not installed.
    """
    global _ready
    if _ready:
        return
    try:
        with defer_fork():
            import PIL.Image
            import PIL.ImageOps

            PIL.Image.init()
    except ImportError as error:
        raise MissingExtraError("Previews of images and arrays", "previews") from error
    _ready = True


def is_image_type(media_type: str) -> bool:
    """Return whether a media type is that of an image."""
    return media_type in SUFFIXES and media_type.startswith("image/")


def render_cells(content: bytes, columns: int, rows: int) -> list[list[tuple[int, int, int]]]:
    """Return an encoded preview as rows of RGB pixels, for a terminal.

    The result is at most ``columns`` wide and twice ``rows`` high. The number of rows is even,
    because a terminal displays two per line. Raises PreviewError.
    """
    load_pillow()
    image = _normalize_mode(decode_image(content, max(columns, 2 * rows)), alpha=False).convert("RGB")
    scale = min(columns / image.width, 2 * rows / image.height)
    width, height = (
        max(1, min(limit, round(side * scale)))
        for side, limit in zip(image.size, (columns, 2 * rows), strict=True)
    )
    height += height % 2
    raw = image.resize((width, height)).tobytes()
    pixels = [tuple(raw[at : at + 3]) for at in range(0, len(raw), 3)]
    return [pixels[at : at + width] for at in range(0, len(pixels), width)]  # type: ignore[misc]


def to_png(content: bytes) -> bytes:
    """Return an encoded preview as PNG, for terminals without other formats.

    Raises PreviewError.
    """
    load_pillow()
    image = decode_image(content, MAX_PIXELS)
    return _encode(_normalize_mode(image, alpha=True), PNG)
