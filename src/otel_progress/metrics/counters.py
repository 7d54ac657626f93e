"""Totals of this process since it started: counters and histograms that only grow, also when runs are long forgotten.

Plain numbers and no metrics library: whoever shows them (the Prometheus collector, OTLP) takes a copy with :meth:`Totals.read`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final, NamedTuple

from otel_progress import semconv
from otel_progress.diagnostics import internal_error_counts
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.live.predictions import Predictions
from otel_progress.metrics.labels import BoundedLabels
from otel_progress.model import Eta, LevelSnapshot, Number, Status
from otel_progress.protocols import ChangeSet
from otel_progress.semconv import Metric

MAX_OPERATION_TYPES: Final = 100
"""Operation types that have series of their own; the others share the label ``other``."""


MAX_ITEM_TYPES: Final = 500
"""Pairs of operation type and level type that have item counters of their own."""


_OUTCOMES: Final = (Status.COMPLETED.value, Status.FAILED.value, Status.CANCELLED.value)


MAX_REASONS: Final = 50
"""Reasons, sinks and groups that have counters of their own."""


BOUNDS: Final[Mapping[Metric, tuple[float, ...]]] = {
    semconv.OPERATION_DURATION: (
        0.1,
        0.5,
        1,
        5,
        10,
        30,
        60,
        300,
        600,
        1800,
        3600,
        10800,
        21600,
        43200,
        86400,
    ),
    semconv.ETA_ERROR: (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5),
    semconv.TICK_DURATION: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
}
"""Upper bounds of the buckets: durations from 0.1 s to a day, errors from 1 % to five times the duration, ticks from 0.5 ms."""


@dataclass(frozen=True, slots=True)
class TraceExample:
    """One observation of a histogram that can be looked up: its trace, value and Unix time (None when unknown)."""

    trace_id: str
    value: float
    at: float | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: upper ``bounds``, observations in each bucket (one more than bounds, not cumulated), their sum, and the
    latest example in each bucket.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    examples: tuple[TraceExample | None, ...]


@dataclass(frozen=True, slots=True)
class TotalsReading:
    """A copy of all totals at one moment: by metric, then by the values of its labels."""

    counters: Mapping[Metric, Mapping[tuple[str, ...], Number]]
    distributions: Mapping[Metric, Mapping[tuple[str, ...], Distribution]]


class _Histogram:
    __slots__ = ("counts", "examples", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.examples: list[TraceExample | None] = [None] * buckets
        self.sum = 0.0


class Totals:
    """Counts for the life of the process: a Sink that takes ended operations and items from batches, and methods for the rest.

    Every method may be called from any thread, takes a few microseconds and never raises for what a caller passed. The numbers
    of labels are bounded (``MAX_OPERATION_TYPES`` and so on).
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._before = internal_error_counts.copy()
        self._endings = EndTracker()
        self._counters: dict[Metric, dict[tuple[str, ...], Number]] = {}
        self._histograms: dict[Metric, dict[tuple[str, ...], _Histogram]] = {}
        self._types = BoundedLabels(MAX_OPERATION_TYPES)
        self._item_types = BoundedLabels(MAX_ITEM_TYPES)
        self._begun: set[str] = set()
        self._reasons: dict[Metric, BoundedLabels] = {}
        on_fork(phase=ForkPhase.LOCKS, owner=self, after_in_child=Totals._renew_lock)

    def write(self, batch: ChangeSet) -> None:
        """Count what ended and what was done since the last batch. Called from one thread at a time, as for every Sink."""
        endings = self._endings.find_ends(batch)
        begun = {
            one.info.operation_type for one in batch.snapshots if not one.path and not one.status.finished
        }
        with self._lock:
            for operation_type in begun - self._begun:
                self._begin(operation_type)
            for (operation_type, level_type, outcome), units in batch.items.items():
                if 0 < units < math.inf:
                    self._count(
                        semconv.ITEMS, (*self._item_types.fit(operation_type, level_type), outcome), units
                    )
            for metric, (operation_type, *others), amount, snapshot in endings:
                labels = (*self._types.fit(operation_type), *others)
                if metric.kind == "counter":
                    self._count(metric, labels, amount)
                elif math.isfinite(amount):
                    self._observe(metric, labels, amount, snapshot)

    def close(self) -> None:
        """Do nothing: totals stay readable to the end of the process."""

    def count_rejected(self, reason: str) -> None:
        """Count a bad value that was ignored."""
        self._reason(semconv.UPDATES_REJECTED, reason, 1)

    def count_sink_error(self, sink: str) -> None:
        """Count a batch that a sink could not take."""
        self._reason(semconv.SINK_ERRORS, sink, 1)

    def count_dropped(self, reason: str, count: int = 1) -> None:
        """Count events, snapshots or callbacks that were let go because a bound was reached."""
        self._reason(semconv.EVENTS_DROPPED, reason, count)

    def count_preview(self, outcome: str, count: int = 1) -> None:
        """Count previews by what became of them: ``stored``, ``unchanged``, ``dropped``, ``refused`` or ``failed``."""
        self._reason(semconv.PREVIEWS, outcome, count)

    def count_series_dropped(self, metric_group: str, count: int) -> None:
        """Count operations or levels that a scrape left out because of its cap."""
        self._reason(semconv.SERIES_DROPPED, metric_group, count)

    def observe_tick(self, seconds: float) -> None:
        """Observe how long a tick took."""
        if 0.0 <= seconds < math.inf:
            with self._lock:
                self._observe(semconv.TICK_DURATION, (), seconds, None)

    def read(self) -> TotalsReading:
        """Return a copy of all totals."""
        with self._lock:
            counters = {metric: dict(series) for metric, series in self._counters.items()}
            copies = [
                (metric, labels, tuple(one.counts), one.sum, tuple(one.examples))
                for metric, series in self._histograms.items()
                for labels, one in series.items()
            ]
        if troubles := _troubles(self._before):
            counters[semconv.SINK_ERRORS] = {**counters.get(semconv.SINK_ERRORS, {}), **troubles}
        distributions: dict[Metric, dict[tuple[str, ...], Distribution]] = {}
        for metric, labels, counts, total, examples in copies:
            distributions.setdefault(metric, {})[labels] = Distribution(
                BOUNDS[metric], counts, total, examples
            )
        return TotalsReading(counters, distributions)

    def _begin(self, operation_type: str) -> None:
        """Let the series of a type begin at 0 when its first operation does: by how much one grew is not known of its first sample."""
        if len(self._begun) >= MAX_OPERATION_TYPES:
            return
        self._begun.add(operation_type)
        (fitted,) = self._types.fit(operation_type)
        for status in _OUTCOMES:
            self._counters.setdefault(semconv.OPERATIONS_FINISHED, {}).setdefault((fitted, status), 0)
        self._series_of(semconv.OPERATION_DURATION, (fitted, Status.COMPLETED.value))
        self._series_of(semconv.ETA_ERROR, (fitted,))

    def _reason(self, metric: Metric, reason: str, count: int) -> None:
        if count > 0:
            with self._lock:
                bounded = self._reasons.setdefault(metric, BoundedLabels(MAX_REASONS))
                self._count(metric, bounded.fit(reason), count)

    def _count(self, metric: Metric, labels: tuple[str, ...], amount: Number) -> None:
        series = self._counters.setdefault(metric, {})
        series[labels] = series.get(labels, 0) + amount

    def _observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, snapshot: LevelSnapshot | None
    ) -> None:
        one = self._series_of(metric, labels)
        bucket = bisect_left(BOUNDS[metric], value)
        one.counts[bucket] += 1
        one.sum += value
        if snapshot is not None and snapshot.info.trace_id:
            one.examples[bucket] = TraceExample(snapshot.info.trace_id, value, snapshot.ended_at)

    def _renew_lock(self) -> None:
        """Replace the lock in a forked child, as a thread of the parent may have held it."""
        self._lock = Lock()

    def _series_of(self, metric: Metric, labels: tuple[str, ...]) -> _Histogram:
        series = self._histograms.setdefault(metric, {})
        one = series.get(labels)
        if one is None:
            one = series[labels] = _Histogram(len(BOUNDS[metric]) + 1)
        return one


