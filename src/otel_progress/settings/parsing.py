"""Parsers of settings.

A parser converts an argument or the text of an environment variable to a value. It raises
ValueError for an invalid value. Its message is what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence, Set
from datetime import datetime
from itertools import pairwise
from os import PathLike, fspath
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from otel_progress.records import SEVERITIES
from otel_progress.settings.defaults import MAX_PORT

AutoMode: TypeAlias = Literal["auto"] | bool


ConsoleMode: TypeAlias = Literal["auto", "log", "json"] | bool | str
"""``auto``, a bool, ``log``, ``json``, or ``json:3`` for a file descriptor."""


CaptureLevel: TypeAlias = bool | int | str
"""Whether to capture log records, or the lowest severity as a name or number. True is INFO."""


RedactRule: TypeAlias = bool | Callable[[str, str], str]
"""Whether to redact secrets, or a function of a key and a text that runs after that."""


ReportTo: TypeAlias = str | bool | Sequence[str] | Set[str]
"""Platforms to report to: ``auto``, False, or names and URLs."""


PreviewAt: TypeAlias = str | float | Sequence[float]
"""When to capture previews: at fractions, at an interval in seconds, or ``always``."""


PLATFORMS: Final = ("argo", "github", "kubeflow", "systemd", "taskbar")
"""Platforms that can receive progress. Health checks are named by their URL."""


MAX_PLATFORMS: Final = 20
"""Maximum number of names and URLs in ``report_to``. More are rejected."""


MIN_TOKEN: Final = 16
"""Minimum length of a token, in characters. Shorter ones can be guessed and are rejected."""


MAX_TOKEN: Final = 4_096
"""Maximum length of a token, in characters. Longer ones are rejected."""


MIN_TOKEN_CHARACTERS: Final = 5
"""Minimum number of different and unpredictable characters. Tokens with fewer are rejected."""


_NEW_TOKEN: Final = "python -c 'import secrets; print(secrets.token_urlsafe())'"
"""Command that prints a secure token."""


_KEYBOARD: Final = "qwertyuiop asdfghjkl zxcvbnm 1234567890"
"""Rows of keys, whose neighbours are predictable."""


_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""Characters of a bearer token (RFC 6750)."""


_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
"""RFC 3339, and shorter forms where the zone may be left out."""


_MAX_MOMENT: Final = 3e11
"""Upper bound of times in Unix seconds, after the year 9999. Later times are rejected."""


_SIZES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


_TRUE_WORDS: Final = frozenset({"true", "1", "yes", "on"})


_FALSE_WORDS: Final = frozenset({"false", "0", "no", "off"})


_PERCENT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


_JSON_DESCRIPTOR: Final = re.compile(r"json:0*([1-9][0-9]{0,5})", re.ASCII)


_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_text(value: object) -> str:
    """Return a non-empty text without surrounding spaces."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value.strip()


def parse_bool(value: object) -> bool:
    """Return a bool, also from a word such as ``on`` or ``0``."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE_WORDS:
        return True
    if word in _FALSE_WORDS:
        return False
    raise ValueError("true or false")


def parse_auto(value: object) -> AutoMode:
    """Return ``auto`` or a bool."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError("auto, true or false") from None


def parse_console(value: object) -> ConsoleMode:
    """Return ``auto``, a bool, ``log``, ``json``, or ``json:`` and a file descriptor."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("log", "json"):
        return word
    if match := _JSON_DESCRIPTOR.fullmatch(word):
        return f"json:{int(match[1])}"
    try:
        return parse_auto(value)
    except ValueError:
        raise ValueError(
            "auto, true or false, log, json, or json: and a file descriptor from 1, such as json:3"
        ) from None


def parse_port(value: object) -> int:
    """Return a port. 0 selects a free one."""
    expected = f"a port from 0 (any free one) to {MAX_PORT}"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(expected)
    if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]{1,5}\s*", value):
        raise ValueError(expected)
    port = int(value)
    if not 0 <= port <= MAX_PORT:
        raise ValueError(expected)
    return port


def parse_duration(value: object) -> float:
    """Return seconds from a number or a text such as ``500ms``, ``15m`` or ``7d``."""
    expected = "a duration above 0 in seconds, or with a unit: 500ms, 90s, 15m, 24h, 7d"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if value < 2**63 else math.inf
    else:
        match = (
            re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", value)
            if isinstance(value, str)
            else None
        )
        if match is None:
            raise ValueError(expected)
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0.0 < seconds < math.inf:
        raise ValueError(expected)
    return seconds


