"""Immutable results of readers: operations with their levels, batches and events.

Times are in seconds, on the two clocks of :mod:`otel_progress.model`. Instrumentation does not
import this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from otel_progress.formats import (
    ENDED_EARLY,
    format_count,
    format_duration,
    format_percentage,
    format_rate,
    format_time_left,
)
from otel_progress.html import HtmlRow, render_table
from otel_progress.model import (
    NO_LEVELS,
    NO_METADATA,
    Eta,
    Failure,
    Instance,
    LevelCounts,
    LevelSnapshot,
    MetadataValue,
    Number,
    Outcome,
    Status,
)
from otel_progress.records import ResourceUse
from otel_progress.text import split_title


class Condition(str, Enum):
    """Condition of an operation. Readers derive it, and it is never stored.

    Only active operations have another one than ``ok`` and ``superseded``.
    """

    OK = "ok"
    STALLED = "stalled"
    ABANDONED = "abandoned"
    OVERDUE = "overdue"
    PAUSED = "paused"
    NOT_REPORTING = "not_reporting"
    SUPERSEDED = "superseded"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Event:
    """Stored event of a level: an item with its outcome.

    ``kind`` is the name of the event, such as ``progress.item``. ``number`` increases within a run.
    ``at`` is in Unix seconds. ``name``, ``outcome`` and ``error`` describe the item.
    """

    operation_id: str
    operation_type: str
    run: str
    path: str
    level_type: str
    kind: str
    number: int
    at: float
    name: str | None = None
    outcome: Outcome | None = None
    error: Failure | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=lambda: NO_METADATA)


@dataclass(frozen=True, slots=True)
class OverallProgress:
    """Summary of an operation. ``percentage`` (0 to 100) and ``total`` may be unknown."""

    percentage: float | None
    completed: Number
    failed: int
    total: Number | None


@dataclass(frozen=True, slots=True)
class OperationSnapshot:
    """Operation with its tree of levels at the time of reading.

    - ``root``: the operation itself.
    - ``levels``: the stored levels below it, parents before children.
    - ``read_at``: time of reading in Unix seconds.
    - ``clock``: time of reading on the monotonic clock of the operation's process.
    - ``alive``: False if the process sends no heartbeats any more.
    - ``resources``: resource use of the process.
    - ``cancel_requested_at``: time of the first cancel request in Unix seconds, or None.
    - ``not_reporting_since``: time of the last report in Unix seconds, if the process sends no
      heartbeats and has not reported for longer than usual. Else None.
    """

    root: LevelSnapshot
    levels: Sequence[LevelSnapshot]
    read_at: float
    clock: float
    instance: Instance | None = None
    alive: bool = True
    resources: ResourceUse | None = None
    cancel_requested_at: float | None = None
    not_reporting_since: float | None = None
    _index: dict[str, LevelSnapshot] = field(default_factory=dict, compare=False, repr=False)

    @property
    def operation_id(self) -> str:
        """The operation's id."""
        return self.root.info.operation_id

    @property
    def operation_type(self) -> str:
        """The operation's type."""
        return self.root.info.operation_type

    @property
    def run(self) -> str:
        """Unique id of this execution."""
        return self.root.info.run

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.root.info.name

    @property
    def status(self) -> Status:
        """The operation's status."""
        return self.root.status

    @property
    def ratio(self) -> float | None:
        """Fraction done (0 to 1), or None while it is unknown."""
        return self.root.ratio

    @property
    def message(self) -> str | None:
        """The operation's latest message."""
        return self.root.message

    @property
    def error(self) -> Failure | None:
        """Error that made the operation fail."""
        return self.root.error

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """Metadata of the operation."""
        return self.root.metadata

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start, or the duration of an ended operation."""
        return self.root.elapsed(self.clock)

    @property
    def eta(self) -> Eta | None:
        """Estimate at the time of reading.

        It is None while there is no estimate, during a pause, and for ended and abandoned
        operations.
        """
        return self.eta_of(self.root)

    def eta_of(self, level: LevelSnapshot) -> Eta | None:
        """Return the estimate of a level at the time of reading, like :attr:`eta`."""
        if level.eta is None or level.status.finished or not self.alive or self.is_paused:
            return None
        return level.eta.at(self.clock)

    def active_seconds_of(self, level: LevelSnapshot) -> float:
        """Return the active time of a level in seconds, on which its rate is based.

        It is the elapsed time without the current pause of the operation and without ``paused_s``.
        """
        paused = self.root.paused_clock
        return level.active_seconds(self.clock if paused is None else min(self.clock, paused))

    @property
    def is_paused(self) -> bool:
        """True while a pause interrupts the operation.

        Then it has neither a rate nor a remaining time, because its end depends on the pause.
        """
        return not self.status.finished and self.root.paused_clock is not None

    def rate_seconds_of(self, level: LevelSnapshot) -> float:
        """Return the active time of a level for its rate, in seconds.

        It is 0 during a pause, so there is no rate.
        """
        return 0.0 if self.is_paused and not level.status.finished else self.active_seconds_of(level)

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated seconds to the end at the time of reading.

        It is 0 for ended operations, and None if it is unknown, paused, stalled or abandoned.
        """
        if self.status.finished:
            return 0.0
        eta = self.eta
        return None if eta is None else eta.remaining_s

    @property
    def condition(self) -> Condition:
        """Condition at the time of reading.

        The first one that applies: superseded, abandoned, not reporting, overdue, paused, stalled,
        ok. An operation is superseded when another run has continued it.
        """
        return _derive_condition(self)

    @property
    def may_be_dead(self) -> bool:
        """True if the process is dead or silent.

        A silent process sends no heartbeats, and has not reported for long.
        """
        return not self.alive or self.not_reporting_since is not None

    def get_level(self, path: str) -> LevelSnapshot | None:
        """Return the level at ``path`` (``""`` is the operation), or None if not stored."""
        if not self._index:
            self._index.update((level.info.path, level) for level in (self.root, *self.levels))
        return self._index.get(path)

    def count_evicted_levels(self) -> Mapping[str, LevelCounts]:
        """Return the number of ended levels that are not in :attr:`levels`, by status.

        The key is the path of the level above, ``""`` for the operation. Levels without such
        levels directly below have no entry. The operation must have been read with its levels.
        """
        return _count_evicted_levels(self)

    def _repr_html_(self) -> str:
        """Return a table of the operation and its levels for a notebook."""
        return render_operations([self])

    def get_overall_progress(self) -> OverallProgress:
        """Return percentage, completed, failed and total of the operation."""
        root = self.root
        percentage = None if root.ratio is None else 100.0 * root.ratio
        return OverallProgress(percentage, root.completed, root.failed, root.total)


