"""Texts and JSON as previews: copied on the caller's thread within bounds, redacted and encoded off it."""

from __future__ import annotations

import json
import math
from numbers import Integral, Real
from typing import Any, Final

from otel_progress import redaction
from otel_progress.errors import PreviewError
from otel_progress.previews.media import JSON, TEXT, RenderedPreview
from otel_progress.text import truncate

MAX_TEXT: Final = 65_536
"""Longest text preview, in characters; the rest is cut off."""


MAX_VALUES: Final = 5_000
"""Values in a JSON preview, those inside of others counted."""


MAX_DEPTH: Final = 32
"""How deep the values of a JSON preview may lie in each other."""


_MAX_STRING: Final = 1_024


_LEAST: Final = -(2**63)


_MOST: Final = 2**63 - 1


def copy_json(value: object) -> Any:
    """Return a copy of JSON data that later changes do not reach. Raises PreviewError when it is too large or no JSON."""
    return _copied(value, [MAX_VALUES], 0)


def _copied(value: object, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0:
        msg = f"the JSON has more than {MAX_VALUES} values: leave some out, or write it to a file and give a text about it"
        raise PreviewError(msg)
    if depth > MAX_DEPTH:
        msg = f"the JSON is nested deeper than {MAX_DEPTH} steps (or contains itself): give a flatter one"
        raise PreviewError(msg)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return truncate(value, _MAX_STRING)
    if isinstance(value, dict):
        return {truncate(key, _MAX_STRING): _copied(one, left, depth + 1) for key, one in list(value.items())}
    if isinstance(value, (list, tuple)):
        return [_copied(one, left, depth + 1) for one in list(value)]
    if isinstance(value, Real):  # numpy's numbers as well
        return _number(value)
    msg = (
        f"JSON cannot hold a {type(value).__name__}: expected dict, list, str, numbers, true, false and None"
    )
    raise PreviewError(msg)


def _number(value: Real) -> int | float | None:
    """Return a number that every reader of JSON takes, None for one that is not finite."""
    if isinstance(value, Integral) and _LEAST <= int(value) <= _MOST:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def make_text(text: str) -> RenderedPreview:
    """Return a text, cut and redacted, as a preview."""
    return RenderedPreview(
        TEXT, redaction.redact_value("preview", truncate(text, MAX_TEXT), MAX_TEXT).encode()
    )


def make_json(value: Any) -> RenderedPreview:
    """Return copied JSON data, redacted key by key, as a preview."""
    text = json.dumps(_redacted("preview", value), ensure_ascii=False, allow_nan=False, indent=1)
    return RenderedPreview(JSON, text.encode())


def parse_json(text: str) -> Any:
    """Return the data of a JSON text. Raises PreviewError when it is none."""
    try:
        return copy_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        msg = f"the content is no JSON ({truncate(error, 80)})"
        raise PreviewError(msg) from None


def _redacted(key: str, value: Any) -> Any:
    """Return JSON data as it may be shown: texts redacted, and values under keys that name a secret replaced."""
    rules = redaction.redactor_slot.current
    if rules is None or value is None:
        return value
    if isinstance(value, dict):
        return {name: _redacted(name, one) for name, one in value.items()}
    if isinstance(value, list):
        return [_redacted(key, one) for one in value]
    return rules.redact_metadata({key: value})[key]