def parse_moment(value: object, now: float, *, local: bool = False) -> float:
    """Return the Unix seconds of a time.

    The text is a number of Unix seconds, an RFC 3339 time, or a duration before ``now`` such as
    ``15m``. With ``local``, a time without a zone and a date without a time are in the zone of
    this process.
    """
    expected = (
        "how long ago (90s, 15m, 24h, 7d), an RFC 3339 time (2026-01-31T12:00:00Z) "
        "or Unix seconds (1700000000)"
    )
    text = value.strip() if isinstance(value, str) else ""
    try:
        if re.fullmatch(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", text):
            moment = float(text)
        elif text[-1:] in {"s", "m", "h", "d"}:
            moment = max(1.0 - _MAX_MOMENT, now - parse_duration(text))
        else:
            moment = _parse_time(text, local)
    except (ValueError, OverflowError, OSError):
        raise ValueError(expected) from None
    if not -_MAX_MOMENT < moment < _MAX_MOMENT:
        raise ValueError(expected)
    return moment


def _parse_time(text: str, local: bool) -> float:
    """Return the Unix seconds of an RFC 3339 time, on any version of Python."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time")
    day, clock, fraction, zone = match.groups()
    iso_text = f"{day}T{clock or '00:00'}"
    if fraction is not None:
        iso_text += f".{(fraction + '000000')[:6]}"
    time = datetime.fromisoformat(iso_text + ("+00:00" if zone in {"Z", "z"} else zone or ""))
    if time.tzinfo is None and not local:
        raise ValueError("a time without its zone")
    return time.timestamp()


def parse_tick(value: object) -> float:
    """Return the interval of ticks in seconds, at least a millisecond."""
    seconds = parse_duration(value)
    if not 0.001 <= seconds <= 60.0:
        raise ValueError("a duration from 1ms to 60s")
    return seconds


def parse_capture(value: object) -> int | Literal[False]:
    """Return the lowest severity of log records to capture, or False."""
    expected = (
        "true, false, one of DEBUG, INFO, WARNING, ERROR and CRITICAL, or a number of logging from 1 to 100"
    )
    text = value.strip().upper() if isinstance(value, str) else ""
    if text in SEVERITIES:
        return SEVERITIES[text]
    # "1" and "0" are bools, as in every variable.
    if re.fullmatch(r"[0-9]{2,3}", text):
        value = int(text)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 100:
            raise ValueError(expected)
        return value
    try:
        return SEVERITIES["INFO"] if parse_bool(value) else False
    except ValueError:
        raise ValueError(expected) from None


def parse_redact(value: object) -> RedactRule:
    """Return a bool, or a function of a key and a text."""
    if callable(value):
        return value
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(
            "true, false, or (as an argument) a function of a key and a text that returns the text to show"
        ) from None


def parse_token(value: object) -> str:
    """Return a token that is valid in a header and long enough to be secure."""
    text = value.strip() if isinstance(value, str) else ""
    if not MIN_TOKEN <= len(text) <= MAX_TOKEN or not _TOKEN.fullmatch(text):
        raise ValueError(
            f"{MIN_TOKEN} to {MAX_TOKEN} characters of A-Z a-z 0-9 and . _ ~ + / = -, such as: {_NEW_TOKEN}"
        )
    if _is_weak(text):
        raise ValueError(f"a random text without repetitions or sequences, such as: {_NEW_TOKEN}")
    return text


def _is_weak(token: str) -> bool:
    """Return whether a token is a repetition, a sequence or of few characters."""
    text = token.lower()
    if len(set(text)) < MIN_TOKEN_CHARACTERS:
        return True
    # A repetition: the token repeats its start, such as "passwordpassword".
    is_repetition = any(text.startswith(text[period:]) for period in range(1, 2 * len(text) // 3 + 1))
    # A sequence: the character follows from the previous one, as in "aaaa", "1234" or "qwer".
    predictable = sum(_is_step(first, second) for first, second in pairwise(text))
    return is_repetition or len(text) - predictable < MIN_TOKEN_CHARACTERS


def _is_step(first: str, second: str) -> bool:
    """Return whether two characters are equal, or neighbours in a sequence."""
    return abs(ord(first) - ord(second)) <= 1 or first + second in _KEYBOARD or second + first in _KEYBOARD


def parse_path(value: object) -> str:
    """Return the path of a file."""
    text = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("the path of a file")
    return text


def parse_previews(value: object) -> str | Literal[False]:
    """Return where previews are stored: ``auto``, a folder, a URL, or False."""
    text = fspath(value) if isinstance(value, PathLike) else value
    if isinstance(text, bool) or (
        isinstance(text, str) and text.strip().lower() in _TRUE_WORDS | _FALSE_WORDS
    ):
        return "auto" if parse_bool(text) else False
    if not isinstance(text, str) or not text.strip() or "\0" in text or any(sign in text for sign in "\r\n"):
        raise ValueError("auto (next to the journal), false, a folder, or a URL such as s3://bucket/previews")
    return "auto" if text.strip().lower() == "auto" else text.strip()


PREVIEW_AT: Final = (
    "fractions of the work (25%,50%,75%, or as an argument a sequence such as (0.25, 0.5)), "
    "a duration (30s), or always"
)
"""Values that :func:`parse_preview_at` accepts."""


def parse_preview_at(value: object) -> tuple[float, ...] | float | Literal["always"]:
    """Return when to capture previews: fractions, seconds or ``always``."""
    text = value.strip().lower() if isinstance(value, str) else None
    if text == "always":
        return "always"
    try:
        if text is not None and ("%" in text or "," in text):
            return _check_fractions([_parse_fraction(part) for part in text.split(",")])
        if isinstance(value, Sequence) and text is None:
            return _check_fractions([float(part) for part in value])
        return parse_duration(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(PREVIEW_AT) from None


def parse_edge(value: object) -> int:
    """Return the longer side of previews, in pixels."""
    return _parse_integer(value, 16, 4_096, "a whole number of pixels from 16 to 4096")


def parse_count(value: object) -> int:
    """Return the maximum number of previews per operation."""
    return _parse_integer(value, 1, 10_000, "a whole number from 1 to 10000")


def parse_size(value: object) -> int:
    """Return bytes from a number or a text such as ``16MiB``, at least 64 KiB."""
    expected = "a size of 64KiB or more, in bytes or with a unit: 500KB, 16MiB, 1GB"
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = (
            re.fullmatch(r"\s*([0-9]{1,18})\s*([a-z]*)\s*", value.lower()) if isinstance(value, str) else None
        )
        if match is None or match[2] not in _SIZES:
            raise ValueError(expected)
        size = int(match[1]) * _SIZES[match[2]]
    if not 2**16 <= size < 2**63:
        raise ValueError(expected)
    return size


def parse_image_format(value: object) -> Literal["png", "webp", "jpeg"]:
    """Return an image format."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word == "png":
        return "png"
    if word == "webp":
        return "webp"
    if word in ("jpeg", "jpg"):
        return "jpeg"
    raise ValueError("png, webp or jpeg")


def parse_report_to(value: object) -> tuple[str, ...]:
    """Return the platforms to report to: ``auto``, names, and URLs of health checks."""
    expected = (
        f"auto, false, or a list of {', '.join(PLATFORMS)} and URLs of health checks (https://host/path)"
    )
    if isinstance(value, bool):
        return ("auto",) if value else ()
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple, set, frozenset)):
        raise ValueError(expected)
    names: dict[str, None] = {}
    for word in words:
        text = word.strip() if isinstance(word, str) else ""
        if text.lower() in ("auto", *PLATFORMS):
            names[text.lower()] = None
        elif _is_health_check(text):
            names[text] = None
        elif len(words) == 1 and text.lower() in _TRUE_WORDS | _FALSE_WORDS | {"none"}:
            return ("auto",) if text.lower() in _TRUE_WORDS else ()
        else:
            raise ValueError(expected)
    if len(names) > MAX_PLATFORMS:
        raise ValueError(f"at most {MAX_PLATFORMS} names and URLs")
    return tuple(sorted(names)) if isinstance(words, (set, frozenset)) else tuple(names)


def _is_health_check(text: str) -> bool:
    """Return True for a URL of http or https with a host and without spaces."""
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return is_http and text.isprintable() and " " not in text and text.isascii() and not parts.fragment


def parse_base_url(value: object) -> str:
    """Return the URL of a server, without a slash at its end."""
    expected = (
        "the public URL of the server: http or https, a host, perhaps a path (https://progress.example.org)"
    )
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise ValueError(expected) from None
    if (
        not is_http
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not text.isprintable()
        or " " in text
        or len(text) > 1_024
    ):
        raise ValueError(expected)
    return text.rstrip("/")


def _parse_integer(value: object, minimum: int, maximum: int, expected: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError(expected)
    return value


def _parse_fraction(text: str) -> float:
    match = _PERCENT.fullmatch(text.strip())
    return float(match[1]) / 100.0 if match else float(text)


def _check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    if not 1 <= len(fractions) <= 1_000 or not all(0.0 < fraction <= 1.0 for fraction in fractions):
        raise ValueError
    return tuple(sorted(set(fractions)))
