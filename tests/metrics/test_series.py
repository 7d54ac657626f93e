"""What dashboards and alerts of operations rest on: condition, estimates, the expected end, previews, caps, the journal."""

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


def ends(collector: ProgressCollector) -> list[float | None]:
    """Return the expected end, its lower and its upper bound in seconds after the start, None where there is none."""
    found = [values(collector, metric).get(OP) for metric in BOUNDS]
    return [None if value is None else value - START for value in found]


CONDITIONS: dict[Condition, OperationSnapshot] = {
    Condition.OK: operation(),
    Condition.STALLED: operation(elapsed=100.0, advanced_clock=CLOCK + 9.0),
    Condition.ABANDONED: replace(operation(), alive=False),
    Condition.OVERDUE: operation(overdue_after_s=5.0),
    Condition.PAUSED: operation(elapsed=100.0, paused_clock=CLOCK + 20.0),
}


@pytest.mark.parametrize("condition", list(Condition))
def test_condition_is_an_enum(condition: Condition) -> None:
    """An operation that has not ended has one series for each condition and 1 for its own."""
    one = CONDITIONS[condition]
    collector = ProgressCollector(Shelf([one], elapsed=one.read_at - START))
    assert values(collector, semconv.OPERATION_CONDITION) == {
        (*OP, each.value): float(each is condition) for each in Condition
    }
    assert values(collector, semconv.OPERATIONS) == {("render", "running", condition.value): 1.0}


def test_what_waits_in_a_queue_is_ok_and_what_ended_has_no_condition() -> None:
    """Pending work never counts as stalled, however long it waits; no series says that ended work is fine."""
    queued = operation("queued", status=Status.PENDING, started_clock=None, started_at=None)
    ended = operation("ended", status=Status.FAILED)
    collector = ProgressCollector(Shelf([queued], [ended], elapsed=200.0))
    found = {labels for labels, value in values(collector, semconv.OPERATION_CONDITION).items() if value}
    assert found == {("queued", "render", "ok")}
    assert {labels[0] for labels in values(collector, semconv.OPERATION_CONDITION)} == {"queued"}


def test_estimated_ratios_are_marked_while_they_run() -> None:
    """An operation says 0 or 1; of levels only those that run on an estimate have a series."""
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
    found = values(collector, semconv.OPERATION_ESTIMATED)
    assert found == {OP: 1.0, ("plain", "render"): 0.0, ("done", "render"): 0.0}
    assert values(collector, semconv.LEVEL_ESTIMATED) == {(*OP, "step:a"): 1.0}


def test_the_expected_end_ages_as_the_estimate_does() -> None:
    """It stays put with its bounds while the estimate counts down, and moves on while that holds."""
    estimate = eta(30.0, 10.0, 35.0, counts_down_s=8.0, stalls_after_s=20.0)
    shelf = Shelf([operation(eta=estimate, advanced_clock=CLOCK + 10.0)])
    collector = ProgressCollector(shelf)
    seen = {}
    for elapsed in (10.0, 18.0, 25.0):
        shelf.elapsed = elapsed
        seen[elapsed] = (values(collector, semconv.OPERATION_REMAINING)[OP], *ends(collector))
    assert seen == {
        10.0: (30.0, 40.0, 20.0, 45.0),
        18.0: (22.0, 40.0, 20.0, 45.0),
        25.0: (22.0, 47.0, 27.0, 52.0),
    }


def test_a_stalled_estimate_has_no_end_but_not_before() -> None:
    """Past the longest expected gap only the lower bound is left: it does not slide, and goes once it has passed."""
    estimate = eta(90.0, 80.0, 99.0, counts_down_s=10.0, stalls_after_s=20.0)
    shelf = Shelf([operation(eta=estimate, advanced_clock=CLOCK + 10.0)])
    collector = ProgressCollector(shelf)
    for elapsed in (31.0, 50.0, 79.0):
        shelf.elapsed = elapsed
        assert ends(collector) == [None, 80.0, None]
        assert values(collector, semconv.OPERATION_REMAINING) == {}
    shelf.elapsed = 81.0
    assert ends(collector) == [None, None, None]


def test_a_worker_that_goes_on_estimating_moves_no_bound_while_stalled() -> None:
    """The lower bound counts from the last advance, not from when the estimate "at least" was made."""
    for elapsed in (40.0, 60.0):
        estimate = eta(None, 80.0, None, elapsed=elapsed, state="stalled")
        shelf = Shelf(
            [operation(elapsed=elapsed, eta=estimate, advanced_clock=CLOCK + 10.0)], elapsed=elapsed
        )
        assert ends(ProgressCollector(shelf)) == [None, 90.0, None]


