"""Prometheus collector over any Reader.

Each scrape reads the Reader once. Between scrapes only the totals of the process are stored.
:mod:`otel_progress.metrics.series` defines the series. This module converts them to metric families
of ``prometheus_client``, for any registry. The endpoints of this package render them with
:mod:`otel_progress.metrics.exposition`.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from otel_progress.metrics.counters import Distribution, Totals, TotalsReading
from otel_progress.metrics.series import TRACE_ID, Caps, SeriesReader, read_rows, to_finite_float
from otel_progress.metrics.sources import JournalSize, MetricSources, PublicUrl
from otel_progress.model import Number
from otel_progress.semconv import METRICS, Metric
from otel_progress.settings.defaults import DEFAULT_METRICS_RETENTION_S

if TYPE_CHECKING:
    from otel_progress.protocols import Reader


logger = logging.getLogger("otel_progress.metrics")


CounterValues: TypeAlias = "Mapping[Metric, Mapping[tuple[str, ...], Number]]"
"""Values of gauges and counters by metric and label values."""


_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "By": "bytes"}


class ProgressCollector(Collector):
    """Exports the operations and batches of a Reader to Prometheus.

    Register it with any registry. Registering does not read. ``collect`` never raises. When the
    reader fails, it logs one warning, counts the failure, and exports only the totals.

    Args:
        reader: Source of operations and batches.
        totals: Counters of this process. By default, only series dropped by scrapes are counted.
        max_operations: Maximum number of operations with series. Running operations come first,
            then the latest finished ones.
        max_levels_per_operation: Maximum number of levels per operation. Running levels come first.
        max_level_depth: Depth of the deepest levels with series.
        max_levels: Maximum number of levels of all operations.
        max_batches: Maximum number of batches with series.
        retention_s: Seconds after which finished operations and batches are no longer exported.
        extra: Returns additional values, such as the counters of a server.
        public_url: Base URL of the server for previews, or a function that returns it or None.
        journal_size: Returns the size of the journal in bytes, or None.

    """

    def __init__(
        self,
        reader: Reader,
        *,
        totals: Totals | None = None,
        max_operations: int = 1000,
        max_levels_per_operation: int = 50,
        max_level_depth: int = 2,
        max_levels: int = 5000,
        max_batches: int = 100,
        retention_s: float = DEFAULT_METRICS_RETENTION_S,
        extra: Callable[[], CounterValues] | None = None,
        public_url: PublicUrl = None,
        journal_size: JournalSize = None,
    ) -> None:
        self._reader = reader
        self._totals = Totals() if totals is None else totals
        self._caps = Caps(
            max_operations, max_levels_per_operation, max_level_depth, max_levels, retention_s, max_batches
        )
        self._extra = extra
        self._sources = MetricSources.from_arguments(public_url, journal_size)
        self._failing = False

    def describe(self) -> Iterable[Family]:
        """Return empty families, so that a registry can check their names."""
        return [build_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Read once and yield the families that have series."""
        return self.read().families()

    def read(self) -> Scrape:
        """Read the Reader once. Never raises."""
        return self._read(self._reader, self._totals.read)

    def _read(self, reader: SeriesReader, read_totals: Callable[[], TotalsReading]) -> Scrape:
        scrape = Scrape()
        try:
            for metric, labels, value in read_rows(reader, self._caps, self._totals, self._sources):
                scrape.values[metric].append((labels, value))
        except Exception:  # an error would hide the metrics of all collectors in a shared registry
            scrape = Scrape()
            self._totals.count_sink_error("prometheus")
            if not self._failing:
                logger.warning(
                    "The metrics of operations cannot be read. Only totals are exported until they can.",
                    exc_info=True,
                )
            self._failing = True
        else:
            self._failing = False
        # Why before the totals: they count the failure of this call.
        scrape.add_counters(self._read_extra())
        totals = read_totals()
        scrape.add_counters(totals.counters)
        scrape.distributions.update(totals.distributions)
        return scrape

    def _read_extra(self) -> CounterValues:
        try:
            return {} if self._extra is None else self._extra()
        except Exception:
            self._totals.count_sink_error("prometheus")
            logger.debug("The additional metrics cannot be read.", exc_info=True)
            return {}


class Scrape:
    """Result of one scrape: values of gauges and counters, and histograms, by metric."""

    __slots__ = ("distributions", "values")

    def __init__(self) -> None:
        self.values: defaultdict[Metric, list[tuple[tuple[str, ...], Number]]] = defaultdict(list)
        """Label values and the value of each series."""
        self.distributions: dict[Metric, Mapping[tuple[str, ...], Distribution]] = {}

    def add_counters(self, counters: CounterValues) -> None:
        """Add values of gauges and counters from another source."""
        for metric, series in counters.items():
            self.values[metric].extend(series.items())

    def families(self, kinds: Collection[str] = ("gauge", "counter", "histogram")) -> Iterator[Family]:
        """Yield the families of these kinds that have series, in a fixed order."""
        for metric in METRICS:
            if metric.kind not in kinds:
                continue
            family = build_family(metric)
            for labels, value in self.values.get(metric, ()):
                family.add_metric(labels, value)
            for labels, distribution in self.distributions.get(metric, {}).items():
                _add_distribution(family, labels, distribution)
            if family.samples:
                yield family


def _add_distribution(family: Any, labels: tuple[str, ...], distribution: Distribution) -> None:
    """Add the samples of a histogram. Prometheus buckets are cumulative."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    cumulative = 0
    for bound, count, example in zip(
        (*distribution.bounds, math.inf), distribution.counts, distribution.examples, strict=True
    ):
        cumulative += count
        upper = "+Inf" if bound == math.inf else repr(float(bound))
        if example is None or not TRACE_ID.fullmatch(example.trace_id):
            buckets.append((upper, cumulative))
        else:
            exemplar = Exemplar({"trace_id": example.trace_id}, example.value, to_finite_float(example.at))
            buckets.append((upper, cumulative, exemplar))
    family.add_metric(labels, buckets, distribution.sum)


def build_family(metric: Metric) -> Any:
    """Return an empty family.

    The return type is ``Any`` because the three classes share no ``add_metric``.
    """
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    unit = _UNITS.get(metric.unit, "")
    return kinds[metric.kind](metric.prometheus, metric.help, labels=metric.labels, unit=unit)
