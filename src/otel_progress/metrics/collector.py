"""Prometheus gauges, counters and histograms over any Reader: read when scraped, nothing kept between scrapes but totals.

Which series there are is said in :mod:`otel_progress.metrics.series`; here they become families of the Prometheus client, for any
registry. What our own endpoints answer is written by :mod:`otel_progress.metrics.exposition`.
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

from otel_progress.metrics.counters import Distribution, Totals
from otel_progress.metrics.series import TRACE_ID, Caps, finite, read_rows
from otel_progress.metrics.sources import JournalSize, MetricSources, PublicUrl
from otel_progress.model import Number
from otel_progress.semconv import METRICS, Metric

if TYPE_CHECKING:
    from otel_progress.protocols import Reader


logger = logging.getLogger(__name__)


Counted: TypeAlias = "Mapping[Metric, Mapping[tuple[str, ...], Number]]"
"""Gauges and counters by metric, then by the values of its labels."""


_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "By": "bytes"}


class ProgressCollector(Collector):
    """Shows a Reader's operations and batches to Prometheus. Register it with any registry: registering reads nothing.

    At most ``max_operations`` operations have series (running ones before ended ones, the newest first), and of each at most
    ``max_levels_per_operation`` levels down to ``max_level_depth`` (running ones first), ``max_levels`` in all; at most
    ``max_batches`` batches. Ended operations and batches vanish ``retention_s`` seconds after their end. ``totals`` are the counters
    of this process; without it only what scrapes leave out is counted. ``more`` returns what else is to be shown: the counts of
    a server. ``public_url`` is the base address under which a server has the previews, or a function that returns it or None;
    ``journal_size`` returns the size of a journal in bytes, or None. ``collect`` never raises: when the reader fails, one warning
    is logged, the failure is counted, and only the totals are shown.
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
        retention_s: float = 300.0,
        more: Callable[[], Counted] | None = None,
        public_url: PublicUrl = None,
        journal_size: JournalSize = None,
    ) -> None:
        self._reader = reader
        self._totals = Totals() if totals is None else totals
        self._caps = Caps(
            max_operations, max_levels_per_operation, max_level_depth, max_levels, retention_s, max_batches
        )
        self._more = more
        self._sources = MetricSources.of(public_url, journal_size)
        self._failing = False

    def describe(self) -> Iterable[Family]:
        """Return all families, empty: their names, for a registry to check."""
        return [family_of(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Read once and yield the families that have series."""
        return self.read().families()

    def read(self) -> Scrape:
        """Read once. Never raises."""
        reading = Scrape()
        try:
            for metric, labels, value in read_rows(self._reader, self._caps, self._totals, self._sources):
                reading.values[metric].append((labels, value))
        except Exception:  # a shared registry would lose everyone else's metrics with ours
            reading = Scrape()
            self._totals.count_sink_error("prometheus")
            if not self._failing:
                logger.warning(
                    "The metrics of operations cannot be read; only totals are shown until they can.",
                    exc_info=True,
                )
            self._failing = True
        else:
            self._failing = False
        reading.count(self._counted_elsewhere())  # before the totals, which count it when that fails
        totals = self._totals.read()
        reading.count(totals.counters)
        reading.distributions.update(totals.distributions)
        return reading

    def _counted_elsewhere(self) -> Counted:
        try:
            return {} if self._more is None else self._more()
        except Exception:
            self._totals.count_sink_error("prometheus")
            logger.debug("The counts of a server cannot be read.", exc_info=True)
            return {}


class Scrape:
    """What one scrape found: the series of gauges and counters, and histograms, by metric."""

    __slots__ = ("distributions", "values")

    def __init__(self) -> None:
        self.values: defaultdict[Metric, list[tuple[tuple[str, ...], Number]]] = defaultdict(list)
        """Values of labels, and the value."""
        self.distributions: dict[Metric, Mapping[tuple[str, ...], Distribution]] = {}

    def count(self, counted: Counted) -> None:
        """Add gauges and counters that are kept elsewhere."""
        for metric, series in counted.items():
            self.values[metric].extend(series.items())

    def families(self, kinds: Collection[str] = ("gauge", "counter", "histogram")) -> Iterator[Family]:
        """Yield the families of these kinds that have series, always in the same order."""
        for metric in METRICS:
            if metric.kind not in kinds:
                continue
            family = family_of(metric)
            for labels, value in self.values.get(metric, ()):
                family.add_metric(labels, value)
            for labels, distribution in self.distributions.get(metric, {}).items():
                _add_distribution(family, labels, distribution)
            if family.samples:
                yield family


def _add_distribution(family: Any, labels: tuple[str, ...], distribution: Distribution) -> None:
    """Add the samples of a histogram: Prometheus' buckets are cumulated."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    below = 0
    for bound, count, example in zip(
        (*distribution.bounds, math.inf), distribution.counts, distribution.examples, strict=True
    ):
        below += count
        upper = "+Inf" if bound == math.inf else repr(float(bound))
        if example is None or not TRACE_ID.fullmatch(example.trace_id):
            buckets.append((upper, below))
        else:
            buckets.append(
                (upper, below, Exemplar({"trace_id": example.trace_id}, example.value, finite(example.at)))
            )
    family.add_metric(labels, buckets, distribution.sum)


def family_of(metric: Metric) -> Any:
    """Return an empty family. The three classes have no common ``add_metric``, hence the type."""
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    unit = _UNITS.get(metric.unit, "")
    return kinds[metric.kind](metric.prometheus, metric.help, labels=metric.labels, unit=unit)
