"""Normalisation of texts: truncation, valid Unicode, ids, and escaped controls."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from otel_progress.interrupts import is_interrupt

MAX_ID: Final = 256
"""Characters of an identifier or type. Longer ones end in a digest."""


MAX_NAME: Final = 256
"""Characters of a name. Longer ones are truncated."""


MAX_TEXT: Final = 1024
"""Characters of a message or metadata value. Longer ones are truncated."""


MAX_DETAILS: Final = 8192
"""Characters of error details (a traceback). Longer ones are truncated."""


_REGULAR_UNIT: Final = re.compile(r"(?:[A-Za-z]+[ -])*([A-Z]?[a-z]{2,})")


_IRREGULAR_UNIT_LIST: Final = (
    "aircraft children child criteria criterion data datum deer echo equipment feet foot geese "
    "goose half hero info information knife leaf life loaf man media medium men mice mouse "
    "people percent person phenomenon potato sheep shelf software teeth tomato tooth traffic "
    "wife wolf woman women work"
)


_IRREGULAR_UNITS: Final = frozenset(_IRREGULAR_UNIT_LIST.split())
"""Common nouns without a regular plural, and plurals."""


_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


_USERINFO: Final = re.compile(r"(?<=//)[^\s/'\"]*@|(?<![^\s'\"=(])[^\s/@'\"=(]+@(?=[\w\[.-])")
"""User and password before a host. In a URL the password may contain ``@``."""


def truncate(value: object, limit: int = MAX_TEXT) -> str:
    """Return ``value`` as valid Unicode of at most ``limit`` characters.

    A truncated text ends in ``…``.
    """
    text = value if type(value) is str else _to_text(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii():
        return text
    text = _replace_surrogates(text)  # may make the text longer
    return text if len(text) <= limit else text[: limit - 1] + "…"


def normalize_id(value: object) -> str:
    """Return ``value`` as an id of at most 256 characters.

    A longer id keeps its start and ends in a digest, so it stays unique.
    """
    text = value if type(value) is str else _to_text(value)
    if len(text) <= MAX_ID and text.isascii():
        return text
    start = _replace_surrogates(text[: MAX_ID + 1])
    if len(start) <= MAX_ID:
        return start
    import hashlib  # needed only for such long ids

    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{start[: MAX_ID - 17]}~{digest}"


@lru_cache(maxsize=1024)
def pluralize(unit: str) -> str:
    """Return the regular plural of a unit, or the unit itself.

    The regular plural appends ``s`` to a final letter other than s, x, z, h and y. Other words,
    symbols and short forms (``epoch``, ``entry``, ``child``, ``%``, ``MB``) are unchanged.
    """
    word = _REGULAR_UNIT.fullmatch(unit)
    if word is None or unit[-1] in "sxzhy" or word.group(1).lower() in _IRREGULAR_UNITS:
        return unit
    return f"{unit}s"


def encode_segment(type_: str, id_: str) -> str:
    """Return the path segment ``type:id``.

    ``/`` and ``%``, and ``:`` in the type, are percent-encoded as in URLs.
    """
    if "%" in type_ or "/" in type_ or ":" in type_:
        type_ = type_.replace("%", "%25").replace("/", "%2F").replace(":", "%3A")
    if "%" in id_ or "/" in id_:
        id_ = id_.replace("%", "%25").replace("/", "%2F")
    return f"{type_}:{id_}"


def remove_credentials(text: str) -> str:
    """Return a text without the user and password of URLs and gRPC targets."""
    return _USERINFO.sub("", text) if "@" in text else text


def escape_controls(text: str) -> str:
    """Return ``text`` on one line with control and direction characters as escapes."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def _to_text(value: object) -> str:
    try:
        return str(value)
    except Exception as failure:  # A foreign __str__ may raise any exception.
        if is_interrupt(failure):
            raise
        return f"<{type(value).__name__}>"


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which encoders, databases and wire formats reject."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_title(kind: str, name: str) -> tuple[str, str]:
    """Return the type and the name to show for a level, each once.

    The type is empty when the name starts with it, as in ``thumbs 1`` for a level without a name.
    Both are never empty unless both arguments are.
    """
    if not name:
        return "", kind
    lower_kind, lower_name = kind.casefold(), name.casefold()
    is_repeated = lower_name == lower_kind or lower_name.startswith(f"{lower_kind} ")
    return ("" if is_repeated else kind), name


def join_title(kind: str, name: str) -> str:
    """Return the type and the name of a level as one text, without repeating the type."""
    return " ".join(part for part in split_title(kind, name) if part)
