"""Prometheus gauges, counters and histograms over any Reader: read when scraped, nothing kept between scrapes but totals.

A series exists while its operation is active and for a retention after it ended, then it vanishes. What is unknown has no
series: never 0, never NaN. The cost of a scrape is bounded by caps, and what they leave out is counted.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from otel_progress import semconv
from otel_progress.labels import OTHER, label_id, label_text
from otel_progress.model import Eta, OperationSnapshot, Snapshot, Status
from otel_progress.semconv import METRICS, Metric
from otel_progress.totals import MAX_OPERATION_TYPES, Distribution, Totals

if TYPE_CHECKING:
    from otel_progress.protocols import Reader

logger = logging.getLogger(__name__)

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_LARGEST_STEP_S: Final = 2 * 3600.0
"""Wall and monotonic time that differ by more than any step of a clock come from different boots of the machine."""


class ProgressCollector(Collector):
    """Shows a Reader's operations to Prometheus. Register it with any registry: registering reads nothing.

    At most ``max_operations`` operations have series (running ones before ended ones, the newest first), and of each at most
    ``max_levels_per_operation`` levels down to ``max_level_depth`` (running ones first), ``max_levels`` in all. Ended operations
    vanish ``retention_s`` seconds after their end. ``totals`` are the counters of this process; without it only what scrapes
    leave out is counted. ``collect`` never raises: when the reader fails, one warning is logged, the failure is counted, and
    only the totals are shown.
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
        retention_s: float = 300.0,
    ) -> None:
        self._reader = reader
        self._totals = Totals() if totals is None else totals
        self._max_operations = max_operations
        self._max_levels_per_operation = max_levels_per_operation
        self._max_level_depth = max_level_depth
        self._max_levels = max_levels
        self._retention_s = retention_s
        self._failing = False

    def describe(self) -> Iterable[Family]:
        """Return all families, empty: their names, for a registry to check."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Read once and yield the families that have series."""
        families = _Families()
        try:
            operations = self._read()
            _add_counts(families, operations)
            self._add_operations(families, operations)
        except Exception:  # a shared registry would lose everyone else's metrics with ours
            families = _Families()
            self._totals.sink_error("prometheus")
            if not self._failing:
                logger.warning("The metrics of operations cannot be read; only totals are shown until they can.", exc_info=True)
            self._failing = True
        else:
            self._failing = False
        _add_totals(families, self._totals)
        return families.filled()

    def _read(self) -> list[OperationSnapshot]:
        """Return each run once: active ones, then those that ended within the retention, the newest first."""
        active = self._reader.active(levels=self._max_levels_per_operation > 0 and self._max_levels > 0)
        ended = self._reader.history(limit=self._max_operations)
        gone = {operation.run for operation in ended}  # what ended between the two reads is in both
        running = [operation for operation in active if operation.run not in gone]
        running.sort(key=lambda operation: operation.root.info.started_at or 0.0, reverse=True)
        return [*running, *(operation for operation in ended if _age(operation) <= self._retention_s)]

    def _add_operations(self, families: _Families, operations: list[OperationSnapshot]) -> None:
        """Add series of operations up to the caps. Of two runs with one id the newer has them: a series can exist only once."""
        seen: set[tuple[str, str]] = set()
        levels_left = self._max_levels
        dropped_levels = 0
        for operation in operations:
            labels = (label_id(operation.operation_id), label_id(operation.operation_type))
            if labels in seen:
                continue
            seen.add(labels)
            if len(seen) > self._max_operations:
                continue
            _add_operation(families, labels, operation)
            shallow = [level for level in operation.levels if level.info.depth <= self._max_level_depth]
            chosen = _choose(shallow, min(self._max_levels_per_operation, levels_left))
            _add_levels(families, labels, chosen)
            levels_left -= len(chosen)
            dropped_levels += len(shallow) - len(chosen)
        self._totals.series_dropped("operation", len(seen) - self._max_operations)
        self._totals.series_dropped("level", dropped_levels)


def metrics_app(collector: Collector) -> Callable[[Any, Any], Iterable[bytes]]:
    """Return a WSGI application that answers every GET with the metrics of ``collector`` alone.

    As text or OpenMetrics, gzipped when asked for.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    return make_wsgi_app(registry)


class _Families:
    """Families under construction; values that are unknown or not finite are left out."""

    def __init__(self) -> None:
        self._families = {metric: _family(metric) for metric in METRICS}

    def add(self, metric: Metric, labels: tuple[str, ...], value: float | None) -> None:
        """Add a sample of a gauge or counter."""
        number = _finite(value)
        if number is not None:
            self._families[metric].add_metric(labels, number)

    def add_distribution(self, metric: Metric, labels: tuple[str, ...], distribution: Distribution) -> None:
        """Add the samples of a histogram: Prometheus' buckets are cumulated."""
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        below = 0
        for bound, count, example in zip(
            (*distribution.bounds, math.inf), distribution.counts, distribution.examples, strict=True
        ):
            below += count
            upper = "+Inf" if bound == math.inf else repr(float(bound))
            if example is None or not _TRACE_ID.fullmatch(example.trace_id):
                buckets.append((upper, below))
            else:
                buckets.append((upper, below, Exemplar({"trace_id": example.trace_id}, example.value, _finite(example.at))))
        self._families[metric].add_metric(labels, buckets, distribution.sum)

    def filled(self) -> Iterator[Family]:
        """Return an iterator over the families that have samples."""
        return iter([family for family in self._families.values() if family.samples])


