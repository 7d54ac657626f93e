"""Parser of times for the command line and for queries."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.settings.parsing import parse_moment

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", 0.0),
        (" 1700000000.25 ", 1_700_000_000.25),
        ("15m", NOW - 900.0),
        ("500ms", NOW - 0.5),
        ("999999999d", 1.0 - 3e11),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14t22:13:20.5z", NOW + 0.5),
        ("2023-11-14 23:13:20.1234567+01:00", NOW + 0.123456),
    ],
)
def test_parse_moment_accepts_numbers_times_and_durations(text: str, moment: float) -> None:
    """Times are in RFC 3339."""
    assert parse_moment(text, NOW) == pytest.approx(moment, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "soon", ".", "-5", "nan", "9" * 400, "m", "2023-11-14T22:13", "2023-02-30T00:00:00Z", "²", None, 5],
)
def test_parse_moment_with_invalid_text_is_rejected(text: object) -> None:
    """The error contains the valid forms."""
    with pytest.raises(ValueError, match=r"RFC 3339 time .* or Unix seconds"):
        parse_moment(text, NOW)


def test_parse_moment_without_zone_is_rejected_unless_local() -> None:
    """A terminal has a zone, and a request has none."""
    for text in ("2023-11-14T22:13:20", "2023-11-14"):
        with pytest.raises(ValueError, match="RFC 3339"):
            parse_moment(text, NOW)
        assert parse_moment(text, NOW, local=True) == datetime.fromisoformat(text).timestamp()


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(timezone.utc)))  # noqa: DTZ001
def test_parse_moment_of_iso_format_returns_the_same_time(time: datetime) -> None:
    """The zone is UTC."""
    assert parse_moment(time.isoformat(), NOW) == time.timestamp()
