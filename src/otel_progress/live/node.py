"""The mutable state of one level while it lives: what handles write to, and the live store measures and folds.

A handle's thread only ever stores single attributes here (each store is atomic); whatever touches more than one node
(begin, end, roll-up) happens in the live store under its lock. Beginning and ending a level is a hot path, so what most levels
never need (a counter, children) is made when it is first needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.trace import INVALID_SPAN, Span

from otel_progress.fork import fork_safe_lock
from otel_progress.live.counter import Counter, GilCounter, LockCounter
from otel_progress.model import NO_METADATA, Failure, LevelInfo, LevelSnapshot, MetadataValue, Number, Status
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.stages import Stages

if TYPE_CHECKING:
    from otel_progress.live.estimation_state import EstimationState
    from otel_progress.live.opaque import Opaque
    from otel_progress.live.pauses import Pauses
    from otel_progress.live.resource_usage import UsageAccumulator
    from otel_progress.operations import Event
    from otel_progress.records import ResourceUse, Trajectory, TrajectoryKey


_creating: Final = fork_safe_lock()


class CounterMissing(Exception):  # noqa: N818 - a signal between two parts, never an error anybody sees
    """Raised by ``one`` of what cannot count yet: the handle has to begin, or to make its counter, and count again."""


def raise_counter_missing() -> None:
    """Raise NotReady."""
    raise CounterMissing


class Spec(NamedTuple):
    """What a caller asked for when making a level, cleaned."""

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


class Operation:
    """What the nodes of one run share."""

    __slots__ = (
        "__weakref__",
        "cancel_reason",
        "cancel_requested_at",
        "estimated_levels",
        "failed",
        "failures",
        "finished",
        "id",
        "instance",
        "items",
        "next_log",
        "next_number",
        "orphaned",
        "overdue_after",
        "pauses",
        "previews",
        "resources",
        "resumed",
        "resumed_units",
        "root",
        "run",
        "sequence",
        "stall_after",
        "start_delivered",
        "trace",
        "trajectories",
        "type",
        "usage",
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
        """Whether its start has been told to callbacks; updates come after that."""
        self.orphaned = False
        """Whether a handle of its nodes was garbage-collected since the store looked last."""
        self.sequence = 0
        self.next_number: Callable[[], int] = count(1).__next__
        """Number of the next event; a C function, so threads need no lock for it."""
        self.finished: deque[Node] = deque()
        """Ended levels that are kept, the oldest first; ``failed`` holds those that failed."""
        self.failed: deque[Node] = deque()
        self.items: deque[Event] = deque()
        """Events of items that completed, the oldest first; ``failures`` holds those that did not."""
        self.failures: deque[Event] = deque()
        self.pauses: Pauses | None = None
        """When the work was paused; None while it never was."""
        self.estimated_levels = 0
        """How many of its running levels have a course."""
        self.trajectories: dict[TrajectoryKey, deque[Trajectory]] = {}
        """What levels left that completed: for their siblings, and, once the operation completes, for later runs."""
        self.resumed = False
        """Whether part of the work was done by an earlier session: such a run does not teach."""
        self.resumed_units: dict[str, Number] | None = None
        """How many units that was, by the path of the level; None while there were none."""
        self.overdue_after: float | None = None
        self.previews = 0
        """Number of the last preview."""
        self.trace: tuple[int, str] | None = None
        self.cancel_requested_at: float | None = None
        """When somebody asked for the operation to stop, in Unix seconds, and why."""
        self.cancel_reason: str | None = None
        self.usage: UsageAccumulator | None = None
        """Adds up what the process uses; ``resources`` is what it came to last."""
        self.resources: ResourceUse | None = None
        self.next_log: Callable[[], int] = count(1).__next__
        """Number of the next log record."""

    def active_seconds(self, start: float, end: float) -> float:
        """Return the seconds from ``start`` to ``end`` (monotonic) that were not paused."""
        return max(
            0.0, end - start if self.pauses is None else end - start - self.pauses.seconds_between(start, end)
        )


class Children:
    """What a node knows of the levels below it: those that are kept, and what the ended ones came to."""

    __slots__ = (
        "auto_ids",
        "cancelled_weight",
        "created",
        "done_weight",
        "estimated",
        "failed",
        "nodes",
        "partial_weight",
        "running",
        "skipped",
        "stage",
        "stages",
    )

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.running = 0
        self.created = 0
        self.auto_ids: dict[str, int] = {}
        self.done_weight: Number = 0
        self.failed = 0
        self.skipped = 0
        self.partial_weight = self.cancelled_weight = 0.0
        """The weighted ratios of levels that are not done: of those that run and those that were cancelled, and of the latter alone."""
        self.estimated = 0
        """How many of the levels directly below rest on an estimate."""
        self.stages: list[Node] | None = None
        self.stage: Node | None = None


class Node:
    """One level. The part up to ``one`` is what the caller made of it; ``current`` to ``sequence`` is what was measured last."""

    __slots__ = (
        "advanced_at",
        "advanced_clock",
        "attempt",
        "children",
        "clamped",
        "count_one",
        "counted_completed",
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
        "failed",
        "failures",
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
        "opaque",
        "operation",
        "order",
        "orphaned",
        "parent",
        "path",
        "path_segment",
        "quarter",
        "ratio",
        "reported_ratio",
        "sent_sequence",
        "sequence",
        "skipped",
        "skips",
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
        "warned",
    )

    def __init__(self, operation: Operation, parent: Node | None, path: str, id_: str, spec: Spec) -> None:
        self.operation = operation
        self.parent = parent
        self.path = path
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.path_segment = ""
        self.id = id_
        self.name = spec.name if spec.name is not None else id_
        self.spec = spec
        self.status = Status.PENDING
        self.total = spec.total
        self.message: str | None = None
        self.metadata = spec.metadata
        self.error: Failure | None = None
        self.attempt = 1
        self.order = 0
        self.declared = False
        self.children: Children | None = None
        self.counter: GilCounter | LockCounter | None = None
        self.failures: GilCounter | LockCounter | None = None
        self.skips: GilCounter | LockCounter | None = None
        self.opaque: Opaque | None = None
        """The opaque step that is in force here."""
        self.estimation: EstimationState | None = None
        """How it has come along, once a tick has seen it."""
        self.tracked = False
        self.count_one: Callable[[], object] = raise_counter_missing
        """What a handle calls for one unit."""
        self.span: Span = INVALID_SPAN
        self.trace: tuple[int, int] | None = None
        """Trace and span id: of the level's own span, or of the plain one it was made from."""
        self.span_events = self.quarter = 0
        self.info: LevelInfo | None = None
        self.snapshot: LevelSnapshot | None = None
        self.last_count: Number = 0
        self.current: Number = 0
        self.ratio: float | None = None
        self.failed = self.skipped = self.sequence = 0
        self.sent_sequence = 0
        """The sequence number that the last batch had; 0 when sinks know nothing of this level."""
        self.counted_completed: Number = 0
        self.reported_ratio: float | None = None
        """The ratio that the parent's ``partial`` holds for this node while it runs."""
        self.observed_at = self.observed_clock = self.longest_gap = 0.0
        self.started_at: float | None = None
        self.started_clock: float | None = None
        self.advanced_at: float | None = None
        self.advanced_clock: float | None = None
        self.ended_at: float | None = None
        self.duration: float | None = None
        self.dirty = True
        self.has_advanced = self.estimated = self.orphaned = self.evicted = self.clamped = self.warned = False

    def ensure_counter(self) -> GilCounter | LockCounter:
        """Return the node's counter, making it at the first call."""
        counter = self.counter
        if counter is None:
            with _creating:
                counter = self.counter
                if counter is None:
                    counter = self.counter = Counter()
                    if self.count_one is raise_counter_missing:
                        self.count_one = counter.count_one
        return counter

    def fail_one(self) -> None:
        """Count one failed unit (besides counting it as done)."""
        if self.failures is None:
            with _creating:
                self.failures = self.failures or Counter()
        self.failures.count_one()

    def skip_one(self) -> None:
        """Count one skipped unit (besides counting it as done)."""
        if self.skips is None:
            with _creating:
                self.skips = self.skips or Counter()
        self.skips.count_one()


def merge_metadata(
    old: Mapping[str, MetadataValue], new: Mapping[str, MetadataValue]
) -> Mapping[str, MetadataValue]:
    """Return ``old`` overlaid with ``new``; never changes ``old``, which snapshots share."""
    return {**old, **new} if old else (new or NO_METADATA)
