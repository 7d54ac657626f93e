"""Totals: counting from change sets and calls, bounded labels, threads and forks."""

from __future__ import annotations

import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.metrics.counters import (
    BOUNDS,
    MAX_ITEM_TYPES,
    MAX_OPERATION_TYPES,
    MAX_REASONS,
    REMEMBERED_RUNS,
    Distribution,
    EndTracker,
    Totals,
    TraceExample,
)
from otel_progress.metrics.labels import MAX_LABEL_TEXT, OTHER, BoundedLabels, label_id, label_text
from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.protocols import Sink
from otel_progress.semconv import Metric
from otel_progress.text import MAX_ID
from tests.support.factories import CLOCK, WALL, ended, make_change_set, snapshot

DONE = ("setlist", "completed")


def get_counter(totals: Totals, metric: Metric) -> dict[tuple[str, ...], float]:
    """Return the series of a counter."""
    return dict(totals.read().counters.get(metric, {}))


def get_distribution(totals: Totals, metric: Metric, *labels: str) -> Distribution:
    """Return one series of a histogram."""
    return totals.read().distributions[metric][labels]


def predicting_snapshot(
    worked: float, remaining: float | None, low: float | None = None, high: float | None = None
) -> LevelSnapshot:
    """Return a running operation with an estimate made after ``worked`` seconds."""
    return snapshot(eta=Eta(remaining, low, high, "estimated", "rate", 0, CLOCK + worked))


def test_totals_are_a_sink_and_stay_readable_after_close() -> None:
    """Closing loses no counts."""
    totals = Totals()
    assert isinstance(totals, Sink)
    totals.write(make_change_set(ended()))
    totals.close()
    assert get_counter(totals, semconv.OPERATIONS_FINISHED) == {DONE: 1}


def test_finished_operation_is_counted_once() -> None:
    """Later copies of the same end are ignored.

    Running operations and levels are not counted.
    """
    totals = Totals()
    totals.write(make_change_set(snapshot(), ended("song:1")))
    assert not any(get_counter(totals, semconv.OPERATIONS_FINISHED).values())
    for _ in range(3):
        totals.write(make_change_set(ended(), ended(sequence=3), ended("song:1")))
    assert {
        labels: count for labels, count in get_counter(totals, semconv.OPERATIONS_FINISHED).items() if count
    } == {DONE: 1}
    assert sum(get_distribution(totals, semconv.OPERATION_DURATION, *DONE).counts) == 1


def test_each_run_of_an_id_is_counted() -> None:
    """Each run has its own status."""
    totals = Totals()
    totals.write(make_change_set(ended(run="a"), ended(run="b", status=Status.FAILED), ended(run="c")))
    assert get_counter(totals, semconv.OPERATIONS_FINISHED) == {DONE: 2, ("setlist", "failed"): 1}


@pytest.mark.parametrize("duration", [None, math.nan, math.inf, -1.0])
def test_invalid_duration_is_not_observed(duration: float | None) -> None:
    """The operation is counted as finished."""
    totals = Totals()
    totals.write(make_change_set(ended(duration_s=duration)))
    assert get_counter(totals, semconv.OPERATIONS_FINISHED) == {DONE: 1}
    assert totals.read().distributions == {}


@pytest.mark.parametrize(
    ("duration", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (60.0, 6), (86_400.0, 14), (1e9, 15)]
)
def test_duration_at_a_bound_is_in_the_bucket_below(duration: float, bucket: int) -> None:
    """Buckets are inclusive, as in Prometheus. The last one is unbounded."""
    totals = Totals()
    totals.write(make_change_set(ended(duration_s=duration, trace_id="ab" * 16, ended_at=WALL + 7)))
    result = get_distribution(totals, semconv.OPERATION_DURATION, *DONE)
    assert result.counts.index(1) == bucket
    assert sum(result.counts) == 1
    assert result.sum == duration
    assert result.examples[bucket] == TraceExample("ab" * 16, duration, WALL + 7)


def test_items_are_summed_by_types_and_outcome() -> None:
    """Values that are not positive numbers are ignored."""
    totals = Totals()
    key = ("setlist", "song", "completed")
    for units in (2, 3.5, -4, math.nan, math.inf, 0):
        totals.write(make_change_set(items={key: units, ("setlist", "song", "failed"): 1}))
    assert get_counter(totals, semconv.ITEMS) == {key: 5.5, ("setlist", "song", "failed"): 6}


