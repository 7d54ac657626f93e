"""Conversion of OTLP times, ids and attribute values. Both encodings use it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Final

from otel_progress.model import MetadataValue
from otel_progress.text import MAX_DETAILS, MAX_TEXT, truncate

MAX_ATTRIBUTES: Final = 160
"""Maximum number of attributes of a record or resource. Further attributes are ignored."""


MAX_KEY_CHARACTERS: Final = 256
"""Maximum length of the key of an attribute. Attributes with longer keys are ignored."""


MAX_ELEMENTS: Final = 64
"""Maximum number of elements of an array. Further elements are ignored."""


MAX_BODY_DEPTH: Final = 8
"""Maximum depth of a structured body of a log record. Deeper values are null."""


MAX_PATH_CHARACTERS: Final = 4096
"""Maximum length of a text. The longest value of our own attributes is a path."""


UNFINISHED_AFTER_S: Final = 86_400.0
"""A span whose end is further in the future is unfinished: older Go SDKs encode the zero time as
the year 2339.
"""


_HAS_IS_REMOTE: Final = 0x100
"""Flag of a span whose sender states if the parent is remote."""


_IS_REMOTE: Final = 0x200


_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]+")


def convert_time(nanoseconds: int, now: float) -> float:
    """Return Unix seconds.

    A record without a time has the time of its reception, ``now``, and so has one with a time more
    than a day later.
    """
    seconds = nanoseconds / 1e9
    return seconds if 0.0 < seconds <= now + UNFINISHED_AFTER_S else now


def convert_end(nanoseconds: int, now: float) -> float | None:
    """Return the end of a span in Unix seconds, or None if it has not ended."""
    if nanoseconds <= 0:
        return None
    end = nanoseconds / 1e9
    return None if end > now + UNFINISHED_AFTER_S else end


def is_parent_local(flags: int) -> bool:
    """Return True if the flags of a span state that its parent is of the same process."""
    return flags & (_HAS_IS_REMOTE | _IS_REMOTE) == _HAS_IS_REMOTE


def convert_id(value: str, length: int) -> str | None:
    """Return a lower-case id of ``length`` hexadecimal digits.

    Return None if it is absent, zero or invalid.
    """
    if len(value) != length or _HEXADECIMAL.fullmatch(value) is None or value.strip("0") == "":
        return None
    return value.lower()


def convert_body(value: object) -> str:
    """Return the body of a log record as truncated text.

    A structured body becomes JSON.
    """
    if isinstance(value, str):
        return truncate(value, MAX_TEXT)
    if value is None:
        return ""
    return truncate(json.dumps(value, ensure_ascii=False, default=str), MAX_TEXT)


def convert_details(value: str) -> str | None:
    """Return the end of a traceback, or None if it is empty."""
    return truncate(value[-MAX_DETAILS:], MAX_DETAILS) if value else None


def convert_error(message: str) -> str:
    """Return the status message of a failed span, truncated."""
    return truncate(message, MAX_TEXT)


def convert_scalar(value: object) -> str | bool | int | float | None:
    """Return a text, truth value or finite number, or None for any other value."""
    if isinstance(value, str):
        return truncate(value, MAX_PATH_CHARACTERS if len(value) > MAX_TEXT else MAX_TEXT)
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return None


def convert_array(values: Iterable[object]) -> MetadataValue | None:
    """Return the elements if all have one type, else None.

    Integers next to floats become floats.
    """
    elements: list[str | bool | int | float] = []
    for value in values:
        if len(elements) == MAX_ELEMENTS:
            break
        element = convert_scalar(value)
        if element is None:
            return None
        elements.append(element)
    kinds = {type(element) for element in elements}
    if kinds == {int, float}:
        return tuple(float(element) for element in elements)
    return tuple(elements) if len(kinds) <= 1 else None  # type: ignore[return-value]