def test_paused_work_has_a_remaining_time_and_no_end() -> None:
    """While work is paused its remaining time waits; "not before" counts from the pause."""
    shelf = Shelf([operation(eta=eta(60.0, 50.0, 70.0), paused_clock=CLOCK + 20.0)])
    collector = ProgressCollector(shelf)
    for elapsed in (21.0, 40.0):
        shelf.elapsed = elapsed
        assert values(collector, semconv.OPERATION_REMAINING) == {OP: 50.0}
        assert ends(collector) == [None, 60.0, None]
    shelf.elapsed = 61.0
    assert ends(collector) == [None, None, None]


def test_what_an_abandoned_operation_expected_is_forgotten() -> None:
    """Nobody works any more, so nothing is expected."""
    collector = ProgressCollector(Shelf([replace(operation(eta=eta(60.0, 50.0, 70.0)), alive=False)]))
    assert ends(collector) == [None, None, None]
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
    """Whatever an estimate says and however old it is, no moment before the scrape is expected."""
    estimate = eta(remaining, low, high, elapsed=0.0, counts_down_s=counts_down, stalls_after_s=stalls_after)
    one = operation(eta=estimate, paused_clock=None if paused is None else CLOCK + paused)
    collector = ProgressCollector(Shelf([one], elapsed=elapsed))
    assert all(end is None or end >= elapsed - 1e-3 for end in ends(collector))


def previews(collector: ProgressCollector) -> list[str]:
    """Return the addresses of previews on the series that describe operations."""
    return [labels[-1] for labels in values(collector, semconv.OPERATION_INFO)]


def test_the_last_preview_has_an_address_once_the_server_has_one() -> None:
    """It is under the base address that is known at the scrape; ids are encoded as in every path of the API."""
    known: list[str] = []
    shelf = Shelf([operation("a/b ü", previews=3)])
    collector = ProgressCollector(shelf, public_url=lambda: known[0] if known else None)
    assert previews(collector) == [""]
    known.append("http://127.0.0.1:7764/")
    assert previews(collector) == ["http://127.0.0.1:7764/api/v1/operations/a%2Fb%20%C3%BC/previews/3"]
    shelf.running = [operation("plain")]
    assert previews(collector) == [""]


@pytest.mark.parametrize("id_", ["x" * 100_000, "ü" * 1_000, "\ud800"])
def test_an_address_is_bounded_and_valid(id_: str) -> None:
    """An id that another process made up costs at most its preview."""
    (address,) = previews(
        ProgressCollector(Shelf([operation(id_, previews=1)]), public_url="https://example.org")
    )
    assert len(address) <= MAX_ADDRESS
    assert address.isascii()


def test_how_far_the_caps_are_used_up_is_told_before_anything_is_dropped() -> None:
    """Operations, levels and batches that are shown, and how many could be, are gauges, also where there is nothing to show."""
    levels = [level(f"song:{number}") for number in range(3)]
    shelf = Shelf([operation(levels=levels), operation("b")], groups=[a_batch()])
    for collector, shown in (
        (ProgressCollector(shelf, max_operations=1, max_levels=2, max_batches=5), (1.0, 2.0, 1.0)),
        (ProgressCollector(Shelf(), max_operations=1, max_levels=2, max_batches=5), (0.0, 0.0, 0.0)),
    ):
        groups = (("operation",), ("level",), ("batch",))
        assert values(collector, semconv.SERIES_SHOWN) == dict(zip(groups, shown, strict=True))
        assert values(collector, semconv.SERIES_LIMIT) == dict(zip(groups, (1.0, 2.0, 5.0), strict=True))


def test_the_size_of_the_journal_is_absent_without_one() -> None:
    """It is asked for at each scrape; no journal has no size, and one that cannot be asked hurts nothing else."""

    def fail() -> int:
        msg = "gone"
        raise OSError(msg)

    assert values(ProgressCollector(Shelf(), journal_size=lambda: 123), semconv.JOURNAL_SIZE) == {(): 123.0}
    for asked in (None, lambda: None, fail):
        collector = ProgressCollector(Shelf([operation()]), journal_size=asked)
        assert values(collector, semconv.JOURNAL_SIZE) == {}
        assert len(of_work(collector)) > 0


def test_previews_are_counted_by_what_became_of_them() -> None:
    """Each outcome is a counter of its own."""
    totals = Totals()
    for outcome in ("stored", "stored", "dropped"):
        totals.count_preview(outcome)
    collector = ProgressCollector(Shelf(), totals=totals)
    assert values(collector, semconv.PREVIEWS) == {("stored",): 2.0, ("dropped",): 1.0}
