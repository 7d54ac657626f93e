"""Mutable state of one level: written by its handles, measured by the live store.

A handle's thread stores only single attributes here, and each store is atomic. What changes more
than one node happens in the live store with its lock held. Starting and ending a level is a hot
path, so most objects are created when they are first needed.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from opentelemetry.trace import INVALID_SPAN, Span

from otel_progress.live.counter import Counter, GilCounter, LockCounter
from otel_progress.locking import create_once, store_together
from otel_progress.model import (
    NO_LEVELS,
    NO_METADATA,
    Failure,
    LevelCounts,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    Number,
    ParentLink,
    Status,
    is_below_total,
)
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.stages import Stages

if TYPE_CHECKING:
    from otel_progress.live.completed_work import CompletedWork
    from otel_progress.live.estimation_state import EstimationState
    from otel_progress.live.opaque import Opaque
    from otel_progress.live.pauses import Pauses
    from otel_progress.live.resource_usage import UsageAccumulator
    from otel_progress.live.span_segments import SpanSegments
    from otel_progress.records import Contribution, ResourceUse, Trajectory, TrajectoryKey


MIN_STEP_BACK_S: Final = 0.001
"""Seconds by which the wall clock must be behind to count as set back. Less is a rounding error or
the time between two readings.
"""


# Why no "Error" in the name: it is a signal to the handle, and no caller receives it.
class CounterMissing(Exception):  # noqa: N818
    """Raised by ``count_one`` of a node without a counter.

    The handle starts or creates the counter, and counts again.
    """


CallSite: TypeAlias = "tuple[CodeType, int]"
"""Code object and last instruction of a frame. Its line is computed only when it is needed."""


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
    link: ParentLink | None = None


REASON_COLLECTED: Final = (
    "its handle was garbage-collected before it ended: use `with`, or keep the handle and call complete()"
)
"""Message of a level whose handle, or whose exit, was collected."""


STOPPED_EARLY: Final = "stopped before the end"
"""Message of a level whose loop ended before its last element."""


class HandleReference(weakref.ref[Any]):
    """Weak reference to the handle of a level, or to the exit of its ``with`` block.

    Its callback is a C function. A signal handler cannot interrupt it, so no exception is lost as
    in ``__del__``.
    """

    __slots__ = ("node",)

    reason = REASON_COLLECTED
    """Message of the level that ends."""
    node: Node | None

    def is_complete(self, node: Node) -> bool:  # noqa: ARG002 - for subclasses
        """Return True if the level has done its work when the handle is collected."""
        return False


class LoopReference(HandleReference):
    """Weak reference to the guard of a loop.

    The level was left early if it still runs.
    """

    __slots__ = ()

    reason = STOPPED_EARLY


class SharedLoopReference(LoopReference):
    """Weak reference to the guard of a loop that may be dropped at its end.

    Its program may stop without a request for the end. The level is complete if it has received as
    many elements as its total.
    """

    __slots__ = ()

    def is_complete(self, node: Node) -> bool:
        """Return True if the loop has received its last element."""
        return has_received_all(node)


class TotalReference(HandleReference):
    """Weak reference to the handle of a level whose library may not end it.

    If the handle is collected, or the parent ends, the level is complete if its count has reached
    its total.
    """

    __slots__ = ()

    def is_complete(self, node: Node) -> bool:
        """Return True if the count has reached the total."""
        counter, total = node.counter, node.total
        return counter is not None and total is not None and counter.value() >= total


def has_received_all(node: Node) -> bool:
    """Return True if a loop has received as many elements as its total.

    The count of such a loop is one lower, because its last element is not done.
    """
    counter, total = node.counter, node.total
    return counter is not None and total is not None and counter.value(1) >= total


def find_loop_status(node: Node, reference: HandleReference | None) -> Status:
    """Return the status with which a level ends whose handle or guard was collected.

    Count the last element of a loop that is complete. A second call has no effect.
    """
    if reference is None or not reference.is_complete(node):
        return Status.CANCELLED
    counter, total = node.counter, node.total
    if counter is not None and total is not None:
        counter.set(max(total, counter.value()))
    return Status.COMPLETED


class BlockReference(weakref.ref[Any]):
    """Weak reference to the exit of a block of a pause, an opaque step or a batch.

    If the exit is collected before it ran, the next tick or query calls ``leave``, which must be
    idempotent. ``thread`` is the identifier of the thread that requested the exit.
    """

    __slots__ = ("leave", "thread")

    leave: Callable[[], object] | None
    thread: int


orphans: Final[deque[HandleReference | BlockReference]] = deque()
"""References whose objects were collected. The next tick or query ends their levels and blocks."""


add_orphan: Final = orphans.append
"""Callback of every :class:`HandleReference` and :class:`BlockReference`."""


_DEEP: Final = 3
"""Depth from which on levels share one limit."""


class EndedLevels:
    """Ended levels of one operation in memory, and the order of their eviction.

    Levels at depth 1, at depth 2 and deeper have separate limits, so deep levels never evict those
    near the operation. Failed levels have limits of their own, so completed levels never evict
    them. A level is evicted only after the ended levels below it, so a stored failure has its
    parents. Declared stages are not included: they stay until their parent is evicted.
    """

    __slots__ = ("_max_failed_levels", "_max_levels", "_queues")

    def __init__(self, max_levels: int, max_failed_levels: int) -> None:
        self._max_levels = max_levels
        self._max_failed_levels = max_failed_levels
        self._queues: list[_LevelQueue | None] = [None] * (2 * _DEEP)
        """Failed levels, then the others, each by depth. The last ones are evicted first."""

    def __len__(self) -> int:
        return sum(queue.size for queue in self._queues if queue is not None)

    def add(self, node: Node, evict: Callable[[Node], object]) -> None:
        """Add a level that has just ended. Call ``evict`` for each level to evict.

        These are the deepest ones of the same limit, and the oldest of these.
        """
        # Why not _get_queue: each end of a level calls this.
        depth, is_failed = node.depth, node.status is Status.FAILED
        queue = self._queues[(depth if depth < _DEEP else _DEEP) - (1 if is_failed else 1 - _DEEP)]
        if queue is None:
            queue = self._get_queue(node)
        if node.stored:  # an exception interrupted the end of the level after this step
            return
        # Why first: a leaf that is added twice is evicted once.
        if node.children is None or not node.children.stored_below:
            queue.add_leaf(node)
        if depth > 1:
            owner = _find_owner(node)
            if owner is not None and owner.children is not None:
                store_together(
                    (owner.children, node, queue),
                    ("stored_below", "stored", "size"),
                    (owner.children.stored_below + 1, True, queue.size + 1),
                )
        if not node.stored:
            node.stored, queue.size = True, queue.size + 1
        if queue.size <= queue.limit:
            return
        leaf = queue.pop_leaf()
        if leaf is not None and depth == 1:
            leaf.stored = False
            queue.size -= 1
            evict(leaf)
        else:
            self._evict_surplus(queue, leaf, evict)

    def _evict_surplus(self, queue: _LevelQueue, leaf: Node | None, evict: Callable[[Node], object]) -> None:
        while True:
            if leaf is None:
                # Why others: all levels of this queue have levels below them. Evicting these, the
                # deepest first and failed ones last, releases one of this queue.
                leaves = (other.pop_leaf() for other in reversed(self._queues) if other is not None)
                leaf = next((found for found in leaves if found is not None), None)
            if leaf is None:
                return
            self.remove(leaf)
            evict(leaf)
            if queue.size <= queue.limit:
                return
            leaf = queue.pop_leaf()

    def remove(self, node: Node) -> None:
        """Remove a level. A level that is not stored is ignored."""
        if not node.stored:
            return
        node.stored = False
        queue = self._get_queue(node)
        queue.size -= 1
        if node.depth == 1:
            return
        queue.discard_leaf(node)
        owner = _find_owner(node)
        if owner is not None and owner.children is not None:
            owner.children.stored_below -= 1
            if owner.stored and not owner.children.stored_below:
                self._get_queue(owner).add_leaf(owner)

    def _get_queue(self, node: Node) -> _LevelQueue:
        depth = node.depth
        index = (depth if depth < _DEEP else _DEEP) - 1
        if node.status is not Status.FAILED:
            index += _DEEP
        queue = self._queues[index]
        if queue is None:
            limit = self._max_levels if index >= _DEEP else self._max_failed_levels
            kind = _LevelQueue if depth < _DEEP else _DeepLevelQueue
            queue = self._queues[index] = kind(limit)
        return queue


class _LevelQueue:
    """Ended levels of one depth: their number, and the leaves, which can be evicted.

    Each step takes constant time on average.
    """

    __slots__ = ("_leaves", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._leaves: deque[Node] = deque()
        """Leaves, the oldest first. Some of them are not stored any more."""

    def add_leaf(self, node: Node) -> None:
        """Add a level without ended levels below it."""
        leaves = self._leaves
        leaves.append(node)
        if len(leaves) > 2 * self.limit + 2:
            self._leaves = deque(leaf for leaf in leaves if leaf.stored)

    def discard_leaf(self, node: Node) -> None:
        """Do nothing: ``pop_leaf`` leaves out what is not stored."""

    def pop_leaf(self) -> Node | None:
        """Remove and return the oldest leaf. None without a leaf."""
        leaves = self._leaves
        while leaves:
            leaf = leaves.popleft()
            if leaf.stored:
                return leaf
        return None


class _DeepLevelQueue(_LevelQueue):
    """Ended levels of several depths. The deepest leaves are evicted first.

    Each step takes logarithmic time in the number of different depths.
    """

    __slots__ = ("_depths", "_leaves_by_depth")

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._leaves_by_depth: dict[int, OrderedDict[Node, None]] = {}
        """Leaves by depth, the oldest first."""
        self._depths: list[int] = []
        """Heap of the negative depths in ``_leaves_by_depth``."""

    def add_leaf(self, node: Node) -> None:
        """Add a level without ended levels below it."""
        leaves = self._leaves_by_depth.get(node.depth)
        if leaves is None:
            leaves = self._leaves_by_depth[node.depth] = OrderedDict()
            heappush(self._depths, -node.depth)
        leaves[node] = None

    def discard_leaf(self, node: Node) -> None:
        """Remove a level if it is a leaf."""
        leaves = self._leaves_by_depth.get(node.depth)
        if leaves is not None:
            leaves.pop(node, None)

    def pop_leaf(self) -> Node | None:
        """Remove and return the oldest of the deepest leaves. None without a leaf."""
        while self._depths:
            leaves = self._leaves_by_depth.get(-self._depths[0])
            if leaves:
                return leaves.popitem(last=False)[0]
            self._leaves_by_depth.pop(-heappop(self._depths), None)
        return None


def _find_owner(node: Node) -> Node | None:
    """Return the nearest level above that can be evicted, or None.

    Neither the operation nor a declared stage can.
    """
    owner = node.parent
    while owner is not None and owner.declared:
        owner = owner.parent
    return None if owner is None or owner.parent is None else owner


_FLAGS: Final = 64
"""Length of the list of flags. A loop restarts the list after as many elements, in about 60 ns."""


class Operation:
    """State that the nodes of one run share."""

    __slots__ = (
        "__weakref__",
        "cancel_reason",
        "cancel_requested_at",
        "checkpoint",
        "completed_work",
        "contributed",
        "ended",
        "estimated_levels",
        "id",
        "instance",
        "is_id_given",
        "is_renamed",
        "is_shared",
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
        "share",
        "stall_after",
        "start_delivered",
        "superseded_by",
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
        self.is_id_given = False
        """True when the caller chose the id."""
        self.is_renamed = False
        """True when the id has changed because another live process uses it."""
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
        self.completed_work: CompletedWork | None = None
        """Completed levels and items. None unless the operation can be resumed."""
        self.checkpoint: str | None = None
        """Last checkpoint as JSON, of this session or an earlier one."""
        self.superseded_by: str | None = None
        """Run of another process that has continued this one. None without one."""
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
        self.is_shared = False
        """True when other processes may work on the operation, and in these processes."""
        self.share: Share | None = None
        """The part of this process in an operation of another process. None in its own operations.
        """
        self.contributed: ContributedLevels | None = None
        """Levels that other processes contributed. None until the first one."""

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


class Share:
    """Use of one level of another process.

    ``clock`` is the monotonic time of the last known change. ``users`` are weak references to the
    active calls that have the level as their current level. ``suffix`` makes generated ids of
    levels unique among the processes of the operation.
    """

    __slots__ = ("clock", "first_preview", "node", "sequence", "suffix", "users", "writer")

    def __init__(self, node: Node, writer: str, suffix: str, clock: float, first_preview: int) -> None:
        self.node = node
        self.writer = writer
        self.suffix = suffix
        self.clock = clock
        self.first_preview = first_preview
        self.sequence = 0
        self.users: set[weakref.ref[object]] = set()


class ContributedLevels:
    """Levels of one operation that other processes contributed, and their writers."""

    __slots__ = ("awaited", "ended", "nodes", "sequences", "starts", "writers")

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, str], Node] = {}
        """Running levels by writer and path."""
        self.starts: dict[tuple[str, str], float | None] = {}
        """Start of each level in ``nodes``."""
        self.sequences: dict[tuple[str, str], int] = {}
        """Sequence numbers of the shares and of the running levels."""
        self.ended: OrderedDict[tuple[str, str], int] = OrderedDict()
        """Sequence numbers of the ended levels."""
        self.writers: dict[str, str] = {}
        """Process of each writer."""
        self.awaited: dict[tuple[str, str], int] = {}
        """Number of polls for which each share has waited for its level."""


class Children:
    """Levels below a node: those in memory, and the counts of all ended ones."""

    __slots__ = (
        "auto_ids",
        "base_weight",
        "cancelled_weight",
        "created",
        "done_weight",
        "ended_cancelled",
        "ended_completed",
        "ended_early",
        "ended_failed",
        "ended_skipped",
        "estimated",
        "failed",
        "failures",
        "nodes",
        "partial_weight",
        "running",
        "skipped",
        "stage",
        "stages",
        "stored_below",
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
        self.base_weight: Number = 0
        """Part of ``done_weight`` that is in the units of :attr:`Operation.resumed_units`."""
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
        self.ended_completed = self.ended_failed = self.ended_cancelled = self.ended_skipped = 0
        self.ended_early = 0
        """Those of ``ended_completed`` that completed below their total."""
        self.stored_below = 0
        """Number of ended levels below in memory, without those below another such level."""
        self.stages: list[Node] | None = None
        """Declared stages. None when no stages were declared."""
        self.stage: Node | None = None
        """The current stage."""

    def count_ended(self) -> LevelCounts:
        """Return the number of ended levels, evicted ones included."""
        return LevelCounts(
            self.ended_completed,
            self.ended_failed,
            self.ended_cancelled,
            self.ended_skipped,
            self.ended_early,
        )


def _create_counter() -> GilCounter | LockCounter:
    return Counter()


class UnitCount:
    """Units of one label that no change set has reported."""

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units: Number = 0


class LevelExtras:
    """State that most levels never need."""

    __slots__ = (
        "exceeds_total",
        "failures",
        "has_warned",
        "is_shared",
        "opaque",
        "segments",
        "shares",
        "skips",
    )

    def __init__(self) -> None:
        self.failures: GilCounter | LockCounter | None = None
        self.skips: GilCounter | LockCounter | None = None
        self.opaque: Opaque | None = None
        """The active opaque step."""
        self.segments: SpanSegments | None = None
        """Segment spans. None until the span of the level has reached the limit."""
        self.exceeds_total = False
        """True when the last update found a count beyond the total."""
        self.has_warned = False
        """True when a warning about such a count was logged."""
        self.is_shared = False
        """True when the handle of the level was pickled."""
        self.shares: dict[str, Contribution] | None = None
        """Units that other processes counted on the level, by writer."""


class Node:
    """One level: what its caller made of it, and the figures of its last update."""

    __slots__ = (
        "advanced_at",
        "advanced_clock",
        "attempt",
        "call_site",
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
        "ended_levels",
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
        "stored",
        "total",
        "trace",
        "tracked",
    )

    call_site: CallSite | None
    """Line that started the level, or the one that set its total later. None without a total."""
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
    ended_levels: LevelCounts
    """Ended levels directly below at the last update, evicted ones included."""
    stored: bool
    """True while the ended levels of the operation contain it."""
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
        self.declared = self.tracked = self.evicted = self.stored = False
        self.has_advanced = self.estimated = False
        self.order = self.span_events = self.quarter = 0
        self.failed = self.failed_below = self.reported_failures = self.skipped = 0
        self.sequence = self.sent_sequence = 0
        self.last_count = self.current = self.counted_completed = 0
        self.counted_failed = self.counted_skipped = 0
        self.ended_levels = NO_LEVELS
        self.observed_at = self.observed_clock = self.longest_gap = 0.0
        self.children = self.counter = self.extras = self.estimation = self.handle = None
        self.message = self.error = self.trace = self.info = self.snapshot = self.call_site = None
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

    def set_outcomes(self, failed: int, skipped: int) -> None:
        """Set the number of failed and skipped units."""
        extras = self.ensure_extras()
        (extras.failures or create_once(extras, "failures", _create_counter)).set(failed)
        (extras.skips or create_once(extras, "skips", _create_counter)).set(skipped)


def merge_metadata(
    old: Mapping[str, MetadataValue], new: Mapping[str, MetadataValue]
) -> Mapping[str, MetadataValue]:
    """Return ``old`` updated by ``new`` as a new mapping.

    Snapshots share ``old``, so it must not change.
    """
    return {**old, **new} if old else (new or NO_METADATA)
