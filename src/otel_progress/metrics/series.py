"""Series of operations and batches, for the Prometheus scrape and for OTLP.

A series exists while its operation or batch is active, and for a retention period after its end.
An unknown value has no series. It is never 0 and never NaN. Caps limit the number of series, and
what they drop is counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from otel_progress import semconv
from otel_progress.metrics.counters import MAX_OPERATION_TYPES, Totals
from otel_progress.metrics.labels import OTHER, label_id, label_text
from otel_progress.metrics.sources import MetricSources
from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.previews.media import build_preview_url
from otel_progress.protocols import BatchQuery, HistoryQuery
from otel_progress.semconv import Metric
from otel_progress.settings.defaults import DEFAULT_METRICS_RETENTION_S

Row: TypeAlias = tuple[Metric, tuple[str, ...], float]
"""Metric, label values in the order of the labels, and a finite value."""


TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
"""Trace id in hexadecimal."""


_STATUSES: Final = tuple((status, status.value) for status in Status)


_CONDITIONS: Final = tuple(
    (condition, condition.value) for condition in Condition if condition is not Condition.SUPERSEDED
)
"""Conditions with a series per active operation. A superseded one has an additional series. Why not
always: such an operation is active only in a process that was frozen.
"""


_MAX_CLOCK_STEP_S: Final = 2 * 3600.0
"""Maximum difference of wall and monotonic time, in seconds. Beyond it the machine rebooted."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of the number of series.

    Running operations and levels come before finished ones. Batches that are not finished come
    first. ``depth`` is that of the deepest levels with series. ``levels`` limits the levels of all
    operations. Finished operations and batches are dropped ``retention_s`` seconds after their end.
    """

    operations: int = 1000
    levels_per_operation: int = 50
    depth: int = 2
    levels: int = 5000
    retention_s: float = DEFAULT_METRICS_RETENTION_S
    batches: int = 100


class SeriesReader(Protocol):
    """The part of a Reader that metrics use."""

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended."""

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches."""


def read_rows(
    reader: SeriesReader, caps: Caps, totals: Totals, sources: MetricSources | None = None
) -> Iterator[Row]:
    """Read once and yield all gauges.

    ``totals`` counts what the caps drop. Raises the exceptions of the reader.
    """
    sources = sources or MetricSources()
    operations = read_operations(reader, caps)
    yield from operation_rows(operations, caps, totals, public_url=sources.read_public_url())
    # Why twice the cap: dropped batches are counted without reading all batches.
    yield from batch_rows(
        reader.batches(BatchQuery(2 * caps.batches)) if caps.batches > 0 else (), caps, totals
    )
    yield from _finite_rows(iter([(semconv.JOURNAL_SIZE, (), sources.read_journal_size())]))


def read_operations(reader: SeriesReader, caps: Caps) -> list[OperationSnapshot]:
    """Return each run once: active runs, then runs finished within the retention.

    Both are sorted by time, newest first.
    """
    active = reader.active(levels=caps.levels_per_operation > 0 and caps.levels > 0)
    ended = [
        operation
        for operation in reader.history(HistoryQuery(limit=caps.operations))
        if _seconds_since_end(operation) <= caps.retention_s
    ]
    # Why: a run that ends between the two queries is in both results.
    ended_runs = {operation.run for operation in ended}
    running = [operation for operation in active if operation.run not in ended_runs]
    return [
        *sorted(running, key=lambda operation: operation.root.info.started_at or 0.0, reverse=True),
        *ended,
    ]


def operation_rows(
    operations: Sequence[OperationSnapshot], caps: Caps, totals: Totals, *, public_url: str | None = None
) -> Iterator[Row]:
    """Yield the gauges of operations and levels. ``totals`` counts what the caps drop.

    Of two runs with the same id, only the first is exported, because a series exists once.
    ``public_url`` is the base URL of previews.
    """
    yield from _finite_rows(_count_rows(operations))
    seen: set[tuple[str, str]] = set()
    levels_left, dropped_levels = caps.levels, 0
    for operation in operations:
        labels = (label_id(operation.operation_id), label_id(operation.operation_type))
        if labels in seen:
            continue
        seen.add(labels)
        if len(seen) > caps.operations:
            continue
        yield from _finite_rows(_operation_rows(labels, operation, public_url))
        shallow = [level for level in operation.levels if level.info.depth <= caps.depth]
        selected = _select_levels(shallow, min(caps.levels_per_operation, levels_left))
        yield from _finite_rows(_level_rows(labels, selected))
        levels_left -= len(selected)
        dropped_levels += len(shallow) - len(selected)
    totals.count_series_dropped("operation", len(seen) - caps.operations)
    totals.count_series_dropped("level", dropped_levels)
    yield from _cap_rows("operation", min(len(seen), caps.operations), caps.operations)
    yield from _cap_rows("level", caps.levels - levels_left, caps.levels)


def batch_rows(batches: Sequence[BatchSnapshot], caps: Caps, totals: Totals) -> Iterator[Row]:
    """Yield the gauges of batches in the given order.

    ``totals`` counts the batches beyond the cap.
    """
    seen: set[tuple[str, str]] = set()
    for batch in batches:
        if batch.ended_at is not None and batch.read_at - batch.ended_at > caps.retention_s:
            continue
        labels = (label_id(batch.id), label_id(batch.type))
        if labels in seen:
            continue
        seen.add(labels)
        if len(seen) <= caps.batches:
            yield from _finite_rows(_batch_rows(labels, batch))
    totals.count_series_dropped("batch", len(seen) - caps.batches)
    yield from _cap_rows("batch", min(len(seen), caps.batches), caps.batches)


def _cap_rows(group: str, used: int, limit: int) -> Iterator[Row]:
    """Yield the use of a cap, which is visible before anything is dropped."""
    yield semconv.SERIES_SHOWN, (group,), float(used)
    yield semconv.SERIES_LIMIT, (group,), float(limit)


def to_finite_float(value: float | None) -> float | None:
    """Return ``value`` as a finite float.

    Return None for None, NaN, infinity and integers that are too large.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_RawRow: TypeAlias = tuple[Metric, tuple[str, ...], "float | None"]


