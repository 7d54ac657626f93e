"""How an estimate ages, and how an operation fares, by the table that the page is held to as well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.model import Eta, Status
from tests.support.estimate_cases import CASES, CONDITIONS, WAITS, ConditionCase, EtaCase
from tests.support.factories import CLOCK, operation, snapshot


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_estimate_ages_as_the_table_says(case: EtaCase) -> None:
    """It counts down, waits, and then says at least so much; it is never negative."""
    assert case.eta.at(CLOCK + case.seconds) == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_operation_has_its_estimate_as_of_the_moment_of_reading(case: EtaCase) -> None:
    """What was made earlier is told as it stands, of the operation and of its levels alike."""
    root = snapshot(eta=case.eta)
    found = operation(root, [snapshot("song:1", eta=case.eta)], clock=CLOCK + case.seconds)
    assert found.eta == found.eta_of(found.levels[0]) == case.expected
    assert found.remaining_seconds == case.expected.remaining_s


def test_paused_work_keeps_its_estimate_and_nobody_else_has_one() -> None:
    """While nothing is meant to advance the estimate waits; ended and abandoned work has none."""
    root = snapshot(eta=WAITS, paused_clock=CLOCK + 20.0)
    assert operation(root, clock=CLOCK + 9000.0).eta == WAITS.at(CLOCK + 20.0)
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
def test_it_never_slides_and_never_says_what_cannot_be(
    remaining: float,
    low: float,
    high: float,
    counts: float | None,
    stalls: float | None,
    moments: list[float],
) -> None:
    """Whenever it is looked at: nothing grows, nothing is negative, and the bounds stay around it."""
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
def test_an_operation_fares_as_the_table_says(case: ConditionCase) -> None:
    """Abandoned before overdue before paused before stalled before ok."""
    assert case.read(case.seconds).condition is case.condition
