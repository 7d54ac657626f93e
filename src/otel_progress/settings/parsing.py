"""From what an argument or an environment variable says to the value of a setting. What cannot be used is a ValueError that says
what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from os import PathLike, fspath
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from otel_progress.records import SEVERITIES
from otel_progress.settings.defaults import MAX_PORT

ConsoleMode: TypeAlias = Literal["auto"] | bool


CaptureLevel: TypeAlias = bool | int | str
"""Whether to capture log records; a number or name of ``logging`` is the least severity, and True is INFO."""


RedactRule: TypeAlias = bool | Callable[[str, str], str]
"""Whether to redact secrets, or what to do with a key and a text after that."""


PreviewAt: TypeAlias = str | float | Sequence[float]
"""When to take previews: fractions, seconds, or ``always``."""


MIN_TOKEN: Final = 16
"""Shortest token that is taken, in characters: shorter ones can be guessed."""


MAX_TOKEN: Final = 4_096
"""Longest token, in characters."""


_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what may stand after "Bearer" (RFC 6750)


_TIME: Final = re.compile(  # RFC 3339, and shorter where the zone may be left out
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


_FAR: Final = 3e11  # Unix seconds after the year 9999, in which no moment lies


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


_TRUTHS: Final = frozenset({"true", "1", "yes", "on", "false", "0", "no", "off"})


_PERCENT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_text(value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value.strip()


def parse_bool(value: object) -> bool:
    """Return a truth value, also from the words environment variables use."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def parse_console(value: object) -> ConsoleMode:
    """Return "auto" or a truth value."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError("auto, true or false") from None


def parse_port(value: object) -> int:
    """Return a port; 0 stands for any free one."""
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
    """Return seconds from a number or a text such as ``90``, ``500ms``, ``15m``, ``24h`` or ``7d``."""
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
    """Return the Unix seconds of a moment: a number of them, an RFC 3339 time, or a duration (``15m``: that long before ``now``).

    ``local`` takes a time without its zone as well, in the zone of this process, and a day without a time.
    """
    expected = "how long ago (90s, 15m, 24h, 7d), an RFC 3339 time (2026-01-31T12:00:00Z) or Unix seconds (1700000000)"
    text = value.strip() if isinstance(value, str) else ""
    try:
        if re.fullmatch(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", text):
            moment = float(text)
        elif text[-1:] in {"s", "m", "h", "d"}:
            moment = max(1.0 - _FAR, now - parse_duration(text))
        else:
            moment = _seconds(text, local)
    except (ValueError, OverflowError, OSError):
        raise ValueError(expected) from None
    if not -_FAR < moment < _FAR:
        raise ValueError(expected)
    return moment


def _seconds(text: str, local: bool) -> float:
    """Return the Unix seconds of a written time, in a form that every version of Python reads."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no time")
    day, clock, fraction, zone = match.groups()
    written = f"{day}T{clock or '00:00'}"
    if fraction is not None:
        written += f".{(fraction + '000000')[:6]}"
    time = datetime.fromisoformat(written + ("+00:00" if zone in {"Z", "z"} else zone or ""))
    if time.tzinfo is None and not local:
        raise ValueError("a time without its zone")
    return time.timestamp()


def parse_tick(value: object) -> float:
    """Return the length of a tick in seconds, at least a millisecond."""
    seconds = parse_duration(value)
    if not 0.001 <= seconds <= 60.0:
        raise ValueError("a duration from 1ms to 60s")
    return seconds


def parse_capture(value: object) -> int | Literal[False]:
    """Return the least severity of log records to capture, False for none."""
    expected = (
        "true, false, one of DEBUG, INFO, WARNING, ERROR and CRITICAL, or a number of logging from 1 to 100"
    )
    text = value.strip().upper() if isinstance(value, str) else ""
    if text in SEVERITIES:
        return SEVERITIES[text]
    if re.fullmatch(r"[0-9]{2,3}", text):  # "1" and "0" are truth values, as in every variable
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
    """Return a truth value, or what is callable with a key and a text."""
    if callable(value):
        return value
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(
            "true, false, or (as an argument) a function of a key and a text that returns the text to show"
        ) from None


def parse_token(value: object) -> str:
    """Return a token that can be sent in a header and is too long to be guessed."""
    text = value.strip() if isinstance(value, str) else ""
    if not MIN_TOKEN <= len(text) <= MAX_TOKEN or not _TOKEN.fullmatch(text):
        raise ValueError(
            f"{MIN_TOKEN} to {MAX_TOKEN} characters of A-Z a-z 0-9 and . _ ~ + / = -, such as: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return text


def parse_path(value: object) -> str:
    """Return the path of a file."""
    text = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("the path of a file")
    return text


def parse_previews(value: object) -> str | Literal[False]:
    """Return where previews are kept: ``auto``, a folder or a URL; False for nowhere."""
    text = fspath(value) if isinstance(value, PathLike) else value
    if isinstance(text, bool) or (isinstance(text, str) and text.strip().lower() in _TRUTHS):
        return "auto" if parse_bool(text) else False
    if not isinstance(text, str) or not text.strip() or "\0" in text or any(sign in text for sign in "\r\n"):
        raise ValueError("auto (beside the journal), false, a folder, or a URL such as s3://bucket/previews")
    return "auto" if text.strip().lower() == "auto" else text.strip()


PREVIEW_AT: Final = "fractions of the work (25%,50%,75%, or as an argument a sequence such as (0.25, 0.5)), a duration (30s), or always"
"""What :func:`parse_preview_at` expects."""


def parse_preview_at(value: object) -> tuple[float, ...] | float | Literal["always"]:
    """Return when to take previews: fractions as a tuple, seconds as a number, or ``always``."""
    text = value.strip().lower() if isinstance(value, str) else None
    if text == "always":
        return "always"
    try:
        if text is not None and ("%" in text or "," in text):
            return _fractions([_fraction(part) for part in text.split(",")])
        if isinstance(value, Sequence) and text is None:
            return _fractions([float(part) for part in value])
        return parse_duration(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(PREVIEW_AT) from None


def parse_edge(value: object) -> int:
    """Return the longer side of previews in pixels."""
    return _whole(value, 16, 4_096, "a whole number of pixels from 16 to 4096")


def parse_count(value: object) -> int:
    """Return how many previews of an operation are kept."""
    return _whole(value, 1, 10_000, "a whole number from 1 to 10000")


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


def parse_picture_format(value: object) -> Literal["png", "webp", "jpeg"]:
    """Return what pictures are encoded as."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word == "png":
        return "png"
    if word == "webp":
        return "webp"
    if word in ("jpeg", "jpg"):
        return "jpeg"
    raise ValueError("png, webp or jpeg")


def parse_base_url(value: object) -> str:
    """Return the address of a server, without a slash at its end."""
    expected = "the address of the server as people reach it: http or https, a host, perhaps a path (https://progress.example.org)"
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise ValueError(expected) from None
    if (
        not usable
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not text.isprintable()
        or " " in text
        or len(text) > 1_024
    ):
        raise ValueError(expected)
    return text.rstrip("/")


def _whole(value: object, least: int, most: int, expected: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(expected)
    return value


def _fraction(text: str) -> float:
    match = _PERCENT.fullmatch(text.strip())
    return float(match[1]) / 100.0 if match else float(text)


def _fractions(found: Sequence[float]) -> tuple[float, ...]:
    if not 1 <= len(found) <= 1_000 or not all(0.0 < one <= 1.0 for one in found):
        raise ValueError
    return tuple(sorted(set(found)))