def _family(metric: Metric) -> Any:
    """Return an empty family. The three classes have no common ``add_metric``, hence the type."""
    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    unit = "seconds" if metric.unit == "s" else ""
    return kinds[metric.kind](metric.prometheus, metric.help, labels=metric.labels, unit=unit)


def _add_counts(families: _Families, operations: list[OperationSnapshot]) -> None:
    """Count all operations, also those beyond the cap, by type (the most frequent ones), status and condition."""
    types = Counter(label_id(operation.operation_type) for operation in operations)
    frequent = {name for name, _ in sorted(types.items(), key=lambda item: (-item[1], item[0]))[:MAX_OPERATION_TYPES]}
    counts: Counter[tuple[str, ...]] = Counter()
    for operation in operations:
        name = label_id(operation.operation_type)
        counts[name if name in frequent else OTHER, operation.status.value, operation.condition.value] += 1
    for labels, count in counts.items():
        families.add(semconv.OPERATIONS, labels, count)


def _add_operation(families: _Families, labels: tuple[str, str], operation: OperationSnapshot) -> None:
    root, add = operation.root, families.add
    info = root.info
    trace_id = info.trace_id if info.trace_id and _TRACE_ID.fullmatch(info.trace_id) else ""
    add(semconv.OPERATION_INFO, (*labels, label_text(info.name), trace_id, ""), 1)
    for status in Status:
        add(semconv.OPERATION_STATUS, (*labels, status.value), status is root.status)
    add(semconv.OPERATION_RATIO, labels, root.ratio)
    add(semconv.OPERATION_CURRENT, labels, root.current)
    add(semconv.OPERATION_TARGET, labels, root.total)
    add(semconv.OPERATION_FAILED, labels, root.failed)
    add(semconv.OPERATION_START, labels, info.started_at)
    add(semconv.OPERATION_LAST_ADVANCE, labels, root.advanced_at)
    add(semconv.OPERATION_DEADLINE, labels, info.deadline_at)
    add(semconv.OPERATION_REMAINING, labels, operation.remaining_seconds)
    if root.eta is not None and not root.status.finished:
        for metric, value in _expected_end(operation, root.eta).items():
            add(metric, labels, value)


def _expected_end(operation: OperationSnapshot, eta: Eta) -> Mapping[Metric, float | None]:
    """Return the expected end and its bounds in Unix seconds: a moment that stays put while the estimate does."""
    since = max(0.0, operation.clock - eta.clock)

    def end(remaining: float | None) -> float | None:
        return None if remaining is None else operation.read_at + max(0.0, remaining - since)

    return {
        semconv.OPERATION_EXPECTED_END: end(eta.remaining_s),
        semconv.OPERATION_EXPECTED_END_LOWER: end(eta.low_s),
        semconv.OPERATION_EXPECTED_END_UPPER: end(eta.high_s),
    }


def _choose(levels: list[Snapshot], most: int) -> list[Snapshot]:
    """Return at most ``most`` levels: running ones first, then those seen last."""
    if len(levels) <= most:
        return levels
    return sorted(levels, key=lambda level: (level.status is not Status.RUNNING, -level.observed_at))[: max(0, most)]


def _add_levels(families: _Families, operation: tuple[str, str], levels: list[Snapshot]) -> None:
    seen: set[str] = set()
    for level in levels:
        path = label_id(level.path)
        if path in seen:
            continue
        seen.add(path)
        labels = (*operation, path)
        families.add(semconv.LEVEL_RATIO, labels, level.ratio)
        families.add(semconv.LEVEL_CURRENT, labels, level.current)
        families.add(semconv.LEVEL_TARGET, labels, level.total)
        families.add(semconv.LEVEL_STATUS, (*labels, level.status.value), 1)


def _add_totals(families: _Families, totals: Totals) -> None:
    reading = totals.read()
    for metric, series in reading.counters.items():
        for labels, value in series.items():
            families.add(metric, labels, value)
    for metric, distributions in reading.distributions.items():
        for labels, distribution in distributions.items():
            families.add_distribution(metric, labels, distribution)


def _age(operation: OperationSnapshot) -> float:
    """Return the seconds since an operation ended; infinite when it has not.

    The worker's monotonic clock knows best, whatever steps the wall clock makes; but across a reboot it means nothing.
    """
    root = operation.root
    if root.ended_at is None:
        return math.inf
    by_wall = operation.read_at - root.ended_at
    if root.info.started_clock is None or root.duration_s is None:
        return by_wall
    by_clock = operation.clock - root.info.started_clock - root.duration_s
    return by_clock if by_clock >= 0.0 and abs(by_wall - by_clock) <= _LARGEST_STEP_S else by_wall


def _finite(value: float | None) -> float | None:
    """Return ``value`` as a float, None when there is none or no gauge may carry it (NaN, infinite, too large)."""
    if value is None:
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
