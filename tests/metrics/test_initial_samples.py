"""Counters of a type of operations are there at 0 before the first of them ends: of a first sample nobody knows by how much it grew."""

from __future__ import annotations

from otel_progress import semconv
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.counters import MAX_OPERATION_TYPES, Totals
from otel_progress.model import Status
from tests.support.factories import batch
from tests.support.metrics_operations import Shelf, operation
from tests.support.metrics_scrape import values


def test_counters_begin_at_zero() -> None:
    """With the first operation of a type come its counters of ends, and its histograms of durations and forecast errors, all empty."""
    totals = Totals()
    collector = ProgressCollector(Shelf(), totals=totals)
    assert values(collector, semconv.OPERATIONS_FINISHED) == {}
    totals.write(batch(operation("one", "render").root))
    assert values(collector, semconv.OPERATIONS_FINISHED) == {
        ("render", "completed"): 0.0,
        ("render", "failed"): 0.0,
        ("render", "cancelled"): 0.0,
    }
    assert values(collector, semconv.OPERATION_DURATION, "_count") == {("render", "completed"): 0.0}
    assert set(values(collector, semconv.ETA_ERROR, "_bucket").values()) == {0.0}


def test_an_end_counts_from_there() -> None:
    """The end of that operation makes its counter 1, and leaves the others at 0; a second operation of the type changes nothing."""
    totals = Totals()
    collector = ProgressCollector(Shelf(), totals=totals)
    totals.write(batch(operation("one", "render").root))
    totals.write(
        batch(operation("one", "render", status=Status.COMPLETED).root, operation("two", "render").root)
    )
    assert values(collector, semconv.OPERATIONS_FINISHED) == {
        ("render", "completed"): 1.0,
        ("render", "failed"): 0.0,
        ("render", "cancelled"): 0.0,
    }


def test_types_are_bounded() -> None:
    """However many types begin, no more have counters than have series of their own, and one that shares them."""
    totals = Totals()
    for number in range(2 * MAX_OPERATION_TYPES):
        totals.write(batch(operation(f"op-{number}", f"type-{number}").root))
    types = {
        labels[0] for labels in values(ProgressCollector(Shelf(), totals=totals), semconv.OPERATIONS_FINISHED)
    }
    assert len(types) <= MAX_OPERATION_TYPES + 1
