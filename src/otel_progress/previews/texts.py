"""Text and JSON previews: copied by the caller's thread, redacted on another."""

from __future__ import annotations

import json
import math
from numbers import Integral, Real
from typing import Any, Final

from otel_progress import redaction
from otel_progress.errors import PreviewError
from otel_progress.previews.media import JSON, TEXT, RenderedPreview
from otel_progress.text import truncate

MAX_TEXT_LENGTH: Final = 65_536
"""Maximum length of a text preview, in characters. The rest is cut off."""


MAX_VALUES: Final = 5_000
"""Maximum number of values in a JSON preview, including nested ones."""


MAX_DEPTH: Final = 32
"""Maximum nesting depth of a JSON preview."""


_MAX_STRING: Final = 1_024


_MIN_INTEGER: Final = -(2**63)


_MAX_INTEGER: Final = 2**63 - 1


def copy_json(value: object) -> Any:
    """Return a copy of JSON data that later changes do not affect.

    Raises PreviewError if the data is too large or not valid JSON data.
    """
    return _copy_value(value, [MAX_VALUES], 0)


def _copy_value(value: object, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0:
        msg = f"invalid JSON: expected at most {MAX_VALUES} values. Remove some, or write it to a file"
        raise PreviewError(msg)
    if depth > MAX_DEPTH:
        msg = f"invalid JSON: expected at most {MAX_DEPTH} nested levels, and no reference to itself"
        raise PreviewError(msg)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return truncate(value, _MAX_STRING)
    if isinstance(value, dict):
        return {
            truncate(key, _MAX_STRING): _copy_value(item, left, depth + 1)
            for key, item in list(value.items())
        }
    if isinstance(value, (list, tuple)):
        return [_copy_value(item, left, depth + 1) for item in list(value)]
    if isinstance(value, Real):  # includes the numbers of numpy
        return _to_json_number(value)
    msg = (
        f"invalid JSON value of type {type(value).__name__}: "
        "expected dict, list, str, numbers, true, false and None"
    )
    raise PreviewError(msg)


def _to_json_number(value: Real) -> int | float | None:
    """Return a number that every JSON reader accepts, or None if it is not finite."""
    if isinstance(value, Integral) and _MIN_INTEGER <= int(value) <= _MAX_INTEGER:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def render_text(text: str) -> RenderedPreview:
    """Return a text as a preview, truncated and redacted."""
    redacted = redaction.redact_value("preview", truncate(text, MAX_TEXT_LENGTH), MAX_TEXT_LENGTH)
    return RenderedPreview(TEXT, redacted.encode())


def render_json(value: Any) -> RenderedPreview:
    """Return copied JSON data as a preview, redacted key by key."""
    text = json.dumps(_redact("preview", value), ensure_ascii=False, allow_nan=False, indent=1)
    return RenderedPreview(JSON, text.encode())


def parse_json(text: str) -> Any:
    """Return the data of a JSON text.

    Raises PreviewError if the text is not valid JSON.
    """
    try:
        return copy_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        msg = f"invalid JSON ({truncate(error, 80)})"
        raise PreviewError(msg) from None


def _redact(key: str, value: Any) -> Any:
    """Return JSON data with redacted texts.

    Values of keys that name a secret are replaced.
    """
    rules = redaction.redactor_slot.current
    if rules is None or value is None:
        return value
    if isinstance(value, dict):
        return {name: _redact(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_redact(key, item) for item in value]
    return rules.redact_metadata({key: value})[key]
