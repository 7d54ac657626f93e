"""Text that comes from callers: cut to a bound, made valid Unicode, and made harmless for a terminal or a log line."""

from __future__ import annotations

import re
from typing import Final

MAX_ID: Final = 256
"""Longest identifier or type, in characters."""


MAX_NAME: Final = 256
"""Longest name, in characters."""


MAX_TEXT: Final = 1024
"""Longest message or metadata value, in characters."""


MAX_DETAILS: Final = 8192
"""Longest error details (a traceback), in characters."""


_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def truncate(value: object, limit: int = MAX_TEXT) -> str:
    """Return ``value`` as valid Unicode of at most ``limit`` characters; what is cut off becomes one ``…``."""
    text = value if type(value) is str else _as_text(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii():
        return text
    text = _valid(text)  # which may make it longer
    return text if len(text) <= limit else text[: limit - 1] + "…"


def normalize_id(value: object) -> str:
    """Return ``value`` as an id of at most 256 characters; a longer one keeps its start and gets a digest, so it stays unique."""
    text = value if type(value) is str else _as_text(value)
    if len(text) <= MAX_ID and text.isascii():
        return text
    start = _valid(text[: MAX_ID + 1])
    if len(start) <= MAX_ID:
        return start
    import hashlib  # only ever needed for ids that long

    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{start[: MAX_ID - 17]}~{digest}"


def encode_segment(type_: str, id_: str) -> str:
    """Return the path segment ``type:id``; ``/`` and ``%`` (and ``:`` in the type) are percent-encoded, as in URLs."""
    if "%" in type_ or "/" in type_ or ":" in type_:
        type_ = type_.replace("%", "%25").replace("/", "%2F").replace(":", "%3A")
    if "%" in id_ or "/" in id_:
        id_ = id_.replace("%", "%25").replace("/", "%2F")
    return f"{type_}:{id_}"


def escape_controls(text: str) -> str:
    """Return ``text`` on one line with control, escape and direction characters shown as escapes, for terminals and logs."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def _as_text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a caller's __str__ may do anything; a name is not worth an exception in their work
        return f"<{type(value).__name__}>"


def _valid(text: str) -> str:
    """Replace lone surrogates, which no encoder, database or wire format takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
