"""Immutable records that all packages share: status, level, snapshot, estimate.

Times are seconds.

*Wall* times are Unix seconds, for display. *Clock* times are seconds on the monotonic clock of the
instrumented process. Durations and rates are computed from clock times only. A step of the wall
clock therefore does not change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

Number: TypeAlias = int | float
"""Amount of work in any unit: bytes, files, seconds of video."""


MetadataValue: TypeAlias = (
    str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]
)
"""Types of metadata values: the attribute types of OpenTelemetry."""


_ROUNDING: Final = 1e-9
"""Fraction of a total up to which a difference is a rounding error."""


NO_METADATA: Final[Mapping[str, MetadataValue]] = MappingProxyType({})
"""Shared empty metadata."""


class Status(str, Enum):
    """Status of a level. Journals and documents contain its value."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    if TYPE_CHECKING:

        @property
        def finished(self) -> bool:
            """True when the level has ended, with any status."""

    def __str__(self) -> str:
        return self.value


# Why: an attribute is faster than a property, and every row of every tick reads it several times.
for _status in Status:
    _status.finished = _status not in (Status.PENDING, Status.RUNNING)  # type: ignore[misc]


class Outcome(str, Enum):
    """Outcome of one unit of work."""

    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


class LevelCounts(NamedTuple):
    """Number of ended levels by status.

    ``ended_early`` are those of ``completed`` that completed below their total.
    """

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    ended_early: int = 0

    @property
    def total(self) -> int:
        """Number of levels with any of these statuses."""
        return self.completed + self.failed + self.cancelled + self.skipped


