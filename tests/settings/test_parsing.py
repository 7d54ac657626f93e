"""One reading of moments, for the command line and for queries."""

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
def test_what_is_a_moment(text: str, moment: float) -> None:
    """Numbers, times and durations ago, as RFC 3339 and people write them."""
    assert parse_moment(text, NOW) == pytest.approx(moment, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "soon", ".", "-5", "nan", "9" * 400, "m", "2023-11-14T22:13", "2023-02-30T00:00:00Z", "²", None, 5],
)
def test_what_is_none(text: object) -> None:
    """Anything else is told with what was expected."""
    with pytest.raises(ValueError, match=r"RFC 3339 time .* or Unix seconds"):
        parse_moment(text, NOW)


def test_a_time_without_its_zone_is_local_only_where_somebody_types_it() -> None:
    """A query comes from anywhere, so it has to say the zone; at a terminal the zone is known."""
    for text in ("2023-11-14T22:13:20", "2023-11-14"):
        with pytest.raises(ValueError, match="RFC 3339"):
            parse_moment(text, NOW)
        assert parse_moment(text, NOW, local=True) == datetime.fromisoformat(text).timestamp()


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(timezone.utc)))  # noqa: DTZ001 - hypothesis adds the zone
def test_every_time_comes_back(time: datetime) -> None:
    """A time that was written as RFC 3339 is read as the same moment."""
    assert parse_moment(time.isoformat(), NOW) == time.timestamp()
