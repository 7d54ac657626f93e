"""Counters and histograms of this process since it started. They only grow.

They hold plain numbers and use no metrics library. The Prometheus collector and the OTLP exporter
copy them with :meth:`Totals.read`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from otel_progress import semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.live.predictions import Predictions
from otel_progress.locking import CallerLock
from otel_progress.metrics.labels import BoundedLabels
from otel_progress.model import Eta, LevelSnapshot, Number, Status
from otel_progress.protocols import ChangeSet
from otel_progress.semconv import (
    DropReason,
    IntervalOutcome,
    Metric,
    PreviewOutcome,
    RejectionReason,
    SeriesGroup,
    SinkName,
)

MAX_OPERATION_TYPES: Final = 100
"""Maximum number of operation types with own series. The others share the label ``other``."""


MAX_ITEM_TYPES: Final = 500
"""Maximum number of pairs of operation type and level type with item counters of their own."""


_OUTCOMES: Final = (Status.COMPLETED.value, Status.FAILED.value, Status.CANCELLED.value)


MAX_REASONS: Final = 50
"""Maximum number of reasons, sinks or groups with counters of their own, per metric."""


BOUNDS: Final[Mapping[Metric, tuple[float, ...]]] = {
    semconv.OPERATION_DURATION: (
        *(0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600),
        *(10800, 21600, 43200, 86400),
    ),
    semconv.ETA_ERROR: (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5),
    semconv.TICK_DURATION: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
}
"""Upper bounds of the histogram buckets. Durations reach from 0.1 s to a day, errors from 1 % to
500 % of the duration, ticks from 0.5 ms.
"""


@dataclass(frozen=True, slots=True)
class TraceExample:
    """Exemplar of a histogram: trace id, value and Unix time (None if unknown)."""

    trace_id: str
    value: float
    at: float | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram.

    ``counts`` has one entry more than the upper ``bounds`` and is not cumulative. ``examples``
    holds the latest exemplar of each bucket.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    examples: tuple[TraceExample | None, ...]


@dataclass(frozen=True, slots=True)
class TotalsReading:
    """Copy of all totals, by metric and label values."""

    counters: Mapping[Metric, Mapping[tuple[str, ...], Number]]
    distributions: Mapping[Metric, Mapping[tuple[str, ...], Distribution]]


class _Histogram:
    __slots__ = ("counts", "examples", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.examples: list[TraceExample | None] = [None] * buckets
        self.sum = 0.0


class Totals:
    """Counters and histograms of the process, and the Sink that updates them.

    All methods are thread-safe, except that :meth:`write` is called by one thread at a time. They
    take a few microseconds and never raise for values of the caller. The number of label values is
    bounded by ``MAX_OPERATION_TYPES``, ``MAX_ITEM_TYPES`` and ``MAX_REASONS``.
    """

    def __init__(self) -> None:
        self.restart()
        on_fork(phase=ForkPhase.LOCKS, owner=self, after_in_child=Totals._renew_lock)

    def restart(self) -> None:
        """Start again at 0, as a forked child does."""
        self._lock = CallerLock()
        self._initial_errors = internal_error_counts.copy()
        self._end_tracker = EndTracker()
        self._counters: dict[Metric, dict[tuple[str, ...], Number]] = {}
        self._histograms: dict[Metric, dict[tuple[str, ...], _Histogram]] = {}
        self._types = BoundedLabels(MAX_OPERATION_TYPES)
        self._item_types = BoundedLabels(MAX_ITEM_TYPES)
        self._started_types: set[str] = set()
        self._reasons: dict[Metric, BoundedLabels] = {}

    def write(self, change_set: ChangeSet) -> None:
        """Count the finished operations and the items of a change set."""
        samples = self._end_tracker.find_ends(change_set)
        started = {
            snapshot.info.operation_type
            for snapshot in change_set.snapshots
            if not snapshot.path and not snapshot.status.finished
        }
        with self._lock.lock:
            for operation_type in started - self._started_types:
                self._start_series(operation_type)
            for (operation_type, level_type, outcome), units in change_set.items.items():
                if 0 < units < math.inf:
                    labels = (*self._item_types.fit(operation_type, level_type), outcome)
                    self._count(semconv.ITEMS, labels, units)
            for metric, (operation_type, *others), amount, snapshot in samples:
                labels = (*self._types.fit(operation_type), *others)
                if metric.kind == "counter":
                    self._count(metric, labels, amount)
                elif math.isfinite(amount):
                    self._observe(metric, labels, amount, snapshot)
        self._lock.run_deferred()

    def close(self) -> None:
        """Do nothing. Totals stay readable until the process ends."""

    def count_rejected(self, reason: RejectionReason) -> None:
        """Count a rejected value."""
        self._count_reason(semconv.UPDATES_REJECTED, reason, 1)

    def count_sink_error(self, sink: SinkName) -> None:
        """Count a change set or a scrape for which a sink failed."""
        self._count_reason(semconv.SINK_ERRORS, sink, 1)

    def count_dropped(self, reason: DropReason | SinkName, count: int = 1) -> None:
        """Count events, snapshots or callbacks that were dropped at a limit."""
        self._count_reason(semconv.EVENTS_DROPPED, reason, count)

    def count_preview(self, outcome: PreviewOutcome, count: int = 1) -> None:
        """Count previews by outcome.

        Outcomes are ``stored``, ``unchanged``, ``dropped``, ``refused`` and ``failed``.
        """
        self._count_reason(semconv.PREVIEWS, outcome, count)

    def count_series_dropped(self, metric_group: SeriesGroup, count: int) -> None:
        """Count operations, levels or batches that a scrape dropped at a limit."""
        self._count_reason(semconv.SERIES_DROPPED, metric_group, count)

    def observe_tick(self, seconds: float) -> None:
        """Record the duration of a tick."""
        if 0.0 <= seconds < math.inf:
            self._lock.run(self._observe, semconv.TICK_DURATION, (), seconds, None)

    def read(self) -> TotalsReading:
        """Return a copy of all totals."""
        with self._lock.lock:
            counters = {metric: dict(series) for metric, series in self._counters.items()}
            copies = [
                (metric, labels, tuple(histogram.counts), histogram.sum, tuple(histogram.examples))
                for metric, series in self._histograms.items()
                for labels, histogram in series.items()
            ]
        self._lock.run_deferred()
        if errors := _count_errors_since(self._initial_errors):
            # Why the sum: a failed query of the journal and a failed write have the same label.
            counted = counters.setdefault(semconv.SINK_ERRORS, {})
            for labels, count in errors.items():
                counted[labels] = counted.get(labels, 0) + count
        distributions: dict[Metric, dict[tuple[str, ...], Distribution]] = {}
        for metric, labels, counts, total, examples in copies:
            distributions.setdefault(metric, {})[labels] = Distribution(
                BOUNDS[metric], counts, total, examples
            )
        return TotalsReading(counters, distributions)

    def _start_series(self, operation_type: str) -> None:
        """Create the series of a type at 0.

        Why: a rate cannot be computed from the first sample of a series.
        """
        if len(self._started_types) >= MAX_OPERATION_TYPES:
            return
        self._started_types.add(operation_type)
        (fitted,) = self._types.fit(operation_type)
        for status in _OUTCOMES:
            self._counters.setdefault(semconv.OPERATIONS_FINISHED, {}).setdefault((fitted, status), 0)
        self._get_histogram(semconv.OPERATION_DURATION, (fitted, Status.COMPLETED.value))
        self._get_histogram(semconv.ETA_ERROR, (fitted,))

    def _count_reason(self, metric: Metric, reason: str, count: int) -> None:
        if count > 0:
            self._lock.run(self._fit_and_count, metric, reason, count)

    def _fit_and_count(self, metric: Metric, reason: str, count: int) -> None:
        bounded = self._reasons.setdefault(metric, BoundedLabels(MAX_REASONS))
        self._count(metric, bounded.fit(reason), count)

    def _count(self, metric: Metric, labels: tuple[str, ...], amount: Number) -> None:
        series = self._counters.setdefault(metric, {})
        series[labels] = series.get(labels, 0) + amount

    def _observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, snapshot: LevelSnapshot | None
    ) -> None:
        histogram = self._get_histogram(metric, labels)
        bucket = bisect_left(BOUNDS[metric], value)
        histogram.counts[bucket] += 1
        histogram.sum += value
        if snapshot is not None and snapshot.info.trace_id:
            histogram.examples[bucket] = TraceExample(snapshot.info.trace_id, value, snapshot.ended_at)

    def _renew_lock(self) -> None:
        """Replace the lock in a forked child. A thread of the parent may have held it."""
        self._lock = CallerLock()

    def _get_histogram(self, metric: Metric, labels: tuple[str, ...]) -> _Histogram:
        series = self._histograms.setdefault(metric, {})
        histogram = series.get(labels)
        if histogram is None:
            histogram = series[labels] = _Histogram(len(BOUNDS[metric]) + 1)
        return histogram


def _count_errors_since(initial: Counter[str]) -> dict[tuple[str, ...], Number]:
    """Return the internal errors since ``initial``, except those that sinks count."""
    since = internal_error_counts - initial
    return {(component,): count for component, count in since.items() if not component.startswith("sink ")}


REMEMBERED_RUNS: Final = 1000
"""Maximum number of finished runs stored by id, so that a late copy is not counted again."""


COVERED: Final[IntervalOutcome] = "covered"


MISSED: Final = "missed"
"""Values of the label ``outcome``: whether the interval of a prediction contained the end."""


class EndSample(NamedTuple):
    """Amount for a counter or histogram, and the finished operation."""

    metric: Metric
    labels: tuple[str, ...]
    amount: float
    snapshot: LevelSnapshot


class _RunPredictions:
    """Predictions of one run.

    ``latest`` is the estimate added last. Most snapshots still carry it.
    """

    __slots__ = ("latest", "predictions")

    def __init__(self) -> None:
        self.latest: Eta | None = None
        self.predictions = Predictions()


class EndTracker:
    """Finds each finished operation in change sets once. Not thread-safe."""

    def __init__(self) -> None:
        self._predictions: dict[str, _RunPredictions] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def find_ends(self, change_set: ChangeSet) -> list[EndSample]:
        """Return the samples of the operations that finished in ``change_set``."""
        samples: list[EndSample] = []
        for snapshot in change_set.snapshots:
            run = snapshot.info.run
            if snapshot.path or run in self._ended:
                continue
            if not snapshot.status.finished:
                self._add_prediction(snapshot)
                continue
            samples.extend(_build_end_samples(snapshot, self._predictions.pop(run, None)))
            self._ended[run] = None
        for run, path in change_set.evicted:
            if not path:
                self._predictions.pop(run, None)
        while len(self._ended) > REMEMBERED_RUNS:
            self._ended.popitem(last=False)
        return samples

    def _add_prediction(self, snapshot: LevelSnapshot) -> None:
        """Store the estimate of a snapshot, with its time in active seconds."""
        eta = snapshot.eta
        if eta is None:
            return
        run = self._predictions.get(snapshot.info.run)
        if run is None:
            run = self._predictions[snapshot.info.run] = _RunPredictions()
        if eta is not run.latest:
            run.latest = eta
            run.predictions.add(replace(eta, clock=snapshot.active_seconds(eta.clock)))


def _build_end_samples(snapshot: LevelSnapshot, run: _RunPredictions | None) -> Iterator[EndSample]:
    """Yield the samples of one finished operation.

    Only operations that completed all their units rate their predictions.
    """
    info, duration = snapshot.info, snapshot.duration_s
    labels = (info.operation_type, snapshot.status.value)
    yield EndSample(semconv.OPERATIONS_FINISHED, labels, 1, snapshot)
    if duration is None or not 0.0 <= duration < math.inf:
        return
    yield EndSample(semconv.OPERATION_DURATION, labels, duration, snapshot)
    if run is None or snapshot.status is not Status.COMPLETED or info.started_clock is None:
        return
    if snapshot.ended_early:
        return
    for error, covered in run.predictions.score(duration - snapshot.paused_s) or ():
        yield EndSample(semconv.ETA_ERROR, (info.operation_type,), error, snapshot)
        if covered is not None:
            outcome = COVERED if covered else MISSED
            yield EndSample(semconv.ETA_INTERVALS, (info.operation_type, outcome), 1, snapshot)