def _finite_rows(raw_rows: Iterator[_RawRow]) -> Iterator[Row]:
    for metric, labels, value in raw_rows:
        if value is None:
            continue
        number = to_finite_float(value)
        if number is not None:
            yield metric, labels, number


def _count_rows(operations: Sequence[OperationSnapshot]) -> Iterator[_RawRow]:
    """Yield counts of all operations by type, status and condition.

    They include operations beyond the cap. Only the most frequent types have a label of their own.
    """
    types = Counter(label_id(operation.operation_type) for operation in operations)
    frequent = {
        name for name, _ in sorted(types.items(), key=lambda item: (-item[1], item[0]))[:MAX_OPERATION_TYPES]
    }
    counts: Counter[tuple[str, ...]] = Counter()
    for operation in operations:
        name = label_id(operation.operation_type)
        counts[name if name in frequent else OTHER, operation.status.value, operation.condition.value] += 1
    for labels, count in counts.items():
        yield semconv.OPERATIONS, labels, count


def _operation_rows(
    labels: tuple[str, str], operation: OperationSnapshot, public_url: str | None
) -> Iterator[_RawRow]:
    root = operation.root
    info = root.info
    trace_id = info.trace_id if info.trace_id and TRACE_ID.fullmatch(info.trace_id) else ""
    preview = build_preview_url(public_url, info.operation_id, root.previews)
    yield semconv.OPERATION_INFO, (*labels, label_text(info.name), trace_id, preview), 1
    for status, value in _STATUSES:
        yield semconv.OPERATION_STATUS, (*labels, value), status is root.status
    if not root.status.finished:
        current = operation.condition
        for condition, value in _CONDITIONS:
            yield semconv.OPERATION_CONDITION, (*labels, value), condition is current
        if current is Condition.SUPERSEDED:
            yield semconv.OPERATION_CONDITION, (*labels, current.value), True
    yield semconv.OPERATION_ESTIMATED, labels, root.estimated and not root.status.finished
    yield semconv.OPERATION_ENDED_EARLY, labels, root.ended_early
    yield semconv.OPERATION_RATIO, labels, root.ratio
    yield semconv.OPERATION_CURRENT, labels, root.current
    yield semconv.OPERATION_TARGET, labels, root.total
    yield semconv.OPERATION_FAILED, labels, root.failed
    yield semconv.OPERATION_START, labels, info.started_at
    yield semconv.OPERATION_LAST_ADVANCE, labels, root.advanced_at
    yield semconv.OPERATION_NOT_REPORTING, labels, operation.not_reporting_since
    yield semconv.OPERATION_DEADLINE, labels, info.deadline_at
    yield semconv.OPERATION_REMAINING, labels, operation.remaining_seconds
    yield from _expected_end_rows(labels, operation)
    yield from _resource_rows(labels, operation)


