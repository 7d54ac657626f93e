"""Progress metrics over OTLP, with the names, units and labels of the scrape, from the same series and the same totals.

The SDK's observable instruments are not used. They keep every attribute set they ever saw, and from the 2,000th on (in 1.45) all
new ones become one overflow series: a worker would lose its gauges after a few hundred operations. Series that come and go are
what the SDK calls the output of a producer, so the points are made here, and the SDK's periodic reader exports them.
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
from otel_progress.semconv import Metric

CAPS: Final = Caps(operations=300, levels=1900)
"""Fewer than 2,000 points in any metric, which is where collectors and back ends begin to drop."""


INTERVAL_S: Final = 10.0
"""Seconds between exports unless ``OTEL_METRIC_EXPORT_INTERVAL`` says otherwise: the standard minute is long for progress."""


MAX_POINTS: Final = 2000
"""Points in one request, which keeps it below the 4 MB that gRPC servers accept."""


_INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"


_TEMPORALITY: Final = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


_SCOPE: Final = InstrumentationScope("otel_progress")


_logger = logging.getLogger(__name__)


class OtlpMetrics:
    """Exports the metrics of a Reader and of ``totals`` now and then, on the SDK's thread, until closed.

    Counters and histograms are cumulative unless the environment prefers ``delta`` or ``lowmemory``.
    """

    def __init__(
        self,
        reader: Reader,
        totals: Totals,
        *,
        resource: Resource,
        exporter: BoundedMetricExporter,
        caps: Caps = CAPS,
        around: MetricSources | None = None,
    ) -> None:
        self._reader = reader
        self._totals = totals
        self._resource = resource
        self._caps = caps
        self._sources = around or MetricSources()
        self._failing = False
        self._delta = os.environ.get(_TEMPORALITY, "").strip().lower() in ("delta", "lowmemory")
        self._since_ns = time.time_ns()
        self._before: dict[tuple[Metric, tuple[str, ...]], Any] = {}
        self._monitor = exporter.monitor
        interval_ms = None if os.environ.get(_INTERVAL) else INTERVAL_S * 1000
        self._periodic = PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms)
        # How a MeterProvider, too, tells its readers where metrics come from.
        self._periodic._set_collect_callback(self._collect)  # type: ignore[arg-type]

    def force_flush(self, timeout_s: float) -> bool:
        """Export now. Return True when the collector accepted it within ``timeout_s`` seconds."""
        return self._monitor.flush(timeout_s, self._periodic.force_flush)

    def close(self) -> None:
        """Export a last time, within the ShutdownBudget, and close."""
        with self._monitor.budget.wait() as timeout_s:
            self._periodic.shutdown(timeout_millis=timeout_s * 1000)

    def _collect(self, _: object, timeout_millis: float = 0.0) -> MetricsData | None:  # noqa: ARG002 - the reader's signature
        now_ns = time.time_ns()
        metrics = [*self._gauges(now_ns), *self._sums_and_histograms(now_ns)]
        if self._delta:
            self._since_ns = now_ns
        return _data(self._resource, metrics) if metrics else None

    def _gauges(self, now_ns: int) -> Iterator[MetricPoints]:
        points: dict[Metric, list[NumberDataPoint]] = {}
        try:
            for metric, labels, value in read_rows(self._reader, self._caps, self._totals, self._sources):
                points.setdefault(metric, []).append(
                    NumberDataPoint(_attributes(metric, labels), 0, now_ns, value)
                )
        except Exception:  # the store may be gone; the totals can still be told
            self._totals.count_sink_error("otlp")
            if not self._failing:
                _logger.warning(
                    "The metrics of operations cannot be read; only totals are exported until they can.",
                    exc_info=True,
                )
            self._failing = True
            return
        self._failing = False
        for metric, series in points.items():
            yield MetricPoints(metric.name, metric.help, _gauge_unit(metric), Gauge(series))

    def _sums_and_histograms(self, now_ns: int) -> Iterator[MetricPoints]:
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        reading = self._totals.read()
        for metric, counted in reading.counters.items():
            sums = [
                NumberDataPoint(
                    _attributes(metric, labels), self._since_ns, now_ns, self._change(metric, labels, value)
                )
                for labels, value in counted.items()
            ]
            yield MetricPoints(
                metric.name, metric.help, metric.unit, Sum(sums, temporality, is_monotonic=True)
            )
        for metric, distributions in reading.distributions.items():
            histograms = [
                self._histogram(metric, labels, one, now_ns) for labels, one in distributions.items()
            ]
            yield MetricPoints(metric.name, metric.help, metric.unit, Histogram(histograms, temporality))

    def _histogram(
        self, metric: Metric, labels: tuple[str, ...], one: Distribution, now_ns: int
    ) -> HistogramDataPoint:
        counts, total = one.counts, one.sum
        if self._delta:
            counts_before, total_before = self._before.get((metric, labels), ((0,) * len(counts), 0.0))
            self._before[metric, labels] = (counts, total)
            counts = tuple(now - before for now, before in zip(counts, counts_before, strict=True))
            total -= total_before
        return HistogramDataPoint(
            attributes=_attributes(metric, labels),
            start_time_unix_nano=self._since_ns,
            time_unix_nano=now_ns,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=one.bounds,
            min=None,  # type: ignore[arg-type]  # optional in OTLP, and totals do not keep it
            max=None,  # type: ignore[arg-type]
            exemplars=_exemplars(one),
        )

    def _change(self, metric: Metric, labels: tuple[str, ...], value: Number) -> Number:
        if not self._delta:
            return value
        before: Number = self._before.get((metric, labels), 0)
        self._before[metric, labels] = value
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
    """Return OtlpMetrics with the exporter that the environment describes. Raises ConfigurationError.

    ``public_url`` and ``journal_size`` are those of :class:`otel_progress.metrics.collector.ProgressCollector`.
    """
    with configuration_errors("metrics"):
        exporter = make_exporter("metrics", os.environ, _metric_exporter)
        bounded = BoundedMetricExporter(exporter, budget=budget, on_error=on_error)
        around = MetricSources.of(public_url, journal_size)
        with bounded.monitor.stopped_on_error():
            return OtlpMetrics(reader, totals, resource=resource, exporter=bounded, around=around)


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
        timeout_millis: float = 10_000,  # noqa: ARG002 - the SDK's signature; the exporter has its own timeout
        **kwargs: Any,  # noqa: ARG002
    ) -> MetricExportResult:
        """Export; FAILURE when the collector did not accept all of it."""
        taken = [self.monitor.export(part) for part in split(metrics_data, MAX_POINTS)]
        return MetricExportResult.SUCCESS if all(taken) else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002 - nothing is kept here
        """Return True: nothing waits here."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002 - the SDK's signature
        """Close the exporter immediately."""
        self.monitor.stop()


