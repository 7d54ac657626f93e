"""Counts and percentages in lines: ``12/500`` and ``37%``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otel_progress.parsers.readings import Reading

if TYPE_CHECKING:
    from otel_progress.model import Number
    from otel_progress.parsers.lines import Line


MAX_SEARCHED_CHARACTERS: Final = 4096
"""Characters of a line that are searched for numbers. The rest is ignored."""


MAX_DIGITS: Final = 18
"""Digits of a number. A longer number is not a count."""


PERCENT: Final = "%"
"""Unit of percentages."""


_FACTORS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


_NUMBER: Final = r"(\d{1,18}(?:,\d{3})*(?:\.\d{1,18})?)([kKMGT]?)(?:i?B)?"


_COUNT: Final = re.compile(rf"(?<![\w/.,:-]){_NUMBER}\s?/\s?{_NUMBER}(?![\w/.,-]*[\w/])")
"""Two numbers with a slash between them, which are not part of a path, date or fraction."""


_PERCENTAGE: Final = re.compile(r"(?<![\w.,%-])(\d{1,3}(?:[.,]\d{1,6})?)\s?%(?![\w%])")


class CountParser:
    """Parser of ``12/500``: the first pair of a line that is a count and its total."""

    is_stateless = True

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the count of a line."""
        count = find_count(line.text)
        return () if count is None else (Reading(current=count[0], total=count[1]),)


class PercentParser:
    """Parser of ``37%``: the first percentage of a line."""

    is_stateless = True

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the percentage of a line."""
        percentage = find_percentage(line.text)
        return () if percentage is None else (Reading(current=percentage, total=100, unit=PERCENT),)


def find_count(text: str) -> tuple[Number, Number] | None:
    """Return the first current and total of a text, or None."""
    for match in _COUNT.finditer(text[:MAX_SEARCHED_CHARACTERS]):
        current, total = _to_number(match[1], match[2]), _to_number(match[3], match[4])
        if 0 <= current <= total and total > 0:
            return current, total
    return None


def find_percentage(text: str) -> Number | None:
    """Return the first percentage of a text from 0 to 100, or None."""
    for match in _PERCENTAGE.finditer(text[:MAX_SEARCHED_CHARACTERS]):
        percentage = float(match[1].replace(",", "."))
        if percentage <= 100:
            return int(percentage) if percentage == int(percentage) else percentage
    return None


def _to_number(digits: str, suffix: str) -> Number:
    plain = digits.replace(",", "")
    factor = _FACTORS[suffix.lower()]
    if "." not in plain:
        return int(plain) * factor
    value = float(plain) * factor
    return int(value) if value == int(value) else value
