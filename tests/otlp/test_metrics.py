"""OtlpMetrics: points of a Reader's operations and of totals."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource

from otel_progress import semconv
from otel_progress.metrics.counters import Totals
from otel_progress.metrics.series import Caps
from otel_progress.metrics.sources import MetricSources
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.otlp.metrics import MAX_POINTS, BoundedMetricExporter, OtlpMetrics, split_metrics
from otel_progress.protocols import Reader
from otel_progress.records import ResourceSample, ResourceUse
from tests.support.otlp_records import WALL, ListedReader, ended, level, make_change_set

LOGGER = "otel_progress.otlp"
FLUSH_S = 60.0
"""How long an export may take; reached only when it never ends."""


@pytest.fixture(autouse=True)
def _no_periodic_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export only when a test flushes."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", str(24 * 3600 * 1000))


class StoringExporter(MetricExporter):
    """Stores the exported metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        """Keep one export."""
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, *_: Any, **__: Any) -> bool:
        """Nothing waits."""
        return True

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing to close."""

    def last(self) -> dict[str, Any]:
        """Return the metrics of the last export by name."""
        data = self.exported[-1]
        return {
            metric.name: metric
            for r in data.resource_metrics
            for scope in r.scope_metrics
            for metric in scope.metrics
        }


class UnsplitExporter(BoundedMetricExporter):
    """Exports everything in one request, so that a test can read it at once."""

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        """Export without splitting."""
        return MetricExportResult.SUCCESS if self.monitor.export(metrics_data) else MetricExportResult.FAILURE


def make_operation(number: int, clock: float = 1.0, **values: Any) -> OperationSnapshot:
    """Return a running operation with one song."""
    id_ = f"op-{number}"
    root = level(run=id_, operation_id=id_, clock=clock, **values)
    song = level("song:1", run=id_, operation_id=id_, clock=clock)
    return OperationSnapshot(root, (song,), WALL + clock, clock)


@contextmanager
def exporting(
    reader: ListedReader, totals: Totals | None = None, **options: Any
) -> Iterator[tuple[OtlpMetrics, StoringExporter]]:
    """Run OtlpMetrics over a reader. It exports only when flushed."""
    kept = StoringExporter()
    metrics = OtlpMetrics(
        cast("Reader", reader),
        totals or Totals(),
        resource=Resource({"service.name": "n"}),
        exporter=UnsplitExporter(kept),
        **options,
    )
    try:
        yield metrics, kept
    finally:
        metrics.close()


def get_values(metric: Any) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by its labels."""
    return {tuple(point.attributes.values()): point.value for point in metric.data.data_points}


def test_gauges_have_the_names_units_and_labels_of_semconv() -> None:
    """The unit is 1 for ratios only."""
    with exporting(ListedReader([make_operation(1, current=3, ratio=0.3)])) as (metrics, kept):
        assert metrics.force_flush(FLUSH_S)
        exported = kept.last()
    known = {metric.name: metric for metric in semconv.METRICS}
    for name, metric in exported.items():
        plain = (
            known[name].kind == "gauge" and known[name].unit == "1" and not name.endswith("ratio")
        )  # or it would become one
        assert (metric.unit, metric.description) == ("" if plain else known[name].unit, known[name].help)
        assert all(tuple(point.attributes) == known[name].labels for point in metric.data.data_points)
    assert get_values(exported[semconv.OPERATION_RATIO.name]) == {("op-1", "setlist"): 0.3}
    assert get_values(exported[semconv.OPERATION_CURRENT.name]) == {("op-1", "setlist"): 3}
    assert get_values(exported[semconv.OPERATIONS.name]) == {("setlist", "running", "ok"): 1}
    assert get_values(exported[semconv.LEVEL_STATUS.name]) == {("op-1", "setlist", "song:1", "running"): 1}
    assert semconv.OPERATION_REMAINING.name not in exported


