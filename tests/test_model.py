"""Ageing of estimates, and conditions of operations, by the tables of the page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.model import Eta, Status
from tests.support.estimate_cases import CASES, CONDITIONS, WAITS, ConditionCase, EtaCase
from tests.support.factories import CLOCK, operation, snapshot


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_estimate_at_a_later_clock_equals_the_table(case: EtaCase) -> None:
    """It counts down, holds, and is then stalled."""
    assert case.eta.at(CLOCK + case.seconds) == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operation_has_its_estimate_at_the_time_of_the_read(case: EtaCase) -> None:
    """Its levels have the same."""
    root = snapshot(eta=case.eta)
    found = operation(root, [snapshot("song:1", eta=case.eta)], clock=CLOCK + case.seconds)
    assert found.eta == found.eta_of(found.levels[0]) == case.expected
    assert found.remaining_seconds == case.expected.remaining_s


def test_only_running_operations_have_an_estimate() -> None:
    """A paused operation has neither an estimate nor a rate."""
    root = snapshot(eta=WAITS)
    running = operation(root, clock=CLOCK + 20.0)
    assert running.eta == WAITS.at(CLOCK + 20.0)
    assert running.remaining_seconds == WAITS.at(CLOCK + 20.0).remaining_s
    assert running.rate_seconds_of(running.root) > 0.0
    paused = operation(replace(root, paused_clock=CLOCK + 10.0), clock=CLOCK + 20.0)
    assert paused.is_paused
    assert (paused.eta, paused.remaining_seconds, paused.rate_seconds_of(paused.root)) == (None, None, 0.0)
    assert operation(root, clock=CLOCK + 9000.0, alive=False).eta is None
    assert operation(replace(root, status=Status.COMPLETED, duration_s=1.0)).eta is None


AMOUNTS = st.none() | st.floats(0.0, 1e6)


@given(
    st.floats(0.0, 1e6),
    st.floats(0.0, 1.0),
    st.floats(1.0, 3.0),
    AMOUNTS,
    AMOUNTS,
    st.lists(st.floats(0.0, 1e6), min_size=1),
)
def test_estimate_at_any_clock_never_grows_or_gets_negative(
    remaining: float,
    low: float,
    high: float,
    counts: float | None,
    stalls: float | None,
    moments: list[float],
) -> None:
    """Its bounds stay in order."""
    made = Eta(remaining, low * remaining, high * remaining, "estimated", "history", 3, CLOCK, counts, stalls)
    seen = [made.at(CLOCK + moment) for moment in sorted(moments)]
    least = [eta.low_s if eta.remaining_s is None else eta.remaining_s for eta in seen]
    assert all(
        later is not None and 0.0 <= later <= (earlier or 0.0)
        for earlier, later in zip([remaining, *least], least, strict=False)
    )
    for eta in seen:
        if eta.remaining_s is not None:
            assert eta.low_s is not None
            assert eta.high_s is not None
            assert 0.0 <= eta.low_s <= eta.remaining_s <= eta.high_s


@pytest.mark.parametrize("case", CONDITIONS, ids=lambda case: f"{case.condition} after {case.seconds:g}")
def test_condition_of_an_operation_equals_the_table(case: ConditionCase) -> None:
    """The order is abandoned, overdue, paused, stalled, ok."""
    assert case.read(case.seconds).condition is case.condition
