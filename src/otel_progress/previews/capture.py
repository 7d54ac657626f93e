"""Capture of a caller's value on the caller's thread, as a bounded copy.

The caller may change the value afterwards. A function is called later on another thread. The data
that it reads must not change until then, or the caller must copy it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from otel_progress.errors import PreviewError
from otel_progress.previews import arrays, figures, texts
from otel_progress.previews.images import MAX_ENCODED_BYTES, copy_image, is_image
from otel_progress.text import truncate

Kind: TypeAlias = Literal["array", "image", "figure", "bytes", "path", "text", "json", "function"]


@dataclass(frozen=True, slots=True)
class CapturedValue:
    """A captured value and its kind. ``context`` is that of the caller, for functions."""

    kind: Kind
    value: Any
    context: Context | None = None


def capture_value(
    value: object, edge: int, *, into: bytearray | None = None, at_leisure: bool = False
) -> CapturedValue:
    """Return a captured value.

    Arrays are copied by :func:`~otel_progress.previews.arrays.copy_array`.

    Raises PreviewError if the value cannot be a preview.
    """
    if arrays.is_array(value):
        return CapturedValue("array", arrays.copy_array(value, edge, into=into, at_leisure=at_leisure))
    if is_image(value):
        copy = copy_image(value)
        if isinstance(copy, (str, os.PathLike)):
            return CapturedValue("path", os.fspath(copy))
        return CapturedValue("image", copy)
    if isinstance(value, str):
        return CapturedValue("text", truncate(value, texts.MAX_TEXT_LENGTH))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return CapturedValue("bytes", _copy_bytes(value))
    if isinstance(value, os.PathLike):
        return CapturedValue("path", os.fsdecode(value))
    if isinstance(value, (dict, list, tuple)):
        return CapturedValue("json", texts.copy_json(value))
    if figures.is_figure(value):
        return CapturedValue("figure", figures.copy_figure(value))
    if callable(value):
        return CapturedValue("function", value, copy_context())
    msg = (
        f"invalid preview of type {truncate(type(value).__name__, 60)}: expected a PIL image, a numpy array, "
        "a matplotlib figure, the bytes of an image, a pathlib.Path, a text, a dict or list, "
        "or a function that returns one of them"
    )
    raise PreviewError(msg)


def call_function(captured: CapturedValue, edge: int) -> CapturedValue:
    """Call a captured function in its caller's context, and capture the result.

    Raises PreviewError, and the exceptions of the function.
    """
    function: Callable[[], object] = captured.value
    result = function() if captured.context is None else captured.context.run(function)
    if hasattr(result, "__await__"):
        close = getattr(result, "close", None)
        if callable(close):  # a coroutine that is never awaited would warn
            close()
        raise PreviewError("invalid asynchronous function: pass one that returns the preview itself")
    if (
        callable(result)
        and not is_image(result)
        and not arrays.is_array(result)
        and not figures.is_figure(result)
    ):
        raise PreviewError("the function returned a function: pass one that returns the preview itself")
    return capture_value(result, edge, at_leisure=True)


def _copy_bytes(value: bytes | bytearray | memoryview) -> bytes:
    size = value.nbytes if isinstance(value, memoryview) else len(value)
    if size > MAX_ENCODED_BYTES:
        msg = f"invalid image of {size} bytes: expected at most {MAX_ENCODED_BYTES}"
        raise PreviewError(msg)
    return value if type(value) is bytes else bytes(value)
