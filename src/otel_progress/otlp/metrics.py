"""Progress metrics over OTLP, with the series, names and labels of the scrape.

Why not the SDK's observable instruments: they keep every attribute set, and from the 2,000th on (in
1.45) new sets share one overflow series. A worker would lose its gauges after a few hundred
operations. This module creates the points itself, and the SDK's periodic reader exports them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as MetricPoints
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_progress.metrics.counters import Distribution, Totals
from otel_progress.metrics.series import TRACE_ID, Caps, read_rows
from otel_progress.metrics.sources import JournalSize, MetricSources, PublicUrl
from otel_progress.model import Number
from otel_progress.otlp.bounded import ExportMonitor, ShutdownBudget
from otel_progress.otlp.environment import Protocol
from otel_progress.otlp.exporters import configuration_errors, make_exporter
from otel_progress.protocols import Reader
from otel_progress.semconv import SERVICE_INSTANCE_ID, Metric

CAPS: Final = Caps(operations=300, levels=1900)
"""Caps that keep each metric below 2,000 points, where collectors and backends start to drop."""


INTERVAL_S: Final = 10.0
"""Default of ``OTEL_METRIC_EXPORT_INTERVAL``, in seconds. The standard minute is long for progress.
"""


MAX_POINTS: Final = 2000
"""Maximum number of points per request. It keeps requests below the 4 MB limit of gRPC servers."""


_INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"


_TEMPORALITY: Final = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


_SCOPE: Final = InstrumentationScope("otel_progress")


_logger = logging.getLogger("otel_progress.otlp")


class OtlpMetrics:
    """Exports the metrics of a Reader and of ``totals`` on the SDK's thread.

    Counters and histograms are cumulative unless the environment prefers ``delta`` or
    ``lowmemory``.
    """

    def __init__(
        self,
        reader: Reader,
        totals: Totals,
        *,
        resource: Resource,
        exporter: BoundedMetricExporter,
        caps: Caps = CAPS,
        sources: MetricSources | None = None,
    ) -> None:
        self._reader = reader
        self._totals = totals
        self._resource = resource
        self._caps = caps
        self._sources = sources or MetricSources()
        self._failing = False
        self._is_empty = False
        """The last collection had no metrics."""
        self._is_closed = False
        self._delta = os.environ.get(_TEMPORALITY, "").strip().lower() in ("delta", "lowmemory")
        self._since_ns = time.time_ns()
        self._exported: dict[tuple[Metric, tuple[str, ...]], Any] = {}
        self._monitor = exporter.monitor
        interval_ms = None if os.environ.get(_INTERVAL) else INTERVAL_S * 1000
        self._periodic = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms)
        # A MeterProvider uses the same private method for its readers.
        self._periodic._set_collect_callback(self._collect)  # type: ignore[arg-type]

    def restart(self, instance_id: str) -> None:
        """Continue as another process, as a forked child does."""
        self._resource = self._resource.merge(Resource({SERVICE_INSTANCE_ID: instance_id}))
        self._since_ns = time.time_ns()
        self._exported = {}

    def force_flush(self, timeout_s: float) -> bool:
        """Export now.

        Return True if the collector accepted it within ``timeout_s`` seconds.
        """
        return self._monitor.flush(timeout_s, self._periodic.force_flush)

    def close(self) -> bool:
        """Export a last time within the ShutdownBudget, then close.

        Return True if the collector accepted it.
        """
        monitor = self._monitor
        before = monitor.exports, monitor.failures
        self._is_empty = False
        with monitor.budget.wait() as timeout_s:
            self._periodic.shutdown(timeout_millis=timeout_s * 1000)
        if (monitor.exports, monitor.failures) == before and not self._is_empty and not self._is_closed:
            monitor.report_unsent()
        self._is_closed = True
        return not monitor.is_failing

    # ARG002: the arguments are those of the SDK's callback.
    def _collect(self, _: object, timeout_millis: float = 0.0) -> MetricsData | None:  # noqa: ARG002
        now_ns = time.time_ns()
        metrics = [*self._gauges(now_ns), *self._sums_and_histograms(now_ns)]
        if self._delta:
            self._since_ns = now_ns
        self._is_empty = not metrics
        return _build_metrics_data(self._resource, metrics) if metrics else None

    def _gauges(self, now_ns: int) -> Iterator[MetricPoints]:
        points: dict[Metric, list[NumberDataPoint]] = {}
        try:
            for metric, labels, value in read_rows(self._reader, self._caps, self._totals, self._sources):
                point = NumberDataPoint(_build_attributes(metric, labels), 0, now_ns, value)
                points.setdefault(metric, []).append(point)
        except Exception:  # the store may be closed, but the totals are still available
            self._totals.count_sink_error("otlp")
            if not self._failing:
                _logger.warning(
                    "The metrics of operations cannot be read. Only totals are exported until they can.",
                    exc_info=True,
                )
            self._failing = True
            return
        self._failing = False
        for metric, series in points.items():
            yield MetricPoints(metric.name, metric.help, _gauge_unit(metric), Gauge(series))

    def _sums_and_histograms(self, now_ns: int) -> Iterator[MetricPoints]:
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        totals = self._totals.read()
        for metric, counters in totals.counters.items():
            sums = [
                NumberDataPoint(
                    _build_attributes(metric, labels),
                    self._since_ns,
                    now_ns,
                    self._to_exported_value(metric, labels, value),
                )
                for labels, value in counters.items()
            ]
            data = Sum(sums, temporality, is_monotonic=True)
            yield MetricPoints(metric.name, metric.help, metric.unit, data)
        for metric, distributions in totals.distributions.items():
            histograms = [
                self._build_histogram(metric, labels, distribution, now_ns)
                for labels, distribution in distributions.items()
            ]
            yield MetricPoints(metric.name, metric.help, metric.unit, Histogram(histograms, temporality))

    def _build_histogram(
        self, metric: Metric, labels: tuple[str, ...], distribution: Distribution, now_ns: int
    ) -> HistogramDataPoint:
        counts, total = distribution.counts, distribution.sum
        if self._delta:
            counts_before, total_before = self._exported.get((metric, labels), ((0,) * len(counts), 0.0))
            self._exported[metric, labels] = (counts, total)
            counts = tuple(now - before for now, before in zip(counts, counts_before, strict=True))
            total -= total_before
        return HistogramDataPoint(
            attributes=_build_attributes(metric, labels),
            start_time_unix_nano=self._since_ns,
            time_unix_nano=now_ns,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=distribution.bounds,
            min=None,  # type: ignore[arg-type]  # optional in OTLP, and totals do not store it
            max=None,  # type: ignore[arg-type]
            exemplars=_build_exemplars(distribution),
        )

    def _to_exported_value(self, metric: Metric, labels: tuple[str, ...], value: Number) -> Number:
        if not self._delta:
            return value
        before: Number = self._exported.get((metric, labels), 0)
        self._exported[metric, labels] = value
        return value - before


def build_otlp_metrics(
    reader: Reader,
    totals: Totals,
    resource: Resource,
    *,
    budget: ShutdownBudget | None = None,
    on_error: Callable[[], object] | None = None,
    public_url: PublicUrl = None,
    journal_size: JournalSize = None,
) -> OtlpMetrics:
    """Return OtlpMetrics with the exporter that the environment describes.

    ``public_url`` and ``journal_size`` are those of
    :class:`~otel_progress.metrics.collector.ProgressCollector`. Raises ConfigurationError.
    """
    with configuration_errors("metrics"):
        exporter = make_exporter("metrics", os.environ, _make_metric_exporter)
        bounded = BoundedMetricExporter(exporter, budget=budget, on_error=on_error)
        sources = MetricSources.from_arguments(public_url, journal_size)
        with bounded.monitor.stopped_on_error():
            return OtlpMetrics(reader, totals, resource=resource, exporter=bounded, sources=sources)


class BoundedMetricExporter(MetricExporter):
    """Exports metrics through an ExportMonitor, in requests of a bounded size."""

    def __init__(
        self,
        exporter: MetricExporter,
        *,
        budget: ShutdownBudget | None = None,
        on_error: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()

        def export(data: MetricsData) -> bool:
            return exporter.export(data) is MetricExportResult.SUCCESS

        self.monitor: ExportMonitor[MetricsData] = ExportMonitor(
            "metrics", export, exporter.shutdown, budget=budget, on_error=on_error
        )

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the exporter has its own timeout
        **kwargs: Any,  # noqa: ARG002
    ) -> MetricExportResult:
        """Export the metrics. Return FAILURE if the collector did not accept all of them."""
        accepted = [self.monitor.export(part) for part in split_metrics(metrics_data, MAX_POINTS)]
        return MetricExportResult.SUCCESS if all(accepted) else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Return True. No metrics wait here."""
        return True

    # ARG002: the arguments are those of the SDK.
    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the exporter immediately."""
        self.monitor.stop()


def split_metrics(data: MetricsData, max_points: int) -> Iterator[MetricsData]:
    """Yield ``data`` in parts of at most ``max_points`` points.

    A metric may span two parts.
    """
    for resource_metrics in data.resource_metrics:
        part: list[MetricPoints] = []
        left = max_points
        for metric in (metric for scope in resource_metrics.scope_metrics for metric in scope.metrics):
            points = list(metric.data.data_points)
            while points:
                part.append(_with_points(metric, points[:left]))
                left, points = left - len(points[:left]), points[left:]
                if left == 0:
                    yield _build_metrics_data(resource_metrics.resource, part)
                    part, left = [], max_points
        if part:
            yield _build_metrics_data(resource_metrics.resource, part)


def _with_points(metric: MetricPoints, points: list[Any]) -> MetricPoints:
    data = metric.data
    if isinstance(data, Gauge):
        return MetricPoints(metric.name, metric.description, metric.unit, Gauge(points))
    if isinstance(data, Sum):
        part: Any = Sum(points, data.aggregation_temporality, data.is_monotonic)
    else:
        part = Histogram(points, data.aggregation_temporality)
    return MetricPoints(metric.name, metric.description, metric.unit, part)


def _build_metrics_data(resource: Resource, metrics: list[MetricPoints]) -> MetricsData:
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _gauge_unit(metric: Metric) -> str:
    """Return the unit of a gauge, without the ``1`` of gauges that are not ratios.

    Why: by the OpenTelemetry specification ("Prometheus and OpenMetrics compatibility"), the
    Collector and Prometheus append ``_ratio`` to the name of each gauge with the unit ``1``.
    """
    return "" if metric.unit == "1" and not metric.name.endswith("ratio") else metric.unit


def _build_attributes(metric: Metric, labels: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(metric.labels, labels, strict=True))


def _build_exemplars(distribution: Distribution) -> list[Exemplar]:
    # Why an attribute: without a span id the SDK's encoder drops the trace id as well.
    return [
        Exemplar({"trace_id": example.trace_id}, float(example.value), int((example.at or 0.0) * 1e9))
        for example in distribution.examples
        if example is not None and TRACE_ID.fullmatch(example.trace_id)
    ]


def _make_metric_exporter(protocol: Protocol) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter as HttpMetricExporter,
    )

    from otel_progress.otlp.http_session import make_session

    return HttpMetricExporter(session=make_session("metrics"))
