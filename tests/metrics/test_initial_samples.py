"""Initial samples: counters exist at 0 before the first operation of a type ends."""

from __future__ import annotations

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.counters import MAX_OPERATION_TYPES, Totals
from otel_progress.model import Status
from tests.support.factories import make_change_set
from tests.support.metrics_operations import Shelf, operation
from tests.support.metrics_scrape import values


def test_counters_of_a_type_start_at_zero_with_its_first_operation() -> None:
    """Histograms of durations and prediction errors are empty."""
    totals = Totals()
    collector = ProgressCollector(Shelf(), totals=totals)
    assert values(collector, semconv.OPERATIONS_FINISHED) == {}
    totals.write(make_change_set(operation("one", "render").root))
    assert values(collector, semconv.OPERATIONS_FINISHED) == {
        ("render", "completed"): 0.0,
        ("render", "failed"): 0.0,
        ("render", "cancelled"): 0.0,
    }
    assert values(collector, semconv.OPERATION_DURATION, "_count") == {("render", "completed"): 0.0}
    assert set(values(collector, semconv.ETA_ERROR, "_bucket").values()) == {0.0}


def test_finished_operation_increments_only_its_counter() -> None:
    """A second operation of the type changes nothing."""
    totals = Totals()
    collector = ProgressCollector(Shelf(), totals=totals)
    totals.write(make_change_set(operation("one", "render").root))
    totals.write(
        make_change_set(
            operation("one", "render", status=Status.COMPLETED).root, operation("two", "render").root
        )
    )
    assert values(collector, semconv.OPERATIONS_FINISHED) == {
        ("render", "completed"): 1.0,
        ("render", "failed"): 0.0,
        ("render", "cancelled"): 0.0,
    }


def test_types_with_initial_samples_are_bounded() -> None:
    """Further types share one series."""
    totals = Totals()
    for number in range(2 * MAX_OPERATION_TYPES):
        totals.write(make_change_set(operation(f"op-{number}", f"type-{number}").root))
    types = {
        labels[0] for labels in values(ProgressCollector(Shelf(), totals=totals), semconv.OPERATIONS_FINISHED)
    }
    assert len(types) <= MAX_OPERATION_TYPES + 1
