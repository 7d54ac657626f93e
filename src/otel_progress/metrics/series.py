"""From operations and batches to series: the one place that says which series there are, for the scrape and for OTLP alike.

A series exists while its operation or batch is active and for a retention after it ended, then it vanishes. What is unknown has no
series: never 0, never NaN. Caps bound how many there are, and what they leave out is counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from otel_progress import semconv
from otel_progress.metrics.counters import MAX_OPERATION_TYPES, Totals
from otel_progress.metrics.labels import OTHER, label_id, label_text
from otel_progress.metrics.sources import MetricSources
from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.previews.media import address_of
from otel_progress.protocols import BatchQuery, HistoryQuery
from otel_progress.semconv import Metric
from otel_progress.settings.defaults import DEFAULT_METRICS_RETENTION_S

if TYPE_CHECKING:
    from otel_progress.protocols import Reader


Row: TypeAlias = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its labels in their order, and a finite value."""


TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
"""A trace id in hexadecimal."""


_STATUSES: Final = tuple((status, status.value) for status in Status)


_CONDITIONS: Final = tuple((condition, condition.value) for condition in Condition)


_LARGEST_STEP_S: Final = 2 * 3600.0
"""Wall and monotonic time that differ by more than any step of a clock come from different boots of the machine."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds of what is shown.

    At most ``operations`` operations have series (running ones before ended ones, the newest first), and of each at most
    ``levels_per_operation`` levels down to ``depth`` (running ones first), ``levels`` in all; at most ``batches`` batches (those that
    are not over first). Ended operations and batches vanish ``retention_s`` seconds after their end.
    """

    operations: int = 1000
    levels_per_operation: int = 50
    depth: int = 2
    levels: int = 5000
    retention_s: float = DEFAULT_METRICS_RETENTION_S
    batches: int = 100


def read_rows(
    reader: Reader, caps: Caps, totals: Totals, around: MetricSources | None = None
) -> Iterator[Row]:
    """Read once and yield all gauges; what the caps leave out is counted in ``totals``. Raises what the reader raises."""
    around = around or MetricSources()
    yield from rows(read_operations(reader, caps), caps, totals, public_url=around.read_public_url())
    # Twice the cap is asked for, so that what it leaves out can be told without reading every batch there ever was.
    yield from batch_rows(
        reader.batches(BatchQuery(2 * caps.batches)) if caps.batches > 0 else (), caps, totals
    )
    yield from _finite_rows(iter([(semconv.JOURNAL_SIZE, (), around.read_journal_size())]))


def read_operations(reader: Reader, caps: Caps) -> list[OperationSnapshot]:
    """Return each run once: active ones, then those that ended within the retention, the newest first."""
    active = reader.active(levels=caps.levels_per_operation > 0 and caps.levels > 0)
    ended = [
        operation
        for operation in reader.history(HistoryQuery(limit=caps.operations))
        if _age(operation) <= caps.retention_s
    ]
    gone = {
        operation.run for operation in ended
    }  # a run that ended between the two questions is in both answers
    running = [operation for operation in active if operation.run not in gone]
    return [
        *sorted(running, key=lambda operation: operation.root.info.started_at or 0.0, reverse=True),
        *ended,
    ]


def rows(
    operations: Sequence[OperationSnapshot], caps: Caps, totals: Totals, *, public_url: str | None = None
) -> Iterator[Row]:
    """Yield the gauges of operations and levels; what the caps leave out is counted in ``totals``.

    Of two runs with one id the newer is shown: a series can exist only once. ``public_url`` is the base address of previews.
    """
    yield from _finite_rows(_counts(operations))
    seen: set[tuple[str, str]] = set()
    levels_left, dropped_levels = caps.levels, 0
    for operation in operations:
        labels = (label_id(operation.operation_id), label_id(operation.operation_type))
        if labels in seen:
            continue
        seen.add(labels)
        if len(seen) > caps.operations:
            continue
        yield from _finite_rows(_operation(labels, operation, public_url))
        shallow = [level for level in operation.levels if level.info.depth <= caps.depth]
        chosen = _choose(shallow, min(caps.levels_per_operation, levels_left))
        yield from _finite_rows(_levels(labels, chosen))
        levels_left -= len(chosen)
        dropped_levels += len(shallow) - len(chosen)
    totals.count_series_dropped("operation", len(seen) - caps.operations)
    totals.count_series_dropped("level", dropped_levels)
    yield from _shown("operation", min(len(seen), caps.operations), caps.operations)
    yield from _shown("level", caps.levels - levels_left, caps.levels)


def batch_rows(batches: Sequence[BatchSnapshot], caps: Caps, totals: Totals) -> Iterator[Row]:
    """Yield the gauges of batches, given in the order in which they are worth showing; those beyond the cap are counted."""
    seen: set[tuple[str, str]] = set()
    for batch in batches:
        if batch.ended_at is not None and batch.read_at - batch.ended_at > caps.retention_s:
            continue
        labels = (label_id(batch.id), label_id(batch.type))
        if labels in seen:
            continue
        seen.add(labels)
        if len(seen) <= caps.batches:
            yield from _finite_rows(_batch(labels, batch))
    totals.count_series_dropped("batch", len(seen) - caps.batches)
    yield from _shown("batch", min(len(seen), caps.batches), caps.batches)


def _shown(group: str, shown: int, limit: int) -> Iterator[Row]:
    """Yield how far a cap is used up: told before anything is dropped."""
    yield semconv.SERIES_SHOWN, (group,), float(shown)
    yield semconv.SERIES_LIMIT, (group,), float(limit)


