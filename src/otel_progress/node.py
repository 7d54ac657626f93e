"""The mutable state of one level while it lives: what handles write to and the live store reads and folds.

A handle's thread only ever stores single attributes here (each store is atomic); whatever touches more than one node
(begin, end, roll-up) happens in the live store under its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from threading import Lock
from typing import Final, NamedTuple

from opentelemetry.trace import INVALID_SPAN, Span

from otel_progress.counter import Counter, GilCounter, LockCounter
from otel_progress.model import NO_METADATA, Event, Failure, LevelInfo, MetadataValue, Number, Snapshot, Status
from otel_progress.stages import Stages

_creating: Final = Lock()


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


class Operation:
    """What the nodes of one run share."""

    __slots__ = (
        "failed",
        "failures",
        "finished",
        "id",
        "items",
        "next_number",
        "points",
        "root",
        "run",
        "sequence",
        "spacing",
        "type",
    )

    def __init__(self, id_: str, type_: str, run: str) -> None:
        self.id = id_
        self.type = type_
        self.run = run
        self.root: Node | None = None
        self.sequence = 0
        self.next_number: Callable[[], int] = count(1).__next__
        """Number of the next event; a C function, so threads need no lock for it."""
        self.finished: deque[Node] = deque()
        """Ended levels that are kept, the oldest first; ``failed`` holds those that failed."""
        self.failed: deque[Node] = deque()
        self.items: deque[Event] = deque()
        """Events of items that completed, the oldest first; ``failures`` holds those that did not."""
        self.failures: deque[Event] = deque()
        self.points: list[tuple[float, float]] = []
        self.spacing = 0.0


class Node:
    """One level. ``counter`` is its own counting; the ``child_*`` sums hold what its ended children came to."""

    __slots__ = (
        "advanced_at",
        "advanced_clock",
        "attempt",
        "auto_ids",
        "born",
        "child_done",
        "child_failed",
        "child_partial",
        "child_skipped",
        "children",
        "clamped",
        "counter",
        "declared",
        "depth",
        "dirty",
        "duration",
        "ended_at",
        "error",
        "exception_id",
        "failures",
        "gone",
        "id",
        "info",
        "longest_gap",
        "message",
        "metadata",
        "moved",
        "name",
        "one",
        "operation",
        "order",
        "orphaned",
        "parent",
        "part",
        "path",
        "published",
        "quarter",
        "running",
        "seen",
        "skips",
        "snapshot",
        "span",
        "span_events",
        "spec",
        "stage",
        "stages",
        "started_at",
        "started_clock",
        "status",
        "tallied",
        "told",
        "total",
        "trace",
        "tracked",
        "warned",
    )

    def __init__(self, operation: Operation, parent: Node | None, path: str, id_: str, spec: Spec) -> None:
        self.operation = operation
        self.parent = parent
        self.path = path
        self.part = ""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.id = id_
        self.name = spec.name if spec.name is not None else id_
        self.spec = spec
        self.status = Status.PENDING
        self.counter: GilCounter | LockCounter = Counter()
        self.one: Callable[[], object] = self.counter.one
        """What a handle calls for one unit; replaced when the level ends."""
        self.tracked = False
        self.failures: GilCounter | LockCounter | None = None
        self.skips: GilCounter | LockCounter | None = None
        self.total = spec.total
        self.message: str | None = None
        self.metadata = spec.metadata
        self.error: Failure | None = None
        self.exception_id = 0
        self.children: dict[str, Node] | None = None
        self.tallied: Number = 0
        self.told: float | None = None
        """The ratio that the parent's ``child_partial`` holds for this node while it runs."""
        self.born = 0
        self.running = 0
        self.stages: list[Node] | None = None
        self.stage: Node | None = None
        self.declared = False
        self.auto_ids: dict[str, int] | None = None
        self.child_done: Number = 0
        self.child_failed = 0
        self.child_skipped = 0
        self.child_partial = 0.0
        self.attempt = 1
        self.order = 0
        self.info: LevelInfo | None = None
        self.snapshot: Snapshot | None = None
        self.seen: Number = 0
        self.dirty = True
        self.moved = False
        self.published = False
        self.quarter = 0
        self.orphaned = False
        self.clamped = False
        self.warned = False
        self.gone = False
        self.started_at: float | None = None
        self.started_clock: float | None = None
        self.advanced_at: float | None = None
        self.advanced_clock: float | None = None
        self.longest_gap = 0.0
        self.ended_at: float | None = None
        self.duration: float | None = None
        self.span: Span = INVALID_SPAN
        self.trace: tuple[int, int] | None = None
        """Trace and span id; of the level's own span unless it came from a plain one."""
        self.span_events = 0

    def fail_one(self) -> None:
        """Count one failed unit (besides counting it as done)."""
        if self.failures is None:
            with _creating:
                self.failures = self.failures or Counter()
        self.failures.one()

    def skip_one(self) -> None:
        """Count one skipped unit (besides counting it as done)."""
        if self.skips is None:
            with _creating:
                self.skips = self.skips or Counter()
        self.skips.one()

    def failed(self) -> int:
        """Units that failed: own items and ended children."""
        own = 0 if self.failures is None else int(self.failures.value())
        return own + self.child_failed

    def skipped(self) -> int:
        """Units that were skipped: own items and ended children."""
        own = 0 if self.skips is None else int(self.skips.value())
        return own + self.child_skipped


def merged(old: Mapping[str, MetadataValue], new: Mapping[str, MetadataValue]) -> Mapping[str, MetadataValue]:
    """Return ``old`` overlaid with ``new``; never changes ``old``, which snapshots share."""
    return {**old, **new} if old else (new or NO_METADATA)