def test_series_of_a_finished_operation_vanish_after_the_retention() -> None:
    """The use of the caps remains."""
    reader = ListedReader()
    done = ended(level(run="r"), 2.0)
    with exporting(reader, caps=Caps(retention_s=60)) as (metrics, kept):
        reader.done = [OperationSnapshot(done, (), WALL + 50, 50.0)]
        assert metrics.force_flush(FLUSH_S)
        assert ("friday-42", "setlist") in get_values(kept.last()[semconv.OPERATION_CURRENT.name])
        reader.done = [OperationSnapshot(done, (), WALL + 90, 90.0)]
        assert metrics.force_flush(FLUSH_S)
        assert set(kept.last()) == {semconv.SERIES_SHOWN.name, semconv.SERIES_LIMIT.name}
        assert set(get_values(kept.last()[semconv.SERIES_SHOWN.name]).values()) == {0}


def test_batches_and_resources_have_the_series_of_the_scrape() -> None:
    """Names, units and labels are those of semconv."""
    counts = {status: 2 if status is Status.FAILED else 0 for status in Status}
    thumbnails = BatchSnapshot(
        "b", "Many", "images", 4, WALL, None, WALL + 1, counts, 0.5, None, None, (), ()
    )
    use = ResourceUse(ResourceSample(WALL, 1.0, 0.25, 2_000), 1, 0.25, 0.25, 2_000.0, 2_000)
    with exporting(ListedReader([replace(make_operation(1), resources=use)], groups=[thumbnails])) as (
        metrics,
        kept,
    ):
        assert metrics.force_flush(FLUSH_S)
        exported = kept.last()
    assert get_values(exported[semconv.OPERATION_MEMORY.name]) == {("op-1", "setlist"): 2_000}
    assert exported[semconv.OPERATION_MEMORY.name].unit == "By"
    assert semconv.OPERATION_GPU.name not in exported
    assert get_values(exported[semconv.BATCH_OPERATIONS.name])["b", "images", "failed"] == 2
    assert get_values(exported[semconv.BATCH_RATIO.name]) == {("b", "images"): 0.5}


def test_sources_and_caps_have_the_series_of_the_scrape() -> None:
    """These are conditions, preview URLs, caps and the size of the journal."""
    sources = MetricSources.from_arguments("https://progress.example.org", lambda: 4096)
    with exporting(ListedReader([make_operation(1, previews=3, estimated=True)]), sources=sources) as (
        metrics,
        kept,
    ):
        assert metrics.force_flush(FLUSH_S)
        exported = kept.last()
    (info,) = get_values(exported[semconv.OPERATION_INFO.name])
    assert info[-1] == "https://progress.example.org/api/v1/operations/op-1/previews/3"
    assert get_values(exported[semconv.JOURNAL_SIZE.name]) == {(): 4096}
    assert exported[semconv.JOURNAL_SIZE.name].unit == "By"
    conditions = get_values(exported[semconv.OPERATION_CONDITION.name])
    assert conditions == {
        ("op-1", "setlist", each.value): each is Condition.OK
        for each in Condition
        if each is not Condition.SUPERSEDED
    }
    assert get_values(exported[semconv.OPERATION_ESTIMATED.name]) == {("op-1", "setlist"): 1}
    assert get_values(exported[semconv.SERIES_SHOWN.name]) == {
        ("operation",): 1,
        ("level",): 1,
        ("batch",): 0,
    }


def test_operations_after_thousands_of_others_have_their_own_series() -> None:
    """There is no overflow series."""
    reader = ListedReader()
    with exporting(reader) as (metrics, kept):
        for first in range(0, 3000, 250):
            reader.running = [make_operation(number) for number in range(first, first + 250)]
            assert metrics.force_flush(FLUSH_S)
        last = get_values(kept.last()[semconv.OPERATION_CURRENT.name])
    assert set(last) == {(f"op-{number}", "setlist") for number in range(2750, 3000)}


def test_metric_has_fewer_than_two_thousand_points() -> None:
    """Dropped series are counted."""
    totals = Totals()
    with exporting(ListedReader([make_operation(number) for number in range(2100)]), totals) as (
        metrics,
        kept,
    ):
        assert metrics.force_flush(FLUSH_S)
        exported = kept.last()
        dropped = totals.read().counters[semconv.SERIES_DROPPED]
    assert max(len(metric.data.data_points) for metric in exported.values()) < 2000
    assert dropped[("operation",)] == 1800
    assert sum(get_values(exported[semconv.OPERATIONS.name]).values()) == 2100


