"""Index of received operations by span, trace and id, for log records."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar

from otel_progress import semconv
from otel_progress.receivers.reports import LevelReport, split_last_segment
from otel_progress.receivers.spans import SpanKey
from otel_progress.receivers.telemetry import ReceivedLog
from otel_progress.text import MAX_ID, normalize_id, truncate

MAX_INDEXED_SPANS: Final = 100_000
"""Maximum number of spans of levels in the index, about 0.4 KB each. Beyond it the one without a
report for the longest time is dropped, and its log records belong to the operation.
"""


MAX_INDEXED_RUNS: Final = 20_000
"""Maximum number of runs in the index. Beyond it the one without a report for the longest time is
dropped, and its later log records are not assigned.
"""


MAX_RUNS_PER_TRACE: Final = 16
"""Maximum number of runs of a trace in the index. The oldest are dropped first."""


LogKey: TypeAlias = str
"""Key for which log records wait: a trace id, or the id of a run or operation with its sender."""


_REPORTS_PER_USE: Final = 16
"""Reports of a run of which one updates the order in which entries are dropped."""


K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class IndexedRun:
    """Identity of a run of a sender, and its time in Unix seconds.

    ``reports`` counts the reports in spans that are in the index.
    """

    sender: str
    operation_id: str
    operation_type: str
    run: str
    started_at: float
    ended_at: float = math.inf
    reports: int = 0


class LogTarget(NamedTuple):
    """Level of a log record: its run and its path."""

    run: IndexedRun
    path: str


class SpanIndex:
    """Runs by span, by trace and by id. Not thread-safe.

    Several levels may report in one span. Its log records then belong to the nearest level above
    all of them.
    """

    def __init__(self, *, max_spans: int = MAX_INDEXED_SPANS, max_runs: int = MAX_INDEXED_RUNS) -> None:
        self._max_spans = max_spans
        self._max_runs = max_runs
        self._runs: OrderedDict[tuple[str, str], IndexedRun] = OrderedDict()
        self._operations: OrderedDict[tuple[str, str], IndexedRun] = OrderedDict()
        self._traces: OrderedDict[str, tuple[IndexedRun, ...]] = OrderedDict()
        self._spans: OrderedDict[SpanKey, LogTarget | None] = OrderedDict()

    def add(self, sender: str, run: str, report: LevelReport) -> list[LogKey]:
        """Add the span of a level.

        Return the keys for which log records may have waited until now.
        """
        origin = report.origin
        if report.path or not report.status.finished:
            known = self._spans.get((origin.trace_id, report.span_id))  # type: ignore[arg-type]
            if known is not None and known.path == report.path and known.run.run == run:
                # Why not each time: the report adds nothing, and moving all entries takes time.
                known.run.reports += 1
                if known.run.reports % _REPORTS_PER_USE and known.run.sender == sender:
                    return []
        keys: list[LogKey] = []
        indexed = self._runs.get((sender, run))
        if indexed is None:
            start = report.at if report.started_at is None else report.started_at
            indexed = IndexedRun(sender, origin.operation_id, origin.operation_type, run, start)
            keys += [_build_run_key(sender, run), _build_operation_key(sender, origin.operation_id)]
        if not report.path:
            if report.started_at is not None:
                indexed.started_at = min(indexed.started_at, report.started_at)
            if report.status.finished:
                indexed.ended_at = report.at
        _store(self._runs, (sender, run), indexed, self._max_runs)
        operation_key = (sender, indexed.operation_id)
        newest = self._operations.get(operation_key)
        if newest is None or newest.started_at <= indexed.started_at:
            _store(self._operations, operation_key, indexed, self._max_runs)
        trace_id = origin.trace_id
        if trace_id is not None and self._add_trace(trace_id, indexed, report):
            keys.append(_build_trace_key(trace_id))
        return keys

    def _add_trace(self, trace_id: str, indexed: IndexedRun, report: LevelReport) -> bool:
        """Add the trace and the span of a report. Return True if one of them is new."""
        runs = self._traces.get(trace_id, ())
        is_new = indexed not in runs
        if is_new:
            runs = (*runs, indexed)[-MAX_RUNS_PER_TRACE:]
        _store(self._traces, trace_id, runs, self._max_runs)
        if report.span_id is None:
            return is_new
        key = (trace_id, report.span_id)
        known = self._spans.get(key)
        target: LogTarget | None = LogTarget(indexed, report.path)
        if key in self._spans and known != target:
            target = None if known is None or known.run is not indexed else _join(known, report.path)
        is_new = is_new or key not in self._spans
        _store(self._spans, key, target, self._max_spans)
        return is_new

    def find(self, sender: str, record: ReceivedLog) -> LogTarget | LogKey | None:
        """Return the level of a log record, else the key for which it has to wait.

        Return None if it belongs to no operation. Raises InvalidReportError.
        """
        values = record.attributes
        operation_id = values.get(semconv.OPERATION_ID)
        if isinstance(operation_id, str) and operation_id:
            path = values.get(semconv.PATH)
            return self._find_stated(
                sender, record, normalize_id(operation_id), path if isinstance(path, str) else ""
            )
        if record.trace_id is None:
            return None
        found = None if record.span_id is None else self._spans.get((record.trace_id, record.span_id))
        return found or self._find_in_trace(sender, record, record.trace_id)

    def _find_stated(
        self, sender: str, record: ReceivedLog, operation_id: str, path: str
    ) -> LogTarget | LogKey:
        """Return the level that the attributes of a record state."""
        split_last_segment(path)
        run = record.attributes.get(semconv.RUN)
        if isinstance(run, str) and run:
            run = truncate(run, MAX_ID)
            indexed = self._runs.get((sender, run))
            return _build_run_key(sender, run) if indexed is None else LogTarget(indexed, path)
        indexed = self._operations.get((sender, operation_id))
        return _build_operation_key(sender, operation_id) if indexed is None else LogTarget(indexed, path)

    def _find_in_trace(self, sender: str, record: ReceivedLog, trace_id: str) -> LogTarget | LogKey:
        """Return the operation of a trace.

        If there are several, it is the only one of the sender, or the only one that ran then.
        """
        runs = self._traces.get(trace_id, ())
        if len(runs) > 1:
            runs = tuple(run for run in runs if run.sender == sender) or runs
        if len(runs) > 1:
            runs = tuple(run for run in runs if run.started_at <= record.at <= run.ended_at)
        return LogTarget(runs[0], "") if len(runs) == 1 else _build_trace_key(trace_id)


def _join(target: LogTarget, path: str) -> LogTarget:
    """Return the nearest level that includes two levels of a run."""
    common = []
    for segment, other in zip(target.path.split("/"), path.split("/"), strict=False):
        if segment != other:
            break
        common.append(segment)
    return LogTarget(target.run, "/".join(common))


def _store(cache: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > limit:
        cache.popitem(last=False)


def _build_trace_key(trace_id: str) -> LogKey:
    return f"trace\0{trace_id}"


def _build_run_key(sender: str, run: str) -> LogKey:
    return f"run\0{sender}\0{run}"


def _build_operation_key(sender: str, operation_id: str) -> LogKey:
    return f"operation\0{sender}\0{operation_id}"
