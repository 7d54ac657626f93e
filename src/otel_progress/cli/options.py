"""Parsers of option values: moments, severities and names."""

from __future__ import annotations

import time
from typing import Final

import click

from otel_progress.records import SEVERITIES
from otel_progress.settings.parsing import parse_moment
from otel_progress.text import escape_controls

_MAX_SEVERITY_DIGITS: Final = 3
"""Digits of a numeric severity. Longer numbers are rejected."""


def parse_since(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Parse a moment to Unix seconds.

    A click callback. Accepts ``15m`` (15 minutes ago), ISO 8601 and Unix seconds.
    """
    if text is None:
        return None
    try:
        return parse_moment(text, time.time(), local=True)
    except ValueError as error:
        raise _invalid_value(ctx, param, text, "moment", str(error)) from None


def parse_severity(ctx: click.Context, param: click.Parameter, text: str | None) -> int:
    """Parse a severity name or number to the number of ``logging``.

    A click callback. None becomes 0.
    """
    if text is None:
        return 0
    word = text.strip()
    number = SEVERITIES.get(word.upper())
    if number is None and word.isascii() and word.isdecimal() and len(word) <= _MAX_SEVERITY_DIGITS:
        number = int(word)
    if number is None:
        raise _invalid_value(
            ctx,
            param,
            text,
            "severity",
            f"one of {', '.join(SEVERITIES)}, or a number from 0 to 999",
        )
    return number


def parse_name(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Return an id, a type or another name. Reject one without a visible character.

    A click callback.
    """
    if text is not None and not text.strip():
        thing = (param.name or "name").rpartition("_")[2]
        raise _invalid_value(ctx, param, text, thing, "at least one visible character")
    return text


def complete_severity(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's signature
    """Return the severity names that start with ``incomplete``."""
    return [name for name in SEVERITIES if name.startswith(incomplete.upper())]


def _invalid_value(
    ctx: click.Context, param: click.Parameter, text: str, thing: str, expected: str
) -> click.UsageError:
    value = escape_controls(repr(text[:100]))
    where = param.opts[0] if isinstance(param, click.Option) else (param.metavar or "").strip("[]")
    return click.UsageError(f"Invalid {thing} {value} for {where}: expected {expected}.", ctx)