def test_predictions_are_rated_at_the_end() -> None:
    """The first prediction, the one at half of the duration and the last are rated."""
    totals = Totals()
    totals.write(
        make_change_set(predicting_snapshot(10, 90.0, 10.0, 95.0))
    )  # 40 s too late of 60: 0.667, and covered
    totals.write(make_change_set(predicting_snapshot(12, 1.0)))  # not rated
    # current at half of the duration: 3 s too early, 0.05, and missed
    totals.write(make_change_set(predicting_snapshot(29, 28.0, 20.0, 30.0)))
    totals.write(make_change_set(predicting_snapshot(31, None)))  # no prediction
    totals.write(make_change_set(predicting_snapshot(31, 20.0)))
    totals.write(make_change_set(predicting_snapshot(54, 6.0)))  # right, and without an interval
    totals.write(make_change_set(predicting_snapshot(54, 6.0)))  # the same again
    totals.write(make_change_set(ended()))
    result = get_distribution(totals, semconv.ETA_ERROR, "setlist")
    assert result.sum == pytest.approx(40 / 60 + 3 / 60)
    assert {bound: count for bound, count in zip(result.bounds, result.counts, strict=False) if count} == {
        0.01: 1,
        0.05: 1,
        0.75: 1,
    }
    assert get_counter(totals, semconv.ETA_INTERVALS) == {("setlist", "covered"): 1, ("setlist", "missed"): 1}


def test_predictions_of_a_paused_run_are_rated_without_the_pause() -> None:
    """A prediction cannot include a later pause."""
    totals = Totals()
    totals.write(make_change_set(predicting_snapshot(10, 50.0)))
    totals.write(make_change_set(ended(duration_s=660.0, paused_s=600.0)))
    assert get_distribution(totals, semconv.ETA_ERROR, "setlist").sum == pytest.approx(0.0)


@pytest.mark.parametrize(
    "fields", [{"status": Status.CANCELLED}, {"started_clock": None}, {"duration_s": 0.0}], ids=str
)
def test_predictions_of_other_ends_are_not_rated(fields: dict[str, Any]) -> None:
    """The operation was cancelled or has no duration."""
    totals = Totals()
    totals.write(make_change_set(predicting_snapshot(10, 90.0), ended(**fields)))
    assert sum(get_distribution(totals, semconv.ETA_ERROR, "setlist").counts) == 0


def test_end_tracker_drops_finished_and_evicted_runs() -> None:
    """A bounded list of ids remains."""
    endings = EndTracker()
    running = [
        snapshot(run=f"r{n}", eta=Eta(1.0, None, None, "estimated", "rate", 0, CLOCK + worked))
        for n in range(2 * REMEMBERED_RUNS)
        for worked in range(4)
    ]
    endings.find_ends(make_change_set(*running))
    endings.find_ends(make_change_set(*(ended(run=f"r{n}") for n in range(0, 2 * REMEMBERED_RUNS, 2))))
    endings.find_ends(make_change_set(evicted=[(f"r{n}", "") for n in range(1, 2 * REMEMBERED_RUNS, 2)]))
    endings.find_ends(make_change_set(*(ended(run=f"s{n}") for n in range(REMEMBERED_RUNS))))
    assert endings._predictions == {}
    assert len(endings._ended) == REMEMBERED_RUNS


def test_evicted_level_keeps_the_predictions_of_its_run() -> None:
    """Only the eviction of the operation drops them."""
    totals = Totals()
    totals.write(make_change_set(predicting_snapshot(10, 50.0), evicted=[("run-1", "song:1")]))
    totals.write(make_change_set(ended()))
    assert get_distribution(totals, semconv.ETA_ERROR, "setlist").counts[0] == 3


def test_count_methods_use_their_own_metrics() -> None:
    """A tick is observed if it is a valid duration."""
    totals = Totals()
    totals.count_rejected("negative")
    totals.count_rejected("negative")
    totals.count_sink_error("journal")
    totals.count_dropped("queue", 5)
    totals.count_dropped("queue", 0)
    totals.count_series_dropped("level", -3)
    for seconds in (0.004, math.nan, -1.0):
        totals.observe_tick(seconds)
    assert totals.read().counters == {
        semconv.UPDATES_REJECTED: {("negative",): 2},
        semconv.SINK_ERRORS: {("journal",): 1},
        semconv.EVENTS_DROPPED: {("queue",): 5},
    }
    assert sum(get_distribution(totals, semconv.TICK_DURATION).counts) == 1


