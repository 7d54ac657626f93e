"""Mutable state of one level: written by its handles, measured by the live store.

A handle's thread stores only single attributes here, and each store is atomic. What changes more
than one node happens in the live store with its lock held. Starting and ending a level is a hot
path, so most objects are created when they are first needed.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import INVALID_SPAN, Span

from otel_progress.live.counter import Counter, GilCounter, LockCounter
from otel_progress.locking import create_once
from otel_progress.model import (
    NO_METADATA,
    Failure,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    Number,
    Status,
    is_below_total,
)
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.stages import Stages

if TYPE_CHECKING:
    from otel_progress.live.estimation_state import EstimationState
    from otel_progress.live.opaque import Opaque
    from otel_progress.live.pauses import Pauses
    from otel_progress.live.resource_usage import UsageAccumulator
    from otel_progress.records import ResourceUse, Trajectory, TrajectoryKey


MIN_STEP_BACK_S: Final = 0.001
"""Seconds by which the wall clock must be behind to count as set back. Less is a rounding error or
the time between two readings.
"""


# Why no "Error" in the name: it is a signal to the handle, and no caller receives it.
class CounterMissing(Exception):  # noqa: N818
    """Raised by ``count_one`` of a node without a counter.

    The handle starts or creates the counter, and counts again.
    """


def raise_counter_missing() -> None:
    """Raise CounterMissing."""
    raise CounterMissing


class Spec(NamedTuple):
    """Normalized arguments of a new level."""

    type: str
    id: str | None
    name: str | None
    total: Number | None
    unit: str | None
    weight: Number
    deadline_at: float | None
    stages: Stages | None
    metadata: Mapping[str, MetadataValue]
    batch: str | None = None
    eta_key: str | None = None
    unit_plural: str | None = None


class HandleReference(weakref.ref[Any]):
    """Weak reference to the handle of a level, or to the exit of its ``with`` block.

    Its callback is a C function. A signal handler cannot interrupt it, so no exception is lost as
    in ``__del__``.
    """

    __slots__ = ("node",)

    node: Node | None


orphans: Final[deque[HandleReference]] = deque()
"""References whose handles were collected. The next tick or query ends their levels."""


add_orphan: Final = orphans.append
"""Callback of every :class:`HandleReference`."""


class EndedLevels:
    """Ended levels of one operation in memory, the oldest first."""

    __slots__ = ("failed", "finished")

    def __init__(self) -> None:
        self.finished: deque[Node] = deque()
        """Levels that did not fail."""
        self.failed: deque[Node] = deque()

    def __len__(self) -> int:
        return len(self.finished) + len(self.failed)

    def drop_evicted(self) -> None:
        """Remove the levels that are marked as evicted."""
        for levels in (self.finished, self.failed):
            if any(node.evicted for node in levels):
                remaining = [node for node in levels if not node.evicted]
                levels.clear()
                levels.extend(remaining)


_FLAGS: Final = 64
"""Length of the list of flags. A loop restarts the list after as many elements, in about 60 ns."""


class Operation:
    """State that the nodes of one run share."""

    __slots__ = (
        "__weakref__",
        "cancel_reason",
        "cancel_requested_at",
        "ended",
        "estimated_levels",
        "id",
        "instance",
        "latest_at",
        "next_log",
        "next_number",
        "overdue_after",
        "pauses",
        "previews",
        "resumed_units",
        "root",
        "run",
        "running_flags",
        "sequence",
        "stall_after",
        "start_delivered",
        "trace",
        "trajectories",
        "type",
        "usage",
        "wall_lead",
        "wall_offset",
    )

    def __init__(
        self, id_: str, type_: str, run: str, instance: str, stall_after: float = DEFAULT_STALL_AFTER_S
    ) -> None:
        self.id = id_
        self.type = type_
        self.run = run
        self.instance = instance
        self.stall_after = stall_after
        self.root: Node | None = None
        self.start_delivered = False
        """True when the callbacks have received its start. They receive updates only after it."""
        self.sequence = 0
        self.next_number: Callable[[], int] = count(1).__next__
        """Returns the number of the next event. A C function, so threads need no lock for it."""
        self.next_log: Callable[[], int] = count(1).__next__
        """Returns the number of the next log record."""
        self.ended: EndedLevels | None = None
        """Ended levels in memory. None until the first one."""
        self.pauses: Pauses | None = None
        """Pauses of the operation. None until the first one."""
        self.estimated_levels = 0
        """Number of its levels with an estimation state."""
        self.trajectories: dict[TrajectoryKey, deque[Trajectory]] | None = None
        """Trajectories of completed levels, for their siblings and later runs. None until the first
        one.
        """
        self.resumed_units: dict[str, Number] | None = None
        """Units that an earlier session completed, by path. None when this run resumed nothing."""
        self.overdue_after: float | None = None
        """Active seconds after which the operation is overdue."""
        self.previews = 0
        """Number of the last preview."""
        self.trace: tuple[int, str] | None = None
        """Trace id of the last snapshot, as a number and in hexadecimal."""
        self.cancel_requested_at: float | None = None
        """Time of the first request to cancel, in Unix seconds."""
        self.cancel_reason: str | None = None
        self.running_flags: list[bool] = []
        """Loops in C read its elements, so they stop when a request to cancel clears the list.
        Empty until the first such loop.
        """
        self.usage: UsageAccumulator | None = None
        """Resource usage of the process since the start. None until the first sample."""
        self.wall_offset = -math.inf
        """Largest known difference between wall and monotonic clock, in seconds."""
        self.wall_lead = 0.0
        """Seconds by which the times of this run are ahead of the wall clock, which was set back.
        """
        self.latest_at = -math.inf
        """Latest time of this run, in Unix seconds."""

    def get_running_flags(self) -> list[bool]:
        """Return a list of True that is empty after a request to cancel."""
        flags = self.running_flags
        if not flags and self.cancel_requested_at is None:
            flags[:] = [True] * _FLAGS
            if self.cancel_requested_at is not None:  # requested by another thread in between
                flags.clear()
        return flags

    def request_cancel(self, at: float, reason: str | None) -> None:
        """Store a request to cancel, and stop loops in C.

        ``at`` is in Unix seconds.
        """
        # Why first: a thread that reads the time without the lock finds the reason, too.
        self.cancel_reason = reason
        self.cancel_requested_at = at
        self.running_flags.clear()

    @property
    def is_resumed(self) -> bool:
        """True when an earlier session did part of the work.

        Such a run leaves no trajectory.
        """
        return self.resumed_units is not None

    @property
    def resources(self) -> ResourceUse | None:
        """The resource usage until the last sample."""
        return None if self.usage is None else self.usage.current

    def date(self, now: float, clock: float) -> float:
        """Return the time of a moment of this run, in Unix seconds.

        ``now`` is the wall clock, and ``clock`` the monotonic clock, read after ``now``.

        The result is ``now`` unless the wall clock was set back. Then it follows from ``clock``. So
        the times of a run do not decrease. A suspended machine stops the monotonic clock only, and
        the result is ``now`` again.
        """
        lead_s = clock + self.wall_offset - now
        if lead_s < 0.0:
            self.wall_offset, self.wall_lead = now - clock, 0.0
        elif lead_s > MIN_STEP_BACK_S:
            self.wall_lead = lead_s
            now += lead_s
        elif self.wall_lead:
            self.wall_lead = 0.0
        # Why: two threads may read the clocks in one order, and arrive here in the other.
        if now < self.latest_at:
            return self.latest_at
        self.latest_at = now
        return now

    def active_seconds(self, start: float, end: float) -> float:
        """Return the seconds without pauses from ``start`` to ``end``."""
        if self.pauses is None:
            return max(0.0, end - start)
        return max(0.0, end - start - self.pauses.seconds_between(start, end))


class Children:
    """Levels below a node: those in memory, and the counts of all ended ones."""

    __slots__ = (
        "auto_ids",
        "cancelled_weight",
        "created",
        "done_weight",
        "estimated",
        "failed",
        "failures",
        "nodes",
        "partial_weight",
        "running",
        "skipped",
        "stage",
        "stages",
    )

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        """Nodes by path segment."""
        self.running = 0
        self.created = 0
        self.auto_ids: dict[str, Callable[[], int]] = {}
        """Functions that return the next number for an id, by type. C functions, so that no lock is
        needed.
        """
        self.done_weight: Number = 0
        """Weight of the completed, failed and skipped levels."""
        self.failed = 0
        """Units of the parent that failed, of the ended levels."""
        self.failures = 0
        """Failures of all levels at any depth, which include those of running levels."""
        self.skipped = 0
        self.partial_weight = 0.0
        """Weight times ratio, summed over the running and the cancelled levels."""
        self.cancelled_weight = 0.0
        """Weight times ratio, summed over the cancelled levels only."""
        self.estimated = 0
        """Number of direct children whose ratio contains an estimate."""
        self.stages: list[Node] | None = None
        """Declared stages. None when no stages were declared."""
        self.stage: Node | None = None
        """The current stage."""


def _create_counter() -> GilCounter | LockCounter:
    return Counter()


class UnitCount:
    """Units of one label that no change set has reported."""

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units: Number = 0


class LevelExtras:
    """State that most levels never need."""

    __slots__ = ("exceeds_total", "failures", "has_warned", "opaque", "skips")

    def __init__(self) -> None:
        self.failures: GilCounter | LockCounter | None = None
        self.skips: GilCounter | LockCounter | None = None
        self.opaque: Opaque | None = None
        """The active opaque step."""
        self.exceeds_total = False
        """True when the last update found a count beyond the total."""
        self.has_warned = False
        """True when a warning about such a count was logged."""


class Node:
    """One level: what its caller made of it, and the figures of its last update."""

    __slots__ = (
        "advanced_at",
        "advanced_clock",
        "attempt",
        "children",
        "count_one",
        "counted_completed",
        "counted_failed",
        "counted_skipped",
        "counted_status",
        "counter",
        "current",
        "declared",
        "depth",
        "dirty",
        "duration",
        "ended_at",
        "error",
        "estimated",
        "estimation",
        "evicted",
        "extras",
        "failed",
        "failed_below",
        "handle",
        "has_advanced",
        "id",
        "info",
        "last_count",
        "longest_gap",
        "message",
        "metadata",
        "name",
        "observed_at",
        "observed_clock",
        "operation",
        "order",
        "parent",
        "path",
        "path_segment",
        "quarter",
        "ratio",
        "reported_failures",
        "reported_ratio",
        "sent_sequence",
        "sequence",
        "skipped",
        "snapshot",
        "span",
        "span_events",
        "spec",
        "started_at",
        "started_clock",
        "status",
        "total",
        "trace",
        "tracked",
    )

    children: Children | None
    counter: GilCounter | LockCounter | None
    count_one: Callable[[], object]
    """Counts one unit. Handles call it."""
    extras: LevelExtras | None
    estimation: EstimationState | None
    """Estimation state. None until the first tick, and after the end."""
    message: str | None
    error: Failure | None
    trace: tuple[int, int] | None
    """Trace and span id of the level's span."""
    info: LevelInfo | None
    """Cached fields that do not change until the end."""
    snapshot: LevelSnapshot | None
    """Cached snapshot of the last update."""
    sent_sequence: int
    """Sequence number in the last change set. 0 when sinks do not have this level."""
    last_count: Number
    """Value of the counter at the last update."""
    current: Number
    counted_completed: Number
    """Completed units that the metrics include."""
    counted_failed: int
    counted_skipped: int
    counted_status: Status
    """Status under which the parent's counts include the level. Pending while they do not."""
    handle: HandleReference | None
    """Weak reference to the handle of a running level. None for the level of a plain span."""
    failed: int
    """Failed units, and the failures of levels below in units of theirs."""
    failed_below: int
    """The part of ``failed`` that is not in units of this level."""
    reported_failures: int
    """Failures of this node in its parent's ``failures``."""
    ratio: float | None
    reported_ratio: float | None
    """Ratio of this node in its parent's ``partial_weight``."""
    started_at: float | None
    started_clock: float | None
    advanced_at: float | None
    advanced_clock: float | None
    ended_at: float | None
    duration: float | None

    def __init__(self, operation: Operation, parent: Node | None, path: str, id_: str, spec: Spec) -> None:
        self.operation = operation
        self.parent = parent
        self.path = path
        self.path_segment = ""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.id = id_
        self.name = spec.name if spec.name is not None else id_
        self.spec = spec
        self.status = self.counted_status = Status.PENDING
        self.total = spec.total
        self.metadata = spec.metadata
        self.count_one = raise_counter_missing
        self.span: Span = INVALID_SPAN
        self.attempt = 1
        self.dirty = True
        self.declared = self.tracked = self.evicted = False
        self.has_advanced = self.estimated = False
        self.order = self.span_events = self.quarter = 0
        self.failed = self.failed_below = self.reported_failures = self.skipped = 0
        self.sequence = self.sent_sequence = 0
        self.last_count = self.current = self.counted_completed = 0
        self.counted_failed = self.counted_skipped = 0
        self.observed_at = self.observed_clock = self.longest_gap = 0.0
        self.children = self.counter = self.extras = self.estimation = self.handle = None
        self.message = self.error = self.trace = self.info = self.snapshot = None
        self.ratio = self.reported_ratio = self.duration = None
        self.started_at = self.started_clock = self.advanced_at = self.advanced_clock = self.ended_at = None

    @property
    def opaque(self) -> Opaque | None:
        """The active opaque step."""
        return None if self.extras is None else self.extras.opaque

    @property
    def ended_early(self) -> bool:
        """True when the level completed below its total."""
        return (
            self.status is Status.COMPLETED
            and self.total is not None
            and is_below_total(self.current, self.total)
        )

    def ensure_extras(self) -> LevelExtras:
        """Return the node's extras. Create them at the first call."""
        return self.extras or create_once(self, "extras", LevelExtras)

    def ensure_counter(self) -> GilCounter | LockCounter:
        """Return the node's counter. Create it at the first call."""
        counter = self.counter
        if counter is None:
            counter = create_once(self, "counter", _create_counter)
            if self.count_one is raise_counter_missing:
                self.count_one = counter.count_one
        return counter

    def fail_one(self) -> None:
        """Count one failed unit. Its completion is counted separately."""
        extras = self.ensure_extras()
        (extras.failures or create_once(extras, "failures", _create_counter)).count_one()

    def skip_one(self) -> None:
        """Count one skipped unit. Its completion is counted separately."""
        extras = self.ensure_extras()
        (extras.skips or create_once(extras, "skips", _create_counter)).count_one()


def merge_metadata(
    old: Mapping[str, MetadataValue], new: Mapping[str, MetadataValue]
) -> Mapping[str, MetadataValue]:
    """Return ``old`` updated by ``new`` as a new mapping.

    Snapshots share ``old``, so it must not change.
    """
    return {**old, **new} if old else (new or NO_METADATA)
