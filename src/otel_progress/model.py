"""The records every part speaks: status, snapshot, event, operation. All immutable; times are seconds.

Two clocks run through them. *Wall* times are Unix seconds, for people. *Clock* times are seconds on the monotonic clock of
the process that works: durations and rates come only from those, so a step of the wall clock changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:  # at run time nothing here needs it, and every import of the package would pay for it
    from otel_progress.observations import ResourceUse

Number: TypeAlias = "int | float"
"""A count of work: bytes, files, seconds of video."""
MetadataValue: TypeAlias = "str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]"
"""What a metadata value becomes: the attribute types of OpenTelemetry."""

NO_METADATA: Final[Mapping[str, MetadataValue]] = MappingProxyType({})
"""The shared empty metadata."""


class Status(str, Enum):
    """Where a level is in its life; stored and sent by its value."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    if TYPE_CHECKING:  # at run time an attribute of each member, see below

        @property
        def finished(self) -> bool:
            """True when the level has ended, in whatever way."""

    def __str__(self) -> str:
        return self.value


for _status in Status:  # kept with each, not worked out: it is asked several times for every row of every tick
    _status.finished = _status not in (Status.PENDING, Status.RUNNING)  # type: ignore[misc]


class Condition(str, Enum):
    """How an active operation fares; derived by readers, never stored by the worker."""

    OK = "ok"
    STALLED = "stalled"
    ABANDONED = "abandoned"
    OVERDUE = "overdue"
    PAUSED = "paused"

    def __str__(self) -> str:
        return self.value


