"""What ``--since`` and ``--severity`` may say: moments and severities. Bad values are told at once, with what was expected."""

from __future__ import annotations

import time
from typing import Final

import click

from otel_progress.records import SEVERITIES
from otel_progress.settings.parsing import parse_moment
from otel_progress.text import escape_controls

_DIGITS: Final = 3


def moment_of(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return Unix seconds: of ``15m``, which is that long ago, of ``2026-01-31T12:00:00Z``, or of a number. A callback of click."""
    if text is None:
        return None
    try:
        return parse_moment(text, time.time(), local=True)
    except ValueError as error:
        raise _refused(ctx, param, text, "moment", f"expected {error}") from None


def severity_of(ctx: click.Context, param: click.Parameter, text: str | None) -> int:
    """Return the number of ``logging`` for a name or a number; 0 when none is given. A callback of click."""
    if text is None:
        return 0
    word = text.strip()
    number = SEVERITIES.get(word.upper())
    if number is None and word.isascii() and word.isdecimal() and len(word) <= _DIGITS:
        number = int(word)
    if number is None:
        raise _refused(
            ctx,
            param,
            text,
            "severity",
            f"expected one of {', '.join(SEVERITIES)}, or a number from 0 to 999",
        )
    return number


def complete_severity(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's signature
    """Return the names a shell may complete to."""
    return [name for name in SEVERITIES if name.startswith(incomplete.upper())]


def _refused(
    ctx: click.Context, param: click.Parameter, text: str, what: str, expected: str
) -> click.BadParameter:
    return click.BadParameter(f"{escape_controls(repr(text[:100]))} is no {what}; {expected}.", ctx, param)
