"""Formats of counts, rates, durations and times as text."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from enum import Enum
from typing import Final

from otel_progress.model import Eta, LevelCounts, Number
from otel_progress.text import escape_controls, pluralize

UNKNOWN: Final = "?"
"""Text of a figure that is unknown or not finite."""


ENDED_EARLY: Final = "ended early"
"""Note of a level that completed below its total."""


_BYTE_UNITS: Final = frozenset({"byte", "bytes", "b", "by"})


_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E")


_MAX_UNSCALED: Final = 1_000_000


_MAX_UNIT_CHARS: Final = 16


_MIN_SHOWN_S: Final = 0.1


_MAX_SHOWN_S: Final = 1e15
"""Longest duration shown. A longer one is unknown, because its digits would fill a line."""


_MIN_LOWER_BOUND_S: Final = 1.0
"""Shortest lower bound shown as "at least". A shorter one is omitted."""


def format_duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: ``0.4s``, ``1m 23s``, ``3d 04h``."""
    if seconds is None or not abs(seconds) <= _MAX_SHOWN_S:  # false for NaN
        return UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def format_moment(timestamp: float | None) -> str:
    """Return Unix seconds as local ISO 8601 time with its zone, in whole seconds."""
    if timestamp is None:
        return UNKNOWN
    try:
        return datetime.fromtimestamp(timestamp, tz=timezone.utc).astimezone().isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):  # a journal can contain any number
        return UNKNOWN


def format_percentage(ratio: float | None, *, estimated: bool = False) -> str:
    """Return a ratio as ``42%``, or ``~42%`` if estimated.

    Empty while unknown. Rounded down, so that ``100%`` means complete.
    """
    if ratio is None or not math.isfinite(ratio):
        return ""
    return f"{'~' if estimated else ''}{math.floor(min(1.0, max(0.0, ratio)) * 100 + 1e-9)}%"


def format_time_left(eta: Eta | None, *, bounds: bool = True) -> str:
    """Return the time left with the word "left": ``12m 05s left (10m to 15m)``.

    Other forms are ``at least 3m 00s left`` and ``any moment``. Empty while unknown. Without
    ``bounds`` the interval is omitted.
    """
    return _format_estimate(eta, " left", bounds=bounds)


def format_remaining(eta: Eta | None, *, bounds: bool = True) -> str:
    """Return the time left without the word "left", for a column or label.

    Otherwise like ``format_time_left``.
    """
    return _format_estimate(eta, "", bounds=bounds)


def _format_estimate(eta: Eta | None, word: str, *, bounds: bool) -> str:
    if eta is None:
        return ""
    if eta.remaining_s is None:  # stalled: only the lower bound is known
        low_s = eta.low_s
        return (
            f"at least {format_duration(low_s)}{word}"
            if low_s is not None and _MIN_LOWER_BOUND_S <= low_s < math.inf
            else ""
        )
    text = f"{format_duration(eta.remaining_s)}{word}" if not eta.remaining_s < _MIN_SHOWN_S else "any moment"
    if not bounds or eta.low_s is None or eta.high_s is None:
        return text
    low, high = format_bound(eta.low_s), format_bound(eta.high_s, up=True)
    return text if low == high else f"{text} ({low} to {high})"


def format_bound(seconds: float, *, up: bool = False) -> str:
    """Return a bound with reduced precision: ``8s``, ``1m 20s``, ``12m``.

    Rounded down or ``up``, so that an interval can only become wider.
    """
    if not abs(seconds) <= _MAX_SHOWN_S:  # false for NaN
        return UNKNOWN
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    steps = math.ceil(seconds / step - 1e-6) if up else math.floor(seconds / step + 1e-6)
    whole = max(0, steps) * step
    if whole < 60:
        return f"{whole}s"
    return format_duration(whole) if whole >= 3600 or whole % 60 else f"{whole // 60}m"


def format_quantity(value: Number, unit: str | None = None) -> str:
    """Return a count without its unit: ``250``, ``3.5``, ``12.3M``.

    Bytes include the unit: ``1.2 MB``.
    """
    if not math.isfinite(value):
        return UNKNOWN
    if is_byte_unit(unit):
        return _scale_number(float(value), " ") + "B"
    if abs(value) >= _MAX_UNSCALED:
        return _scale_number(float(value), "")
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else str(int(value))


def format_count(current: Number, total: Number | None, unit: str | None, plural: str | None = None) -> str:
    """Return a count with total and unit: ``100/500 files``, ``1.2 MB/3.4 GB``.

    Without a total: ``3 files``. Without ``plural`` the unit has its regular plural.
    """
    done = format_quantity(current, unit)
    amount = done if total is None else f"{done}/{format_quantity(total, unit)}"
    if unit is None or is_byte_unit(unit):
        return amount
    return f"{amount} {select_unit_form(unit, plural, current if total is None else total)}"


def format_rate(current: Number, seconds: float, unit: str | None) -> str:
    """Return a rate per second, minute or hour. Empty while unknown."""
    if seconds < _MIN_SHOWN_S or current <= 0 or not math.isfinite(current) or not math.isfinite(seconds):
        return ""
    per_second = current / seconds
    if is_byte_unit(unit):
        return f"{format_quantity(per_second, unit)}/s"
    if per_second >= 1.0:
        return f"{_format_rate_value(per_second)}/s"
    if per_second * 60.0 >= 1.0:
        return f"{_format_rate_value(per_second * 60.0)}/min"
    return f"{_format_rate_value(per_second * 3600.0)}/h"


def format_more_levels(counts: LevelCounts) -> str:
    """Return the number of ended levels that are not shown.

    For example ``312 more, all completed``. With several statuses:
    ``312 more: 300 completed (7 ended early), 12 failed``.
    """
    early = counts.ended_early
    present = [
        (status, count) for status, count in counts._asdict().items() if count and status != "ended_early"
    ]
    names = {"completed": "completed" + (f" ({early} {ENDED_EARLY})" if early else "")}
    if len(present) == 1:
        status, count = present[0]
        return f"{count} more, {'all ' if count > 1 else ''}{names.get(status, status)}"
    return f"{counts.total} more: " + ", ".join(
        f"{count} {names.get(status, status)}" for status, count in present
    )


def is_byte_unit(unit: str | None) -> bool:
    """Return whether a unit is bytes, whose counts are shown in kB, MB or GB."""
    return unit is not None and unit.lower() in _BYTE_UNITS


def select_unit_form(unit: str, plural: str | None, number: Number) -> str:
    """Return the singular or plural of a unit for a number, on one line.

    Without ``plural`` it is the regular plural, or the unit itself. Long forms are cut.
    """
    form = unit if number == 1 else plural or pluralize(unit)
    return escape_controls(form if len(form) <= _MAX_UNIT_CHARS else form[: _MAX_UNIT_CHARS - 1] + "…")


def _format_rate_value(value: float) -> str:
    if value >= _MAX_UNSCALED:
        return _scale_number(value, "")
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def _scale_number(value: float, gap: str) -> str:
    """Return a number with a metric prefix: ``999``, ``1.2k``, ``34.5M``."""
    index = 0
    while abs(value) >= 999.95 and index < len(_PREFIXES) - 1:
        value /= 1000.0
        index += 1
    return f"{value:.0f}{gap}" if index == 0 else f"{value:.1f}{gap}{_PREFIXES[index]}"


def format_condition_name(condition: Enum) -> str:
    """Return a condition in words."""
    return str(condition.value).replace("_", " ")