def split(data: MetricsData, most: int) -> Iterator[MetricsData]:
    """Yield ``data`` in parts of at most ``most`` points each; a metric with more is continued in the next part."""
    for resource_metrics in data.resource_metrics:
        part: list[MetricPoints] = []
        room = most
        for metric in (metric for scope in resource_metrics.scope_metrics for metric in scope.metrics):
            points = list(metric.data.data_points)
            while points:
                part.append(_with_points(metric, points[:room]))
                room, points = room - len(points[:room]), points[room:]
                if room == 0:
                    yield _data(resource_metrics.resource, part)
                    part, room = [], most
        if part:
            yield _data(resource_metrics.resource, part)


def _with_points(metric: MetricPoints, points: list[Any]) -> MetricPoints:
    data = metric.data
    if isinstance(data, Gauge):
        return MetricPoints(metric.name, metric.description, metric.unit, Gauge(points))
    if isinstance(data, Sum):
        part: Any = Sum(points, data.aggregation_temporality, data.is_monotonic)
    else:
        part = Histogram(points, data.aggregation_temporality)
    return MetricPoints(metric.name, metric.description, metric.unit, part)


def _data(resource: Resource, metrics: list[MetricPoints]) -> MetricsData:
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _gauge_unit(metric: Metric) -> str:
    """Return the unit to send: ``1`` with ratios only. What translates to Prometheus appends ``_ratio`` to any other gauge that has it.

    (OpenTelemetry specification, "Prometheus and OpenMetrics compatibility"; so do the Collector and Prometheus' own OTLP endpoint.)
    """
    return "" if metric.unit == "1" and not metric.name.endswith("ratio") else metric.unit


def _attributes(metric: Metric, labels: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(metric.labels, labels, strict=True))


def _exemplars(one: Distribution) -> list[Exemplar]:
    found = (
        example for example in one.examples if example is not None and TRACE_ID.fullmatch(example.trace_id)
    )
    # Without a span id the SDK's encoder leaves the trace out as well, so an exemplar names the trace as an attribute.
    return [Exemplar({"trace_id": e.trace_id}, float(e.value), int((e.at or 0.0) * 1e9)) for e in found]


def _metric_exporter(chosen: Protocol) -> MetricExporter:
    if chosen == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
        OTLPMetricExporter as HttpMetricExporter,
    )

    return HttpMetricExporter()