def _count_evicted_levels(operation: OperationSnapshot) -> dict[str, LevelCounts]:
    stored: dict[str, dict[str, int]] = {}
    for level in operation.levels:
        if level.status.finished:
            counts = stored.setdefault(level.info.parent_path or "", {})
            counts[level.status] = counts.get(level.status, 0) + 1
            if level.ended_early:
                counts["ended_early"] = counts.get("ended_early", 0) + 1
    evicted = {}
    for level in (operation.root, *operation.levels):
        if level.ended_levels == NO_LEVELS:
            continue
        counts = stored.get(level.path, {})
        # Why at least 0: a level may have ended after the snapshot of its parent.
        differences = LevelCounts(
            *(
                max(0, ended - counts.get(name, 0))
                for name, ended in zip(LevelCounts._fields, level.ended_levels, strict=True)
            )
        )
        if differences != NO_LEVELS:
            evicted[level.path] = differences
    return evicted


def _derive_condition(operation: OperationSnapshot) -> Condition:
    root = operation.root
    if root.superseded_by is not None:
        return Condition.SUPERSEDED
    if root.status is not Status.RUNNING:
        return Condition.OK
    if not operation.alive:
        return Condition.ABANDONED
    if operation.not_reporting_since is not None:
        return Condition.NOT_REPORTING
    deadline, started = root.info.deadline_at, root.info.started_at
    # Why elapsed time: a step of the wall clock must not make an operation overdue.
    is_late = deadline is not None and started is not None and operation.elapsed_seconds > deadline - started
    allowed = root.overdue_after_s
    if is_late or (allowed is not None and root.active_seconds(operation.clock) > allowed):
        return Condition.OVERDUE
    if root.paused_clock is not None:
        return Condition.PAUSED
    since = root.advanced_clock if root.advanced_clock is not None else root.info.started_clock
    if since is not None and operation.clock - since > root.stall_after_s:
        return Condition.STALLED
    return Condition.OK