def _troubles(before: Counter[str]) -> dict[tuple[str, ...], Number]:
    """Return the failures inside of telemetry since ``before`` that no sink counted itself: spans, callbacks, ticks."""
    since = internal_error_counts - before
    return {(place,): count for place, count in since.items() if not place.startswith("sink ")}


REMEMBERED_RUNS: Final = 1000
"""How many ended runs are remembered by id, so that a late copy of one is not counted again."""


COVERED: Final = "covered"


MISSED: Final = "missed"
"""Whether the interval of a prediction held the end: values of the label ``outcome``."""


class EndSample(NamedTuple):
    """An amount to add to a counter or to observe in a histogram, and the end of the operation it comes from."""

    metric: Metric
    labels: tuple[str, ...]
    amount: float
    snapshot: LevelSnapshot


class _RunPredictions:
    """The predictions of one run, and the estimate that was added last: most snapshots still carry that one."""

    __slots__ = ("latest", "predictions")

    def __init__(self) -> None:
        self.latest: Eta | None = None
        self.predictions = Predictions()


class EndTracker:
    """Finds the ends of operations in batches, each once. Not for two threads at a time."""

    def __init__(self) -> None:
        self._foretold: dict[str, _RunPredictions] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def find_ends(self, batch: ChangeSet) -> list[EndSample]:
        """Return what the ends in ``batch`` add."""
        found: list[EndSample] = []
        for snapshot in batch.snapshots:
            run = snapshot.info.run
            if snapshot.path or run in self._ended:
                continue
            if not snapshot.status.finished:
                self._predict(snapshot)
                continue
            found.extend(_end(snapshot, self._foretold.pop(run, None)))
            self._ended[run] = None
        for run, path in batch.evicted:
            if not path:
                self._foretold.pop(run, None)
        while len(self._ended) > REMEMBERED_RUNS:
            self._ended.popitem(last=False)
        return found

    def _predict(self, snapshot: LevelSnapshot) -> None:
        """Remember an estimate, by the seconds of work it was made after."""
        eta = snapshot.eta
        if eta is None:
            return
        foretold = self._foretold.get(snapshot.info.run)
        if foretold is None:
            foretold = self._foretold[snapshot.info.run] = _RunPredictions()
        if eta is not foretold.latest:
            foretold.latest = eta
            foretold.predictions.add(replace(eta, clock=snapshot.active_seconds(eta.clock)))


def _end(snapshot: LevelSnapshot, foretold: _RunPredictions | None) -> Iterator[EndSample]:
    """Yield what one end adds. Only an operation that completed says how good the predictions of its end were."""
    info, duration = snapshot.info, snapshot.duration_s
    labels = (info.operation_type, snapshot.status.value)
    yield EndSample(semconv.OPERATIONS_FINISHED, labels, 1, snapshot)
    if duration is None or not 0.0 <= duration < math.inf:
        return
    yield EndSample(semconv.OPERATION_DURATION, labels, duration, snapshot)
    if foretold is None or snapshot.status is not Status.COMPLETED or info.started_clock is None:
        return
    for error, covered in foretold.predictions.score(duration - snapshot.paused_s) or ():
        yield EndSample(semconv.ETA_ERROR, (info.operation_type,), error, snapshot)
        if covered is not None:
            outcome = COVERED if covered else MISSED
            yield EndSample(semconv.ETA_INTERVALS, (info.operation_type, outcome), 1, snapshot)