def test_totals_are_exported_as_cumulative_sums_and_histograms() -> None:
    """They have one start time."""
    totals = Totals()
    with exporting(ListedReader(), totals) as (metrics, kept):
        totals.write(make_change_set(1.0, ended(level(run="a", current=4), 0.7)))
        assert metrics.force_flush(FLUSH_S)
        first = kept.last()
        totals.write(make_change_set(9.0, ended(level(run="b"), 7.0)))
        assert metrics.force_flush(FLUSH_S)
        second = kept.last()
    finished = second[semconv.OPERATIONS_FINISHED.name].data
    assert finished.is_monotonic
    assert finished.aggregation_temporality == AggregationTemporality.CUMULATIVE
    assert [point.value for point in finished.data_points] == [2]
    (before,), (after,) = (one[semconv.OPERATION_DURATION.name].data.data_points for one in (first, second))
    assert (before.count, after.count, after.sum) == (1, 2, 7.7)
    assert (after.bucket_counts[2], after.bucket_counts[4]) == (1, 1)
    assert before.start_time_unix_nano == after.start_time_unix_nano < after.time_unix_nano
    assert after.exemplars[0].filtered_attributes == {"trace_id": level().info.trace_id}


def test_delta_temporality_exports_the_difference_to_the_last_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment selects it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    totals = Totals()
    with exporting(ListedReader(), totals) as (metrics, kept):
        for number in range(2):
            for each in range(number + 1):
                totals.write(make_change_set(1.0, ended(level(run=f"{number}.{each}"), 0.5)))
            assert metrics.force_flush(FLUSH_S)
        data = kept.last()
    assert data[semconv.OPERATIONS_FINISHED.name].data.aggregation_temporality == AggregationTemporality.DELTA
    assert [point.value for point in data[semconv.OPERATIONS_FINISHED.name].data.data_points] == [2]
    (point,) = data[semconv.OPERATION_DURATION.name].data.data_points
    assert (point.count, point.sum) == (2, 1.0)


def test_failing_reader_leaves_the_totals_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is counted."""
    totals = Totals()
    totals.count_rejected("negative")
    with caplog.at_level(logging.WARNING), exporting(ListedReader(broken=True), totals) as (metrics, kept):
        assert metrics.force_flush(FLUSH_S)
        assert metrics.force_flush(FLUSH_S)
        assert semconv.UPDATES_REJECTED.name in kept.last()
    assert totals.read().counters[semconv.SINK_ERRORS][("otlp",)] >= 2
    assert [record.name for record in caplog.records if record.name.startswith("otel_progress.otlp")] == [
        LOGGER
    ]


def test_split_metrics_keeps_all_points_in_order() -> None:
    """Each part is bounded."""
    with exporting(ListedReader([make_operation(number) for number in range(290)])) as (metrics, kept):
        assert metrics.force_flush(FLUSH_S)
    whole = kept.exported[0]
    parts = list(split_metrics(whole, MAX_POINTS))

    def points(data: MetricsData) -> list[tuple[str, Any]]:
        scopes = data.resource_metrics[0].scope_metrics
        return [(metric.name, point) for metric in scopes[0].metrics for point in metric.data.data_points]

    assert len(parts) > 1
    assert max(len(points(part)) for part in parts) <= MAX_POINTS
    assert [point for part in parts for point in points(part)] == points(whole)


def test_close_exports_the_last_values() -> None:
    """No flush is needed."""
    kept = StoringExporter()
    totals = Totals()
    reader = cast("Reader", ListedReader([make_operation(1)]))
    metrics = OtlpMetrics(reader, totals, resource=Resource({}), exporter=BoundedMetricExporter(kept))
    metrics.close()
    assert semconv.OPERATION_CURRENT.name in kept.last()