class Outcome(str, Enum):
    """How one unit of work ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a level or an item failed: the error's class name, its text, and details (a traceback) when there are any."""

    type: str
    message: str
    details: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that works. ``id`` is unique; ``start`` tells two processes with one pid apart (clock ticks, or None)."""

    id: str
    pid: int
    host: str
    service: str
    started_at: float
    start: int | None = None


EtaState: TypeAlias = 'Literal["estimated", "holding", "stalled", "unknown"]'
"""``estimated`` counts down; ``holding`` waits for an advance that is due; ``stalled`` knows "at least ``low_s``"; ``unknown`` nothing."""
EtaBasis: TypeAlias = 'Literal["history", "rate", "parallel", "durations", "expected", "none"]'
"""What an estimate mostly rests on: past runs' curves, this run's own rate, a simulation of the children that are left, past runs'
durations alone (the total is unknown), what an opaque step was said to take, or nothing."""


@dataclass(frozen=True, slots=True)
class Eta:
    """An estimate of the remaining time, made at ``clock`` (the worker's monotonic clock); all times in seconds.

    ``remaining_s`` is None while unknown and while stalled. ``low_s`` and ``high_s`` bound it at the asked confidence (0.8 unless told
    otherwise), None with fewer than three past runs; while stalled ``low_s`` alone says "at least". ``runs`` is the number of past runs it
    rests on. Without a further advance it and its bounds count down for ``counts_down_s`` (None: to 0), then hold; they are stalled
    ``stalls_after_s`` (None: never) after ``clock``: :meth:`at` says what it is at any later moment.
    """

    remaining_s: float | None
    low_s: float | None
    high_s: float | None
    state: EtaState
    basis: EtaBasis
    runs: int
    clock: float
    counts_down_s: float | None = None
    stalls_after_s: float | None = None

    def at(self, clock: float) -> Eta:
        """Return the estimate as it stands at ``clock`` when nothing advanced since: never negative, never sliding on for ever."""
        since = max(0.0, clock - self.clock)
        if since == 0.0:
            return self
        if self.remaining_s is None:
            return replace(self, clock=clock)
        limit = self.counts_down_s
        passed = since if limit is None else min(since, limit)
        remaining = max(0.0, self.remaining_s - passed)
        low = None if self.low_s is None else max(0.0, self.low_s - passed)
        if self.stalls_after_s is not None and since > self.stalls_after_s:
            least = remaining if low is None else low
            return replace(
                self,
                remaining_s=None,
                low_s=least,
                high_s=None,
                state="stalled",
                clock=clock,
                counts_down_s=0.0,
                stalls_after_s=0.0,
            )
        return replace(
            self,
            remaining_s=remaining,
            low_s=low,
            high_s=None if self.high_s is None else max(remaining, self.high_s - passed),
            state=self.state if limit is None or since <= limit else "holding",
            clock=clock,
            counts_down_s=None if limit is None else limit - passed,
            stalls_after_s=None if self.stalls_after_s is None else self.stalls_after_s - since,
        )


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """What stays the same from a level's start to its end.

    ``run`` is unique to one execution of an operation, so that the same operation id can be run again. ``path`` is
    ``type:id`` segments joined by ``/`` and empty for the operation itself. ``attempt`` counts entries of the same path.
    ``declared`` marks a stage that its parent announced up front. ``order`` numbers siblings as they were first seen. ``batch`` is the
    id of the batch an operation belongs to.
    """

    operation_id: str
    operation_type: str
    run: str
    path: str
    type: str
    id: str
    name: str
    unit: str | None
    weight: Number
    declared: bool
    attempt: int
    order: int
    started_at: float | None
    started_clock: float | None
    deadline_at: float | None
    trace_id: str | None
    span_id: str | None
    instance: str
    batch: str | None = None

    @property
    def depth(self) -> int:
        """Number of levels above this one; 0 for the operation."""
        return self.path.count("/") + 1 if self.path else 0

    @property
    def parent_path(self) -> str | None:
        """Path of the level above, None for the operation."""
        return self.path.rpartition("/")[0] if self.path else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable copy of a level at one sequence number.

    Counts are in units of work: ``current`` is all that is done, of which ``failed`` and ``skipped`` did not succeed.
    ``ratio`` is 0 to 1 and None while unknown; ``estimated`` says that it rests on an estimate, because an opaque step runs here or
    below. ``stage`` is the id of the running stage. ``advanced_clock`` is the last advance, estimated ones left out, and
    ``stall_after_s`` the time without one after which the level counts as stalled: the setting, or three times the longest gap known of (in
    this run, in its history, or an opaque step's expectation). ``duration_s`` is None until the end. Of operations only:
    ``paused_clock`` is since when the work is paused (None when it is not), ``paused_s`` the seconds of earlier pauses, ``previews`` the
    number of the last preview, and ``overdue_after_s`` the seconds (pauses excluded) that the first estimate with an interval allowed for
    the whole run, with a margin that ordinary runs rarely pass; None without one.
    """

    info: LevelInfo
    sequence: int
    status: Status
    current: Number
    total: Number | None
    ratio: float | None
    failed: int
    skipped: int
    message: str | None
    metadata: Mapping[str, MetadataValue]
    error: Failure | None
    stage: str | None
    eta: Eta | None
    observed_at: float
    observed_clock: float
    advanced_at: float | None
    advanced_clock: float | None
    stall_after_s: float
    ended_at: float | None
    duration_s: float | None
    estimated: bool = False
    paused_clock: float | None = None
    paused_s: float = 0.0
    previews: int = 0
    overdue_after_s: float | None = None

    @property
    def completed(self) -> Number:
        """Units that succeeded; never below 0, also where more failed than the level has units."""
        return max(0, self.current - self.failed - self.skipped)

    @property
    def path(self) -> str:
        """Place in the tree, empty for the operation."""
        return self.info.path

    def elapsed(self, clock: float) -> float:
        """Seconds from the start to ``clock`` (the worker's monotonic clock), or to the end once ended; 0 before the start."""
        if self.duration_s is not None:
            return self.duration_s
        started = self.info.started_clock
        return 0.0 if started is None else max(0.0, clock - started)

    def worked(self, clock: float) -> float:
        """Seconds of :meth:`elapsed` that were not paused."""
        paused = self.paused_s
        if self.paused_clock is not None and not self.status.finished:
            paused += max(0.0, clock - self.paused_clock)
        return max(0.0, self.elapsed(clock) - paused)


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

    root: Snapshot
    levels: Sequence[Snapshot]
    read_at: float
    clock: float
    instance: Instance | None = None
    alive: bool = True
    resources: ResourceUse | None = None
    cancel_requested_at: float | None = None
    _index: dict[str, Snapshot] = field(default_factory=dict, compare=False, repr=False)

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

    def eta_of(self, level: Snapshot) -> Eta | None:
        """Return the estimate of one of its levels as it stands at the moment of reading, as :attr:`eta` is the operation's."""
        if level.eta is None or level.status.finished or not self.alive:
            return None
        paused = self.root.paused_clock  # while nothing is meant to advance, the estimate waits
        return level.eta.at(self.clock if paused is None else min(self.clock, paused))

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

    def get_level(self, path: str) -> Snapshot | None:
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
    if late or (allowed is not None and root.worked(operation.clock) > allowed):
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
    def finished(self) -> int:
        """Operations that ended, in whatever way."""
        return sum(count for status, count in self.counts.items() if status.finished)

    @property
    def status(self) -> Status:
        """Running until the batch is over; then failed when any operation failed, else completed (cancelled when all were)."""
        if not self.over:
            return Status.RUNNING
        if self.counts[Status.FAILED]:
            return Status.FAILED
        return Status.CANCELLED if self.finished and self.counts[Status.CANCELLED] == self.finished else Status.COMPLETED

    @property
    def over(self) -> bool:
        """True when nothing runs and no more operations are expected: it was closed, or all of its total has ended."""
        running = self.counts[Status.RUNNING] + self.counts[Status.PENDING]
        return not running and (self.ended_at is not None or (self.total is not None and self.finished >= self.total > 0))

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the batch was declared, or how long it took."""
        return max(0.0, (self.read_at if self.ended_at is None else self.ended_at) - self.started_at)