def finite(value: float | None) -> float | None:
    """Return ``value`` as a float, None when there is none or no gauge may carry it (NaN, infinite, too large)."""
    if value is None:
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_RawRow: TypeAlias = tuple[Metric, tuple[str, ...], "float | None"]


def _finite_rows(rough: Iterator[_RawRow]) -> Iterator[Row]:
    for metric, labels, value in rough:
        if value is None:
            continue
        number = finite(value)
        if number is not None:
            yield metric, labels, number


def _counts(operations: Sequence[OperationSnapshot]) -> Iterator[_RawRow]:
    """Count all operations, also those beyond the cap, by type (the most frequent ones), status and condition."""
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


def _operation(
    labels: tuple[str, str], operation: OperationSnapshot, public_url: str | None
) -> Iterator[_RawRow]:
    root = operation.root
    info = root.info
    trace_id = info.trace_id if info.trace_id and TRACE_ID.fullmatch(info.trace_id) else ""
    preview = address_of(public_url, info.operation_id, root.previews)
    yield semconv.OPERATION_INFO, (*labels, label_text(info.name), trace_id, preview), 1
    for status, value in _STATUSES:
        yield semconv.OPERATION_STATUS, (*labels, value), status is root.status
    if not root.status.finished:
        found = operation.condition
        for condition, value in _CONDITIONS:
            yield semconv.OPERATION_CONDITION, (*labels, value), condition is found
    yield semconv.OPERATION_ESTIMATED, labels, root.estimated and not root.status.finished
    yield semconv.OPERATION_RATIO, labels, root.ratio
    yield semconv.OPERATION_CURRENT, labels, root.current
    yield semconv.OPERATION_TARGET, labels, root.total
    yield semconv.OPERATION_FAILED, labels, root.failed
    yield semconv.OPERATION_START, labels, info.started_at
    yield semconv.OPERATION_LAST_ADVANCE, labels, root.advanced_at
    yield semconv.OPERATION_DEADLINE, labels, info.deadline_at
    yield semconv.OPERATION_REMAINING, labels, operation.remaining_seconds
    yield from _expected_end(labels, operation)
    yield from _resources(labels, operation)


def _resources(labels: tuple[str, str], operation: OperationSnapshot) -> Iterator[_RawRow]:
    """Yield what the process of an operation uses now: nothing once the operation has ended or the process has gone."""
    if operation.resources is None or operation.status.finished or not operation.alive:
        return
    sample = operation.resources.last
    yield semconv.OPERATION_CPU, labels, sample.cpu_ratio
    yield semconv.OPERATION_MEMORY, labels, sample.memory_bytes
    yield semconv.OPERATION_GPU, labels, sample.gpu_ratio
    yield semconv.OPERATION_GPU_MEMORY, labels, sample.gpu_memory_bytes


def _batch(labels: tuple[str, str], batch: BatchSnapshot) -> Iterator[_RawRow]:
    yield semconv.BATCH_INFO, (*labels, label_text(batch.name)), 1
    yield semconv.BATCH_RATIO, labels, batch.ratio
    yield semconv.BATCH_TARGET, labels, batch.total
    for status, value in _STATUSES:
        yield semconv.BATCH_OPERATIONS, (*labels, value), batch.counts.get(status, 0)
    yield semconv.BATCH_REMAINING, labels, batch.remaining_s


def _expected_end(labels: tuple[str, str], operation: OperationSnapshot) -> Iterator[_RawRow]:
    """Yield the expected end and its bounds in Unix seconds: moments that stay put while the estimate does.

    While the work stalls or is paused, "so long from now" is a moment that slides on with the clock. Then there is no expected end
    and no upper bound, and the lower one stays where it was when the work last went on, until it has passed.
    """
    eta = operation.eta
    if eta is None:
        return
    since = _waiting_since(operation, eta)
    if since is None:
        yield semconv.OPERATION_EXPECTED_END, labels, _later(operation.read_at, eta.remaining_s)
        yield semconv.OPERATION_EXPECTED_END_LOWER, labels, _later(operation.read_at, eta.low_s)
        yield semconv.OPERATION_EXPECTED_END_UPPER, labels, _later(operation.read_at, eta.high_s)
        return
    lower = _later(operation.read_at - max(0.0, operation.clock - since), eta.low_s)
    if lower is not None and lower > operation.read_at:
        yield semconv.OPERATION_EXPECTED_END_LOWER, labels, lower


def _waiting_since(operation: OperationSnapshot, eta: Eta) -> float | None:
    """Return the moment (on the worker's clock) from which on nothing advances any more; None while work goes on."""
    root = operation.root
    if root.paused_clock is not None:
        return root.paused_clock
    if eta.state != "stalled" and operation.condition is not Condition.STALLED:
        return None
    return root.info.started_clock if root.advanced_clock is None else root.advanced_clock


def _later(moment: float, seconds: float | None) -> float | None:
    return None if seconds is None else moment + max(0.0, seconds)


def _choose(levels: list[LevelSnapshot], most: int) -> list[LevelSnapshot]:
    """Return at most ``most`` levels: running ones first, then those seen last."""
    if len(levels) <= most:
        return levels
    return sorted(levels, key=lambda level: (level.status is not Status.RUNNING, -level.observed_at))[
        : max(0, most)
    ]


def _levels(operation: tuple[str, str], levels: list[LevelSnapshot]) -> Iterator[_RawRow]:
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
