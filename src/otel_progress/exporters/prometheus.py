"""Prometheus gauges, counters and histograms over any Reader: read when scraped, nothing kept between scrapes but totals.

Which series there are is said in :mod:`otel_progress.exporters.series`; here they become families of the Prometheus client. It
renders about 7 µs a series (11 µs as OpenMetrics), so that a scrape of 1,000 operations takes 0.1 to 0.2 s of one core.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from otel_progress.exporters.series import TRACE_ID, Caps, finite, read_rows
from otel_progress.exporters.surroundings import JournalSize, PublicUrl, Surroundings
from otel_progress.exporters.totals import Distribution, Totals
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
        self._caps = Caps(max_operations, max_levels_per_operation, max_level_depth, max_levels, retention_s, max_batches)
        self._more = more
        self._around = Surroundings.of(public_url, journal_size)
        self._failing = False

    def describe(self) -> Iterable[Family]:
        """Return all families, empty: their names, for a registry to check."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Read once and yield the families that have series."""
        families = _Families()
        try:
            for metric, labels, value in read_rows(self._reader, self._caps, self._totals, self._around):
                families.add(metric, labels, value)
        except Exception:  # a shared registry would lose everyone else's metrics with ours
            families = _Families()
            self._totals.sink_error("prometheus")
            if not self._failing:
                logger.warning("The metrics of operations cannot be read; only totals are shown until they can.", exc_info=True)
            self._failing = True
        else:
            self._failing = False
        _add_counted(families, self._counted_elsewhere())  # before the totals, which count it when that fails
        _add_totals(families, self._totals)
        return families.filled()

    def _counted_elsewhere(self) -> Counted:
        try:
            return {} if self._more is None else self._more()
        except Exception:
            self._totals.sink_error("prometheus")
            logger.debug("The counts of a server cannot be read.", exc_info=True)
            return {}


def metrics_app(collector: Collector) -> Callable[[Any, Any], Iterable[bytes]]:
    """Return a WSGI application that answers every GET with the metrics of ``collector`` alone.

    As text or OpenMetrics, gzipped when asked for.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    return make_wsgi_app(registry)


def exposition(collector: Collector, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of ``collector`` alone, and their content type: OpenMetrics when ``accept`` asks for it, else text.

    ``accept`` is an ``Accept`` header. Takes milliseconds for each hundred operations: not for the thread of an event loop.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Families:
    """Families under construction."""

    def __init__(self) -> None:
        self._families = {metric: _family(metric) for metric in METRICS}

    def add(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Add a sample of a gauge or counter."""
        self._families[metric].add_metric(labels, value)

    def add_distribution(self, metric: Metric, labels: tuple[str, ...], distribution: Distribution) -> None:
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
                buckets.append((upper, below, Exemplar({"trace_id": example.trace_id}, example.value, finite(example.at))))
        self._families[metric].add_metric(labels, buckets, distribution.sum)

    def filled(self) -> Iterator[Family]:
        """Return an iterator over the families that have samples."""
        return iter([family for family in self._families.values() if family.samples])


def _family(metric: Metric) -> Any:
    """Return an empty family. The three classes have no common ``add_metric``, hence the type."""
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    unit = _UNITS.get(metric.unit, "")
    return kinds[metric.kind](metric.prometheus, metric.help, labels=metric.labels, unit=unit)


def _add_totals(families: _Families, totals: Totals) -> None:
    reading = totals.read()
    _add_counted(families, reading.counters)
    for metric, distributions in reading.distributions.items():
        for labels, distribution in distributions.items():
            families.add_distribution(metric, labels, distribution)


def _add_counted(families: _Families, counted: Counted) -> None:
    for metric, series in counted.items():
        for labels, value in series.items():
            families.add(metric, labels, value)