def _resource_rows(labels: tuple[str, str], operation: OperationSnapshot) -> Iterator[_RawRow]:
    """Yield the resource usage of the operation's process, while both are alive."""
    if operation.resources is None or operation.status.finished or not operation.alive:
        return
    sample = operation.resources.last
    yield semconv.OPERATION_CPU, labels, sample.cpu_ratio
    yield semconv.OPERATION_MEMORY, labels, sample.memory_bytes
    yield semconv.OPERATION_GPU, labels, sample.gpu_ratio
    yield semconv.OPERATION_GPU_MEMORY, labels, sample.gpu_memory_bytes


def _batch_rows(labels: tuple[str, str], batch: BatchSnapshot) -> Iterator[_RawRow]:
    yield semconv.BATCH_INFO, (*labels, label_text(batch.name)), 1
    yield semconv.BATCH_RATIO, labels, batch.ratio
    yield semconv.BATCH_TARGET, labels, batch.total
    for status, value in _STATUSES:
        yield semconv.BATCH_OPERATIONS, (*labels, value), batch.counts.get(status, 0)
    yield semconv.BATCH_REMAINING, labels, batch.remaining_s


def _expected_end_rows(labels: tuple[str, str], operation: OperationSnapshot) -> Iterator[_RawRow]:
    """Yield the expected end and its bounds in Unix seconds.

    They are constant between estimates. While the work stalls, a time relative to now would move
    with the clock. Then there is no expected end and no upper bound. The lower bound keeps its
    value until that time has passed. A paused operation has no expected end and no bounds.
    """
    eta = operation.eta
    if eta is None:
        return
    since = _waiting_since(operation, eta)
    if since is None:
        yield semconv.OPERATION_EXPECTED_END, labels, _add_seconds(operation.read_at, eta.remaining_s)
        yield semconv.OPERATION_EXPECTED_END_LOWER, labels, _add_seconds(operation.read_at, eta.low_s)
        yield semconv.OPERATION_EXPECTED_END_UPPER, labels, _add_seconds(operation.read_at, eta.high_s)
        return
    lower = _add_seconds(operation.read_at - max(0.0, operation.clock - since), eta.low_s)
    if lower is not None and lower > operation.read_at:
        yield semconv.OPERATION_EXPECTED_END_LOWER, labels, lower


def _waiting_since(operation: OperationSnapshot, eta: Eta) -> float | None:
    """Return the time since which the work waits, or None while it advances.

    The time is that of the worker's monotonic clock.
    """
    root = operation.root
    if eta.state != "stalled" and operation.condition is not Condition.STALLED:
        return None
    return root.info.started_clock if root.advanced_clock is None else root.advanced_clock


def _add_seconds(moment: float, seconds: float | None) -> float | None:
    return None if seconds is None else moment + max(0.0, seconds)


def _select_levels(levels: list[LevelSnapshot], limit: int) -> list[LevelSnapshot]:
    """Return at most ``limit`` levels: running levels first, then those observed last."""
    if len(levels) <= limit:
        return levels
    ordered = sorted(levels, key=lambda level: (level.status is not Status.RUNNING, -level.observed_at))
    return ordered[: max(0, limit)]


def _level_rows(operation: tuple[str, str], levels: list[LevelSnapshot]) -> Iterator[_RawRow]:
    seen: set[str] = set()
    for level in levels:
        path = label_id(level.path)
        if path in seen:
            continue
        seen.add(path)
        labels = (*operation, path)
        yield semconv.LEVEL_RATIO, labels, level.ratio
        yield semconv.LEVEL_CURRENT, labels, level.current
        yield semconv.LEVEL_TARGET, labels, level.total
        yield semconv.LEVEL_STATUS, (*labels, level.status.value), 1
        if level.estimated and not level.status.finished:
            yield semconv.LEVEL_ESTIMATED, labels, 1


def _seconds_since_end(operation: OperationSnapshot) -> float:
    """Return the seconds since an operation ended. Infinite while it is running.

    The worker's monotonic clock is preferred, because the wall clock can be set. After a reboot it
    is not comparable, and the wall clock is used.
    """
    root = operation.root
    if root.ended_at is None:
        return math.inf
    by_wall = operation.read_at - root.ended_at
    if root.info.started_clock is None or root.duration_s is None:
        return by_wall
    by_clock = operation.clock - root.info.started_clock - root.duration_s
    return by_clock if by_clock >= 0.0 and abs(by_wall - by_clock) <= _MAX_CLOCK_STEP_S else by_wall