def test_reading_is_a_copy() -> None:
    """Later counts do not change it."""
    totals = Totals()
    totals.write(make_change_set(ended(run="a")))
    before = totals.read()
    totals.write(make_change_set(ended(run="b")))
    assert before.counters[semconv.OPERATIONS_FINISHED] == {DONE: 1}
    assert sum(before.distributions[semconv.OPERATION_DURATION][DONE].counts) == 1


def test_labels_beyond_the_limit_are_counted_as_other() -> None:
    """The sums stay correct."""
    totals = Totals()
    count = 2 * MAX_ITEM_TYPES
    totals.write(make_change_set(*(ended(run=f"r{n}", operation_type=f"t{n}") for n in range(count))))
    totals.write(make_change_set(items={("t", f"l{n}", "failed"): 1 for n in range(count)}))
    for n in range(count):
        totals.count_rejected(f"reason {n}")
    result = [
        get_counter(totals, metric)
        for metric in (semconv.OPERATIONS_FINISHED, semconv.ITEMS, semconv.UPDATES_REJECTED)
    ]
    assert [len(series) for series in result] == [
        MAX_OPERATION_TYPES + 1,
        MAX_ITEM_TYPES + 1,
        MAX_REASONS + 1,
    ]
    assert [sum(series.values()) for series in result] == [count] * 3
    assert (OTHER, OTHER, "failed") in result[1]


def test_counts_from_many_threads_are_exact() -> None:
    """Eight threads count and observe while one reads."""
    totals = Totals()

    def work(place: int) -> None:
        for _ in range(2_000):
            totals.count_rejected("nan")
            totals.observe_tick(0.001 * place)
            if not place:
                totals.read()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert get_counter(totals, semconv.UPDATES_REJECTED) == {("nan",): 16_000}
    assert sum(get_distribution(totals, semconv.TICK_DURATION).counts) == 16_000


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_child_forked_under_the_lock_can_count() -> None:
    """The child has a new lock."""
    totals = Totals()
    with totals._lock.lock:
        child = os.fork()
        if not child:
            try:
                signal.alarm(60)  # a child that hangs fails the test
                totals.count_rejected("nan")
                os._exit(0 if get_counter(totals, semconv.UPDATES_REJECTED) == {("nan",): 1} else 1)
            finally:  # the child never continues with the tests
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_bucket_bounds_ascend_for_every_histogram() -> None:
    """Each histogram of the conventions has bounds."""
    assert set(BOUNDS) == {metric for metric in semconv.METRICS if metric.kind == "histogram"}
    assert all(list(bounds) == sorted(set(bounds)) for bounds in BOUNDS.values())


@given(st.text(max_size=600))
def test_label_of_any_text_is_printable_and_bounded(text: str) -> None:
    """A label is its own label."""
    for make, most in ((label_id, MAX_ID), (label_text, MAX_LABEL_TEXT)):
        label = make(text)
        assert len(label) <= most
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in label)
        assert make(label) == label
        assert label.encode("utf-8").decode("utf-8") == label


def test_bounded_labels_keep_the_first_sets() -> None:
    """Later sets are ``other``, and values are sanitised."""
    labels = BoundedLabels(2)
    result = [labels.fit("a\n"), labels.fit("b"), labels.fit("c"), labels.fit("a\n"), labels.fit("d")]
    assert result == [("a\\n",), ("b",), ("other",), ("a\\n",), ("other",)]


def test_internal_errors_since_the_start_are_counted() -> None:
    """Errors that a sink counts itself are left out."""
    report_internal_error("callback", "an earlier one")
    totals = Totals()
    for _ in range(2):
        report_internal_error("callback", "a callback raised", error=ValueError("no"))
    report_internal_error("sink journal", "counted by its lane")
    totals.count_sink_error("journal")
    result = get_counter(totals, semconv.SINK_ERRORS)
    assert (result["callback",], result["journal",]) == (2, 1)
    assert ("sink journal",) not in result
