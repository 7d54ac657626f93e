"""Series of conditions, estimates, previews, caps and the journal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.counters import Totals
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.previews.media import MAX_ADDRESS
from tests.support.factories import CLOCK
from tests.support.factories import WALL as START
from tests.support.metrics_operations import Shelf, a_batch, eta, level, operation
from tests.support.metrics_scrape import of_work, values

OP = ("op", "render")
BOUNDS = (
    semconv.OPERATION_EXPECTED_END,
    semconv.OPERATION_EXPECTED_END_LOWER,
    semconv.OPERATION_EXPECTED_END_UPPER,
)


def get_expected_ends(collector: ProgressCollector) -> list[float | None]:
    """Return the expected end and its bounds in seconds after the start, or None."""
    result = [values(collector, metric).get(OP) for metric in BOUNDS]
    return [None if value is None else value - START for value in result]


CONDITIONS: dict[Condition, OperationSnapshot] = {
    Condition.OK: operation(),
    Condition.STALLED: operation(elapsed=100.0, advanced_clock=CLOCK + 9.0),
    Condition.ABANDONED: replace(operation(), alive=False),
    Condition.OVERDUE: operation(overdue_after_s=5.0),
    Condition.PAUSED: operation(elapsed=100.0, paused_clock=CLOCK + 20.0),
    Condition.NOT_REPORTING: replace(operation(), not_reporting_since=START),
    Condition.SUPERSEDED: operation(superseded_by="run-2"),
}


@pytest.mark.parametrize("condition", list(Condition))
def test_condition_has_one_series_per_value(condition: Condition) -> None:
    """An active operation has 1 for its own condition."""
    one = CONDITIONS[condition]
    collector = ProgressCollector(Shelf([one], elapsed=one.read_at - START))
    assert values(collector, semconv.OPERATION_CONDITION) == {
        (*OP, each.value): float(each is condition)
        for each in Condition
        # Why: an operation is rarely superseded, so it has the series only then.
        if each is not Condition.SUPERSEDED or each is condition
    }
    assert values(collector, semconv.OPERATIONS) == {("render", "running", condition.value): 1.0}


def test_silent_operation_has_the_time_of_its_last_report() -> None:
    """Other operations have no such series."""
    silent = CONDITIONS[Condition.NOT_REPORTING]
    assert values(ProgressCollector(Shelf([silent])), semconv.OPERATION_NOT_REPORTING) == {OP: START}
    assert not values(ProgressCollector(Shelf([operation()])), semconv.OPERATION_NOT_REPORTING)


def test_pending_operation_is_ok_and_finished_one_has_no_condition() -> None:
    """A pending operation is never stalled."""
    queued = operation("queued", status=Status.PENDING, started_clock=None, started_at=None)
    ended = operation("ended", status=Status.FAILED)
    collector = ProgressCollector(Shelf([queued], [ended], elapsed=200.0))
    result = {labels for labels, value in values(collector, semconv.OPERATION_CONDITION).items() if value}
    assert result == {("queued", "render", "ok")}
    assert {labels[0] for labels in values(collector, semconv.OPERATION_CONDITION)} == {"queued"}


def test_estimated_ratio_is_marked_while_running() -> None:
    """Only levels with an estimated ratio have this series."""
    levels = [
        level("step:a", estimated=True),
        level("step:b"),
        level("step:c", estimated=True, status=Status.COMPLETED),
    ]
    shelf = Shelf(
        [operation(estimated=True, levels=levels), operation("plain")],
        [operation("done", status=Status.COMPLETED)],
    )
    collector = ProgressCollector(shelf)
    result = values(collector, semconv.OPERATION_ESTIMATED)
    assert result == {OP: 1.0, ("plain", "render"): 0.0, ("done", "render"): 0.0}
    assert values(collector, semconv.LEVEL_ESTIMATED) == {(*OP, "step:a"): 1.0}


def test_expected_end_is_constant_while_counting_down_and_moves_while_holding() -> None:
    """Its bounds behave alike."""
    estimate = eta(30.0, 10.0, 35.0, counts_down_s=8.0, stalls_after_s=20.0)
    shelf = Shelf([operation(eta=estimate, advanced_clock=CLOCK + 10.0)])
    collector = ProgressCollector(shelf)
    seen = {}
    for elapsed in (10.0, 18.0, 25.0):
        shelf.elapsed = elapsed
        seen[elapsed] = (values(collector, semconv.OPERATION_REMAINING)[OP], *get_expected_ends(collector))
    assert seen == {
        10.0: (30.0, 40.0, 20.0, 45.0),
        18.0: (22.0, 40.0, 20.0, 45.0),
        25.0: (22.0, 47.0, 27.0, 52.0),
    }


def test_stalled_estimate_has_only_a_lower_bound() -> None:
    """The bound is constant, and absent once it has passed."""
    estimate = eta(90.0, 80.0, 99.0, counts_down_s=10.0, stalls_after_s=20.0)
    shelf = Shelf([operation(eta=estimate, advanced_clock=CLOCK + 10.0)])
    collector = ProgressCollector(shelf)
    for elapsed in (31.0, 50.0, 79.0):
        shelf.elapsed = elapsed
        assert get_expected_ends(collector) == [None, 80.0, None]
        assert values(collector, semconv.OPERATION_REMAINING) == {}
    shelf.elapsed = 81.0
    assert get_expected_ends(collector) == [None, None, None]


def test_stalled_estimate_made_again_keeps_its_lower_bound() -> None:
    """The bound counts from the last advance."""
    for elapsed in (40.0, 60.0):
        estimate = eta(None, 80.0, None, elapsed=elapsed, state="stalled")
        shelf = Shelf(
            [operation(elapsed=elapsed, eta=estimate, advanced_clock=CLOCK + 10.0)], elapsed=elapsed
        )
        assert get_expected_ends(ProgressCollector(shelf)) == [None, 90.0, None]


def test_paused_operation_has_no_remaining_time_and_no_expected_end() -> None:
    """Its end depends on the pause."""
    shelf = Shelf([operation(eta=eta(60.0, 50.0, 70.0), paused_clock=CLOCK + 20.0)])
    collector = ProgressCollector(shelf)
    for elapsed in (21.0, 40.0, 61.0):
        shelf.elapsed = elapsed
        assert values(collector, semconv.OPERATION_REMAINING) == {}
        assert get_expected_ends(collector) == [None, None, None]


def test_abandoned_operation_has_no_expected_end() -> None:
    """Its remaining time is absent as well."""
    collector = ProgressCollector(Shelf([replace(operation(eta=eta(60.0, 50.0, 70.0)), alive=False)]))
    assert get_expected_ends(collector) == [None, None, None]
    assert values(collector, semconv.OPERATION_REMAINING) == {}


@given(
    remaining=st.none() | st.floats(0, 1e6),
    low=st.none() | st.floats(0, 1e6),
    high=st.none() | st.floats(0, 1e6),
    counts_down=st.none() | st.floats(0, 1e4),
    stalls_after=st.none() | st.floats(0, 1e4),
    paused=st.none() | st.floats(0, 1e4),
    elapsed=st.floats(0, 1e5),
)
def test_no_expected_end_is_in_the_past(
    remaining: float | None,
    low: float | None,
    high: float | None,
    counts_down: float | None,
    stalls_after: float | None,
    paused: float | None,
    elapsed: float,
) -> None:
    """The estimate may have any values and any age."""
    estimate = eta(remaining, low, high, elapsed=0.0, counts_down_s=counts_down, stalls_after_s=stalls_after)
    one = operation(eta=estimate, paused_clock=None if paused is None else CLOCK + paused)
    collector = ProgressCollector(Shelf([one], elapsed=elapsed))
    assert all(end is None or end >= elapsed - 1e-3 for end in get_expected_ends(collector))


def get_preview_urls(collector: ProgressCollector) -> list[str]:
    """Return the URLs of previews in the info series of operations."""
    return [labels[-1] for labels in values(collector, semconv.OPERATION_INFO)]


def test_preview_url_appears_once_the_base_url_is_known() -> None:
    """Ids are encoded as in the API."""
    known: list[str] = []
    shelf = Shelf([operation("a/b ü", previews=3)])
    collector = ProgressCollector(shelf, public_url=lambda: known[0] if known else None)
    assert get_preview_urls(collector) == [""]
    known.append("http://127.0.0.1:7764/")
    assert get_preview_urls(collector) == [
        "http://127.0.0.1:7764/api/v1/operations/~/previews/3?id=a%2Fb%20%C3%BC"
    ]
    shelf.running = [operation("plain")]
    assert get_preview_urls(collector) == [""]


@pytest.mark.parametrize("id_", ["x" * 100_000, "ü" * 1_000, "\ud800"])
def test_preview_url_of_any_id_is_bounded_and_ascii(id_: str) -> None:
    """A very long id has no preview URL."""
    (address,) = get_preview_urls(
        ProgressCollector(Shelf([operation(id_, previews=1)]), public_url="https://example.org")
    )
    assert len(address) <= MAX_ADDRESS
    assert address.isascii()


def test_use_of_caps_is_exported_before_anything_is_dropped() -> None:
    """It is exported without operations as well."""
    levels = [level(f"song:{number}") for number in range(3)]
    shelf = Shelf([operation(levels=levels), operation("b")], groups=[a_batch()])
    for collector, shown in (
        (ProgressCollector(shelf, max_operations=1, max_levels=2, max_batches=5), (1.0, 2.0, 1.0)),
        (ProgressCollector(Shelf(), max_operations=1, max_levels=2, max_batches=5), (0.0, 0.0, 0.0)),
    ):
        groups = (("operation",), ("level",), ("batch",))
        assert values(collector, semconv.SERIES_SHOWN) == dict(zip(groups, shown, strict=True))
        assert values(collector, semconv.SERIES_LIMIT) == dict(zip(groups, (1.0, 2.0, 5.0), strict=True))


def test_journal_size_that_is_unknown_is_absent() -> None:
    """A function that fails affects no other series."""

    def fail() -> int:
        msg = "gone"
        raise OSError(msg)

    assert values(ProgressCollector(Shelf(), journal_size=lambda: 123), semconv.JOURNAL_SIZE) == {(): 123.0}
    for asked in (None, lambda: None, fail):
        collector = ProgressCollector(Shelf([operation()]), journal_size=asked)
        assert values(collector, semconv.JOURNAL_SIZE) == {}
        assert len(of_work(collector)) > 0


def test_previews_are_counted_by_outcome() -> None:
    """Each outcome has its own series."""
    totals = Totals()
    for outcome in ("stored", "stored", "dropped"):
        totals.count_preview(outcome)
    collector = ProgressCollector(Shelf(), totals=totals)
    assert values(collector, semconv.PREVIEWS) == {("stored",): 2.0, ("dropped",): 1.0}
