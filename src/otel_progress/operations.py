"""What readers answer: an operation with its levels and how it fares, a batch of them, and what happened. All immutable.

Times are seconds, on the two clocks of :mod:`otel_progress.model`. Instrumenting needs none of this, so it is not imported for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from otel_progress.model import (
    NO_METADATA,
    Eta,
    Failure,
    Instance,
    LevelSnapshot,
    MetadataValue,
    Number,
    Outcome,
    Status,
)
from otel_progress.records import ResourceUse


class Condition(str, Enum):
    """How an active operation fares; derived by readers, never stored by the worker."""

    OK = "ok"
    STALLED = "stalled"
    ABANDONED = "abandoned"
    OVERDUE = "overdue"
    PAUSED = "paused"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a level, kept: an item that ended, a start, an end.

    ``kind`` is an event name of semconv; ``number`` orders the events of a run; ``name``, ``outcome`` and ``error`` describe items.
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
    """An operation in four figures; ``percentage`` (0 to 100) and ``total`` are None while unknown."""

    percentage: float | None
    completed: Number
    failed: int
    total: Number | None


@dataclass(frozen=True, slots=True)
class OperationSnapshot:
    """An operation with its tree of levels, as a reader saw it at one moment.

    ``root`` is the operation itself; ``levels`` the levels kept below it, parents before children. ``clock`` is the moment of
    reading on the worker's monotonic clock, ``read_at`` in Unix seconds. ``alive`` is False when the process that
    works no longer gives signs of life. ``resources`` is what its process uses. ``cancel_requested_at`` (Unix seconds) is when
    somebody asked for it to stop.
    """

    root: LevelSnapshot
    levels: Sequence[LevelSnapshot]
    read_at: float
    clock: float
    instance: Instance | None = None
    alive: bool = True
    resources: ResourceUse | None = None
    cancel_requested_at: float | None = None
    _index: dict[str, LevelSnapshot] = field(default_factory=dict, compare=False, repr=False)

    @property
    def operation_id(self) -> str:
        """The operation's id."""
        return self.root.info.operation_id

    @property
    def operation_type(self) -> str:
        """The kind of operation."""
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
        """Fraction done, 0 to 1; None while unknown."""
        return self.root.ratio

    @property
    def message(self) -> str | None:
        """The operation's latest message."""
        return self.root.message

    @property
    def error(self) -> Failure | None:
        """Why the operation failed."""
        return self.root.error

    @property
    def metadata(self) -> Mapping[str, MetadataValue]:
        """The caller's metadata."""
        return self.root.metadata

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start, or the duration once ended."""
        return self.root.elapsed(self.clock)

    @property
    def eta(self) -> Eta | None:
        """The estimate as it stands at the moment of reading; None while there is none, once ended, and when abandoned."""
        return self.eta_of(self.root)

    def eta_of(self, level: LevelSnapshot) -> Eta | None:
        """Return the estimate of one of its levels as it stands at the moment of reading, as :attr:`eta` is the operation's."""
        if level.eta is None or level.status.finished or not self.alive:
            return None
        paused = self.root.paused_clock  # while nothing is meant to advance, the estimate waits
        return level.eta.at(self.clock if paused is None else min(self.clock, paused))

    def active_seconds_of(self, level: LevelSnapshot) -> float:
        """Return the seconds one of its levels (:attr:`root` is one) has worked by the moment of reading: what a pace is over.

        That is its elapsed time without pauses: the one that is on, which is the operation's, and the level's ``paused_s``.
        """
        paused = self.root.paused_clock
        return level.active_seconds(self.clock if paused is None else min(self.clock, paused))

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated seconds to the end as of the moment of reading; 0 once ended, None while unknown, stalled or abandoned."""
        if self.status.finished:
            return 0.0
        eta = self.eta
        return None if eta is None else eta.remaining_s

    @property
    def condition(self) -> Condition:
        """How the operation fares now: abandoned before overdue before paused before stalled before ok."""
        return _condition(self)

    def get_level(self, path: str) -> LevelSnapshot | None:
        """Return the level at ``path`` (``""`` is the operation), or None when there is none or it is no longer kept."""
        if not self._index:
            self._index.update((level.info.path, level) for level in (self.root, *self.levels))
        return self._index.get(path)

    def get_overall_progress(self) -> OverallProgress:
        """Return the operation in four figures: percentage, completed, failed, total."""
        root = self.root
        percentage = None if root.ratio is None else 100.0 * root.ratio
        return OverallProgress(percentage, root.completed, root.failed, root.total)


def _condition(operation: OperationSnapshot) -> Condition:
    root = operation.root
    if root.status is not Status.RUNNING:
        return Condition.OK
    if not operation.alive:
        return Condition.ABANDONED
    deadline, started = root.info.deadline_at, root.info.started_at
    # Measured as elapsed time against the time allowed: a step of the wall clock makes nothing late.
    late = deadline is not None and started is not None and operation.elapsed_seconds > deadline - started
    allowed = root.overdue_after_s
    if late or (allowed is not None and root.active_seconds(operation.clock) > allowed):
        return Condition.OVERDUE
    if root.paused_clock is not None:
        return Condition.PAUSED
    since = root.advanced_clock if root.advanced_clock is not None else root.info.started_clock
    if since is not None and operation.clock - since > root.stall_after_s:
        return Condition.STALLED
    return Condition.OK


@dataclass(frozen=True, slots=True)
class BatchSnapshot:
    """Many operations as one, as a reader saw them at ``read_at`` (Unix seconds).

    ``counts`` has every status. ``ratio`` is finished operations plus the ratios of running ones over ``total``; None while the total is
    unknown. ``throughput`` is operations ended a second, of late; ``remaining_s`` what is left at that pace. ``active`` and ``failed``
    are operations without their levels, the newest first, at most 100 each.
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

    @property
    def finished_count(self) -> int:
        """Operations that ended, in whatever way."""
        return sum(count for status, count in self.counts.items() if status.finished)

    @property
    def status(self) -> Status:
        """Running until the batch is over; then failed when any operation failed, else completed (cancelled when all were)."""
        if not self.is_finished:
            return Status.RUNNING
        if self.counts[Status.FAILED]:
            return Status.FAILED
        return (
            Status.CANCELLED
            if self.finished_count and self.counts[Status.CANCELLED] == self.finished_count
            else Status.COMPLETED
        )

    @property
    def is_finished(self) -> bool:
        """True when nothing runs and no more operations are expected: it was closed, or all of its total has ended."""
        running = self.counts[Status.RUNNING] + self.counts[Status.PENDING]
        return not running and (
            self.ended_at is not None or (self.total is not None and self.finished_count >= self.total > 0)
        )

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the batch was declared, or how long it took."""
        return max(0.0, (self.read_at if self.ended_at is None else self.ended_at) - self.started_at)
