"""Formats of counts, rates, durations and times."""

from __future__ import annotations

import math
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.formats import (
    format_bound,
    format_count,
    format_duration,
    format_moment,
    format_percentage,
    format_quantity,
    format_rate,
    format_remaining,
    format_time_left,
    select_unit_form,
)
from otel_progress.model import Eta
from tests.support.estimate_cases import CASES, EtaCase
from tests.support.factories import CLOCK


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (83, "1m 23s"),
        (3599.7, "1h 00m"),
        (7500, "2h 05m"),
        (86399.9, "1d 00h"),
        (273600, "3d 04h"),
        (-5, "0.0s"),
        (math.inf, "?"),
        (None, "?"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    """Rounding never gives 60 seconds or 60 minutes."""
    assert format_duration(seconds) == text


@given(st.floats())
def test_duration_of_any_number_is_valid(seconds: float) -> None:
    """A journal can contain any number."""
    assert re.fullmatch(
        r"\?|\d\.\ds|[1-5]?\ds|[1-5]?\dm [0-5]\ds|[12]?\dh [0-5]\dm|\d+d [0-2]\dh", format_duration(seconds)
    )


@given(st.none() | st.floats())
def test_moment_of_any_number_is_valid(timestamp: float | None) -> None:
    """A time outside of the calendar is a question mark."""
    assert re.fullmatch(r"\?|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d(:\d\d)?", format_moment(timestamp))


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, ""), (math.nan, ""), (0.0, "0%"), (0.29, "29%"), (0.999, "99%"), (1.0, "100%"), (7.0, "100%")],
)
def test_percentage_is_rounded_down(ratio: float | None, text: str) -> None:
    """It is empty while unknown. An estimated one is marked."""
    assert format_percentage(ratio) == text
    assert format_percentage(ratio, estimated=True) == (f"~{text}" if text else "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_estimate_has_time_left_and_interval(case: EtaCase) -> None:
    """A stalled one has a lower bound."""
    eta = case.eta.at(CLOCK + case.seconds)
    assert format_time_left(eta) == case.text
    assert format_time_left(eta, bounds=False) == case.text.partition(" (")[0]
    assert format_remaining(eta) == case.text.replace(" left", "")
    assert format_time_left(None) == format_remaining(None) == ""


@pytest.mark.parametrize(
    ("seconds", "down", "up"),
    [
        (-3.0, "0s", "0s"),
        (0.6, "0s", "1s"),
        (59.4, "59s", "1m"),
        (82.0, "1m 20s", "1m 30s"),
        (240.0000001, "4m", "4m"),
        (601.0, "10m", "11m"),
        (3599.0, "59m", "1h 00m"),
        (7501.0, "2h 05m", "2h 06m"),
        (math.inf, "?", "?"),
        (math.nan, "?", "?"),
        (sys.float_info.max, "?", "?"),
    ],
)
def test_bound_is_rounded_outwards(seconds: float, down: str, up: str) -> None:
    """An interval can only become wider."""
    assert (format_bound(seconds), format_bound(seconds, up=True)) == (down, up)


@given(st.none() | st.floats(), st.none() | st.floats(), st.none() | st.floats())
def test_estimate_of_any_numbers_is_valid(
    remaining_s: float | None, low: float | None, high: float | None
) -> None:
    """A journal can contain any number."""
    text = format_time_left(Eta(remaining_s, low, high, "estimated", "rate", 0, 0.0))
    assert "-" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("current", "total", "unit", "text"),
    [
        (100, 500, "file", "100/500 files"),
        (1, None, "file", "1 file"),
        (3, None, None, "3"),
        (2.5, 10, "minute", "2.5/10 minutes"),
        (3, 1, "batch", "3/1 batch"),
        (3, 4, "batch", "3/4 batch"),
        (3, 4, "epoch", "3/4 epoch"),
        (3, 4, "query", "3/4 query"),
        (3, 4, "box", "3/4 box"),
        (3, 4, "child", "3/4 child"),
        (3, 4, "log line", "3/4 log lines"),
        (1, None, "files", "1 files"),
        (3, 4, "px", "3/4 px"),
        (3, 4, "MB", "3/4 MB"),
        (999, 1_234_567, "byte", "999 B/1.2 MB"),
        (999_949, 999_960, "B", "999.9 kB/1.0 MB"),
        (12_345_678, None, None, "12.3M"),
    ],
)
def test_count_has_unit_in_plural(current: float, total: float | None, unit: str | None, text: str) -> None:
    """Symbols are unchanged, and bytes are scaled."""
    assert format_count(current, total, unit) == text


def test_count_with_given_plural_uses_it() -> None:
    """The singular is only for the number 1."""
    texts = [format_count(number, None, "child", "children") for number in (0, 1, 1.5, 2)]
    assert texts == ["0 children", "1 child", "1.5 children", "2 children"]


@pytest.mark.parametrize(
    ("current", "elapsed", "unit", "text"),
    [
        (0, 10, None, ""),
        (10, 0, None, ""),
        (100, 10, None, "10.0/s"),
        (999.6, 1, None, "1000/s"),
        (5, 10, None, "30.0/min"),
        (1, 7200, None, "0.5/h"),
        (2_500_000, 2, "byte", "1.2 MB/s"),
    ],
)
def test_slow_rate_is_per_minute_or_hour(current: float, elapsed: float, unit: str | None, text: str) -> None:
    """Without progress it is empty."""
    assert format_rate(current, elapsed, unit) == text


@given(st.integers() | st.floats(), st.none() | st.text())
def test_any_quantity_and_unit_is_short_and_printable(value: float, unit: str | None) -> None:
    if isinstance(value, float) or abs(value) < 1e300:
        assert format_quantity(value, unit).isprintable()
    if unit is not None:
        assert len(select_unit_form(unit, None, 2)) <= 16 * 10
        assert "\x1b" not in select_unit_form(unit, None, 2)