@dataclass(frozen=True, slots=True)
class BatchSnapshot:
    """Group of operations at the time of reading (``read_at`` in Unix seconds).

    - ``counts``: number of operations by status, with an entry for every status.
    - ``ratio``: finished operations plus the ratios of running ones, per ``total``. None while
      the total is unknown.
    - ``throughput``: operations that recently ended per second.
    - ``remaining_s``: time for the remaining operations at that throughput.
    - ``active``: at most 100 active operations without levels, newest first.
    - ``failed``: at most 100 failed operations without levels, newest first.
    - ``abandoned``: number of running operations whose process has exited. ``counts`` includes them
      as running, but the batch does not wait for them.
    """

    id: str
    name: str
    type: str
    total: int | None
    started_at: float
    ended_at: float | None
    read_at: float
    counts: Mapping[Status, int]
    ratio: float | None
    throughput: float | None
    remaining_s: float | None
    active: Sequence[OperationSnapshot]
    failed: Sequence[OperationSnapshot]
    abandoned: int = 0

    @property
    def finished_count(self) -> int:
        """Number of ended operations with any status."""
        return sum(count for status, count in self.counts.items() if status.finished)

    @property
    def status(self) -> Status:
        """Status of the batch: running until it is finished.

        A finished batch is failed if any operation failed or was abandoned, cancelled if all were
        cancelled, and otherwise completed.
        """
        if not self.is_finished:
            return Status.RUNNING
        if self.counts[Status.FAILED] or self.abandoned:
            return Status.FAILED
        is_cancelled = self.finished_count and self.counts[Status.CANCELLED] == self.finished_count
        return Status.CANCELLED if is_cancelled else Status.COMPLETED

    @property
    def is_finished(self) -> bool:
        """True if no operation is active and no more are expected.

        None is expected if the batch was closed or all operations of its total have ended.
        Abandoned operations are not active any more.
        """
        running = self.counts[Status.RUNNING] + self.counts[Status.PENDING] - self.abandoned
        ended = self.finished_count + self.abandoned
        return running <= 0 and (
            self.ended_at is not None or (self.total is not None and ended >= self.total > 0)
        )

    def _repr_html_(self) -> str:
        """Return a table of the batch and its active and failed operations for a notebook."""
        return render_batch_table(self)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the batch was declared, or its duration once it has ended."""
        return max(0.0, (self.read_at if self.ended_at is None else self.ended_at) - self.started_at)


# --- tables for notebooks ------------------------------------------------------------------------

MAX_HTML_OPERATIONS: Final = 50
"""Operations of a table. The others are counted."""


MAX_HTML_LEVELS: Final = 20
"""Levels below an operation in a table: running and failed ones. The others are counted."""


class OperationList(list[OperationSnapshot]):
    """List of operations that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return render_operations(self)


def render_operations(
    operations: Sequence[OperationSnapshot], batches: Sequence[BatchSnapshot] = (), *, omitted: int = 0
) -> str:
    """Return batches, then operations with their levels, as an HTML table.

    Only running and failed levels are included.

    ``omitted`` is the number of further operations, which are only counted.
    """
    shown = operations[:MAX_HTML_OPERATIONS]
    rows = [_build_batch_row(batch) for batch in batches]
    rows.extend(row for operation in shown for row in _build_html_rows(operation))
    omitted += len(operations) - len(shown)
    return render_table(rows, f"{omitted} more operations" if omitted else "" if rows else "No operations")