NO_LEVELS: Final = LevelCounts()
"""Counts of a level without ended levels below it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Error of a level or an item: class name, text and optional details."""

    type: str
    message: str
    details: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One instrumented process. ``id`` is unique.

    ``start`` distinguishes two processes with the same pid (clock ticks, or None).
    """

    id: str
    pid: int
    host: str
    service: str
    started_at: float
    start: int | None = None


EtaState: TypeAlias = Literal["estimated", "holding", "stalled", "unknown"]
"""State of an estimate. ``estimated`` counts down. ``holding`` waits for an advance that is due.
``stalled`` has only a lower bound, ``low_s``. ``unknown`` has no figures.
"""


EtaBasis: TypeAlias = Literal["history", "rate", "parallel", "durations", "expected", "none"]
"""Main input of an estimate. ``history`` are curves of past runs, ``rate`` the rate of this run,
``parallel`` a simulation of the remaining children, ``durations`` the durations of past runs (the
total is unknown), ``expected`` the declared duration of an opaque step, ``none`` no input.
"""


@dataclass(frozen=True, slots=True)
class Eta:
    """Estimate of the remaining time at ``clock``, in seconds.

    ``remaining_s`` is None while unknown and while stalled. ``low_s`` and ``high_s`` bound it at
    the configured confidence (default 0.8). They are None with fewer than three past runs. While
    stalled, only ``low_s`` is set. ``runs`` is the number of past runs used. Without a further
    advance the estimate counts down for ``counts_down_s`` (None: to 0), then holds. It is stalled
    ``stalls_after_s`` (None: never) after ``clock``. :meth:`at` returns it at a later time.
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
        """Return the estimate at ``clock`` without a further advance.

        It is never negative.
        """
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
            lower_bound = remaining if low is None else low
            return replace(
                self,
                remaining_s=None,
                low_s=lower_bound,
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


def is_below_total(current: Number, total: Number) -> bool:
    """Return True when ``current`` is below ``total`` by more than rounding errors."""
    return current < total and not (type(current) is float and total - current <= _ROUNDING * total)


def adjust_ratio(status: Status, current: Number, total: Number | None, ratio: float | None) -> float | None:
    """Return the ratio of a stored level.

    Older versions stored the ratio 1 for a level that ended early.
    """
    if ratio != 1.0 or status is not Status.COMPLETED or not total or total < 0:
        return ratio
    return max(0.0, current / total) if is_below_total(current, total) else ratio


class ParentLink(NamedTuple):
    """Level of another process that an operation is part of.

    ``path`` is the path of the level, empty for its operation.
    """

    operation_id: str
    run: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """Properties of a level that do not change from its start to its end.

    ``run`` is unique per execution of an operation: the same operation id can run again. ``path``
    are ``type:id`` segments joined by ``/``, empty for the operation itself. ``attempt`` counts the
    starts of the same path. ``declared`` marks a stage that its parent declared in advance.
    ``order`` numbers siblings in the order of their first start. ``batch`` is the batch id of an
    operation. ``unit_plural`` is the unit for counts other than 1, None without a unit and in
    documents of older versions. ``parent`` is the level of another process that an operation is
    part of. ``is_id_given`` is True if the caller chose the id of an operation that resumes no
    other run. It is known only in the process of the operation, and is not stored.
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
    unit_plural: str | None = None
    parent: ParentLink | None = None
    is_id_given: bool = field(default=False, compare=False, repr=False)

    @property
    def depth(self) -> int:
        """Number of levels above this one, 0 for the operation."""
        return self.path.count("/") + 1 if self.path else 0

    @property
    def parent_path(self) -> str | None:
        """Path of the level above, None for the operation."""
        return self.path.rpartition("/")[0] if self.path else None


@dataclass(frozen=True, slots=True)
class LevelSnapshot:
    """Immutable copy of a level at one sequence number.

    Fields that end in ``_at`` are in Unix seconds. Those that end in ``_clock`` are in seconds of
    the process's monotonic clock. Fields that end in ``_s`` are durations in seconds.

    Counts are in units of work. ``current`` is all finished work, which includes failed and skipped
    units. ``failed`` also includes the failures of all levels below, each once. ``failed_below`` is
    the part of ``failed`` that is not in ``current``, because it is in units of levels below.
    ``ratio`` is 0 to 1, None while unknown. ``estimated`` is True when it depends on
    an estimate, because an opaque step runs here or below. ``stage`` is the id of the running
    stage. ``advanced_clock`` is the time of the last advance, without estimated ones. After
    ``stall_after_s`` without an advance the level counts as stalled. It is the setting, or three
    times the longest known gap if that is longer. The gap is of this run, of its history, or the
    expected duration of an opaque step. ``duration_s`` is None until the end. ``resumed_from`` are
    the units of ``current`` that an earlier session finished. They do not count for the rate.
    ``paused_s`` are the seconds of ended pauses since the start. ``ended_levels`` counts all ended
    levels directly below, evicted ones included. ``superseded_by`` is the run that has continued
    this one. ``counts_children`` is True when ``current`` is that of the levels below.

    Only operations have the other fields. ``paused_clock`` is the start of the current pause, None
    without one. ``previews`` is the number of the last preview. ``overdue_after_s`` is the longest
    expected duration without pauses: the first interval plus a margin that normal runs rarely
    exceed. It is None without an interval.
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
    # Documents and journals of older versions do not have the fields below.
    # The journal stores them by position: only append.
    estimated: bool = False
    paused_clock: float | None = None
    paused_s: float = 0.0
    previews: int = 0
    overdue_after_s: float | None = None
    resumed_from: Number = 0
    failed_below: int = 0
    ended_levels: LevelCounts = NO_LEVELS
    superseded_by: str | None = None
    counts_children: bool = False

    @property
    def completed(self) -> Number:
        """Units that succeeded.

        At least 0, also when more items failed than the level has units.
        """
        return max(0, self.current - self.failed + self.failed_below - self.skipped)

    @property
    def ended_early(self) -> bool:
        """True when the level completed below its total.

        Its ratio is then ``current / total``. Its parent counts it as done.
        """
        return (
            self.status is Status.COMPLETED
            and self.total is not None
            and is_below_total(self.current, self.total)
        )

    @property
    def done_this_session(self) -> Number:
        """Units that this session finished, without those of an earlier session.

        Rates use it.
        """
        return max(0, self.current - self.resumed_from)

    @property
    def path(self) -> str:
        """Path in the tree, empty for the operation."""
        return self.info.path

    def elapsed(self, clock: float) -> float:
        """Return the seconds from the start to ``clock``, or to the end.

        ``clock`` is a time on the monotonic clock of the process. 0 before the start.
        """
        if self.duration_s is not None:
            return self.duration_s
        started = self.info.started_clock
        return 0.0 if started is None else max(0.0, clock - started)

    def active_seconds(self, clock: float) -> float:
        """Return the seconds of :meth:`elapsed` without pauses."""
        paused = self.paused_s
        if self.paused_clock is not None and not self.status.finished:
            paused += max(0.0, clock - self.paused_clock)
        return max(0.0, self.elapsed(clock) - paused)
