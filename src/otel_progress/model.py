"""The records every part speaks: status, level, snapshot, estimate. All immutable; times are seconds.

Two clocks run through them. *Wall* times are Unix seconds, for people. *Clock* times are seconds on the monotonic clock of
the process that works: durations and rates come only from those, so a step of the wall clock changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

Number: TypeAlias = "int | float"
"""A count of work: bytes, files, seconds of video."""


MetadataValue: TypeAlias = (
    "str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]"
)
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


for (
    _status
) in Status:  # kept with each, not worked out: it is asked several times for every row of every tick
    _status.finished = _status not in (Status.PENDING, Status.RUNNING)  # type: ignore[misc]


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
class LevelSnapshot:
    """An immutable copy of a level at one sequence number.

    Counts are in units of work: ``current`` is all that is done, of which ``failed`` and ``skipped`` did not succeed. ``ratio`` is
    0 to 1 and None while unknown; ``estimated`` says that it rests on an estimate, because an opaque step runs here or below.
    ``stage`` is the id of the running stage. ``advanced_clock`` is the last advance, estimated ones left out, and ``stall_after_s``
    the time without one after which the level counts as stalled: the setting, or three times the longest gap known of (in this run,
    in its history, or an opaque step's expectation). ``duration_s`` is None until the end. ``resumed_from`` are
    the units of ``current`` that an earlier session had done, no part of this one's pace. ``paused_s`` are the seconds of pauses
    that are over, of a level those since it started. Of operations only: ``paused_clock`` is since when the work is paused (None
    when it is not), ``previews`` the number of the last preview, and ``overdue_after_s`` the seconds (pauses excluded) that the
    first estimate with an interval allowed for the whole run, with a margin that ordinary runs rarely pass; None without one.
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
    resumed_from: Number = 0

    @property
    def completed(self) -> Number:
        """Units that succeeded; never below 0, also where more failed than the level has units."""
        return max(0, self.current - self.failed - self.skipped)

    @property
    def done_this_session(self) -> Number:
        """Units this session has done, without those of an earlier one: what a pace counts."""
        return max(0, self.current - self.resumed_from)

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

    def active_seconds(self, clock: float) -> float:
        """Seconds of :meth:`elapsed` that were not paused."""
        paused = self.paused_s
        if self.paused_clock is not None and not self.status.finished:
            paused += max(0.0, clock - self.paused_clock)
        return max(0.0, self.elapsed(clock) - paused)