def render_batch_table(batch: BatchSnapshot) -> str:
    """Return a batch with its active and failed operations as an HTML table."""
    shown = [*batch.active, *batch.failed][:MAX_HTML_LEVELS]
    more = len(batch.active) + len(batch.failed) - len(shown)
    rows = [replace(row, indent=row.indent + 1) for each in shown for row in _build_html_rows(each)]
    return render_table([_build_batch_row(batch), *rows], f"{more} more operations" if more > 0 else "")


def _build_batch_row(batch: BatchSnapshot) -> HtmlRow:
    throughput, remaining = batch.throughput, batch.remaining_s
    left = "" if remaining is None else f", {format_duration(remaining)} left"
    return HtmlRow(
        name=batch.name,
        kind=batch.type or "batch",
        status=batch.status.value,
        ratio=batch.ratio,
        percentage=format_percentage(batch.ratio),
        count=format_count(batch.finished_count, batch.total, "operation"),
        # Why an hour: a shorter time rounds low rates to nothing.
        rate="" if throughput is None else format_rate(throughput * 3600.0, 3600.0, "operation"),
        time=format_duration(batch.elapsed_seconds) + left,
        note=f"{batch.abandoned} abandoned" if batch.abandoned else "",
        message=", ".join(f"{count} {status.value}" for status, count in batch.counts.items() if count),
    )


def _build_html_rows(operation: OperationSnapshot) -> list[HtmlRow]:
    """Return rows of an operation, its running levels and its last failed ones."""
    running = [level for level in operation.levels if level.status is Status.RUNNING]
    failed = [level for level in operation.levels if level.status is Status.FAILED]
    failed = failed[-max(0, MAX_HTML_LEVELS - len(running)) :] if len(running) < MAX_HTML_LEVELS else []
    shown = [*running[:MAX_HTML_LEVELS], *failed]
    rows = [_build_html_row(operation, operation.root)]
    rows.extend(
        _build_html_row(operation, level)
        for level in sorted(shown, key=lambda level: (level.info.path.split("/"), level.info.order))
    )
    return rows


def _build_html_row(operation: OperationSnapshot, level: LevelSnapshot) -> HtmlRow:
    kind, name = split_title(level.info.type, level.info.name)
    is_root = not level.info.path
    has_count = level.current > 0 or level.total is not None
    unit, plural = level.info.unit, level.info.unit_plural
    time = format_duration(level.elapsed(operation.clock))
    time_left = format_time_left(operation.eta_of(level), bounds=False)
    return HtmlRow(
        name=name,
        kind=kind,
        status=level.status.value,
        ratio=level.ratio,
        percentage=format_percentage(level.ratio, estimated=level.estimated),
        count=format_count(level.current, level.total, unit, plural) if has_count else "",
        rate=format_rate(level.done_this_session, operation.rate_seconds_of(level), unit),
        time=f"{time}, {time_left}" if time_left else time,
        note=", ".join(_list_notes(operation if is_root else None, level)),
        message=_format_reason(level),
        indent=level.info.depth,
    )


def _list_notes(operation: OperationSnapshot | None, level: LevelSnapshot) -> list[str]:
    notes = [f"{level.failed} failed"] if level.failed else []
    if level.ended_early:
        notes.append(ENDED_EARLY)
    if level.info.attempt > 1:
        notes.append(f"attempt {level.info.attempt}")
    if operation is not None and operation.condition is not Condition.OK:
        notes.append(operation.condition.value.replace("_", " "))
    if operation is not None and operation.cancel_requested_at is not None and not level.status.finished:
        notes.append("cancelling")
    return notes


def _format_reason(level: LevelSnapshot) -> str:
    """Return the error of a failed level, otherwise its message."""
    if level.status is not Status.FAILED or level.error is None:
        return level.message or ""
    first_line = level.error.message.strip().partition("\n")[0]
    return f"{level.error.type}: {first_line}" if first_line else level.error.type
