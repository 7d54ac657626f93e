"""What a caller passes, taken on their own thread: copied within bounds, so that they may go on changing it.

A function is called later, off the caller's thread: what it reads has to stay as it is, or be copied by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from otel_progress.errors import PreviewError
from otel_progress.previews import arrays, figures, texts
from otel_progress.previews.images import MAX_ENCODED, copy_image, is_image
from otel_progress.text import truncate

Kind: TypeAlias = Literal["array", "image", "figure", "bytes", "path", "text", "json", "function"]


@dataclass(frozen=True, slots=True)
class CapturedValue:
    """A value that nobody else changes, and what kind of thing it is. ``context`` is the caller's, for functions."""

    kind: Kind
    value: Any
    context: Context | None = None


def capture_value(
    value: object, edge: int, *, into: bytearray | None = None, at_leisure: bool = False
) -> CapturedValue:
    """Return what to make a preview of; an array is copied as :func:`otel_progress.previews.arrays.copy_array` says.

    Raises PreviewError when there can be none.
    """
    if arrays.is_array(value):
        return CapturedValue("array", arrays.copy_array(value, edge, into=into, at_leisure=at_leisure))
    if is_image(value):
        copied = copy_image(value)
        return (
            CapturedValue("path", os.fspath(copied))
            if isinstance(copied, (str, os.PathLike))
            else CapturedValue("image", copied)
        )
    if isinstance(value, str):
        return CapturedValue("text", truncate(value, texts.MAX_TEXT))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return CapturedValue("bytes", _copied(value))
    if isinstance(value, os.PathLike):
        return CapturedValue("path", os.fsdecode(value))
    if isinstance(value, (dict, list, tuple)):
        return CapturedValue("json", texts.copy_json(value))
    if figures.is_figure(value):
        return CapturedValue("figure", figures.copy_figure(value))
    if callable(value):
        return CapturedValue("function", value, copy_context())
    msg = (
        f"a {truncate(type(value).__name__, 60)} is no preview: expected a PIL image, a numpy array, a matplotlib figure, "
        "the bytes of a picture, a pathlib.Path, a text, a dict or list, or a function that returns one of them"
    )
    raise PreviewError(msg)


def call(taken: CapturedValue, edge: int) -> CapturedValue:
    """Return what a function made, called in the context its caller was in. Raises PreviewError, or what the function raises."""
    function: Callable[[], object] = taken.value
    made = function() if taken.context is None else taken.context.run(function)
    if hasattr(made, "__await__"):
        close = getattr(made, "close", None)
        if callable(close):  # a coroutine that nobody awaits would warn
            close()
        raise PreviewError("the function is asynchronous: pass one that returns the preview itself")
    if callable(made) and not is_image(made) and not arrays.is_array(made) and not figures.is_figure(made):
        raise PreviewError("the function returned a function: pass one that returns the preview itself")
    return capture_value(made, edge, at_leisure=True)


def _copied(value: bytes | bytearray | memoryview) -> bytes:
    size = value.nbytes if isinstance(value, memoryview) else len(value)
    if size > MAX_ENCODED:
        msg = f"the picture has {size} bytes: at most {MAX_ENCODED} are taken"
        raise PreviewError(msg)
    return value if type(value) is bytes else bytes(value)
