"""Reports: state of the work of a process, as its platform receives it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from otel_progress.model import LevelSnapshot, Status
from otel_progress.operations import Condition, OperationSnapshot

MAX_ENDED: Final = 50
"""Ended operations in a report, the newest. Older ones are only counted."""


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """State of the work of a process.

    ``operation`` is the running operation that started first, else the one that ended last. None
    before the first one. ``running`` is the number of running operations. ``is_stalled`` is True
    if all of them are stalled. ``counts`` are the numbers of ended operations by status, and
    ``ended`` the newest of them. ``is_final`` is True for the last report of a process.
    """

    operation: OperationSnapshot | None
    running: int
    is_stalled: bool
    counts: Mapping[Status, int]
    ended: tuple[OperationSnapshot, ...]
    is_final: bool

    @property
    def ended_count(self) -> int:
        """Number of ended operations."""
        return sum(self.counts.values())

    @property
    def unsuccessful_count(self) -> int:
        """Number of failed and cancelled operations."""
        return self.counts.get(Status.FAILED, 0) + self.counts.get(Status.CANCELLED, 0)


@dataclass(frozen=True, slots=True)
class EndedOperations:
    """Counts of ended operations by status, and the newest of them."""

    counts: Mapping[Status, int] = field(default_factory=dict)
    newest: tuple[OperationSnapshot, ...] = ()

    def add(self, operations: Sequence[OperationSnapshot]) -> EndedOperations:
        """Return a copy with further operations."""
        counts = Counter(self.counts)
        counts.update(each.status for each in operations)
        return EndedOperations(counts, (*self.newest, *operations)[-MAX_ENDED:])


def build_report(
    active: Iterable[OperationSnapshot], ended: EndedOperations, *, is_final: bool = False
) -> PlatformReport:
    """Return the report of the active and ended operations.

    Operations of which another process is the parent are left out. It reports them.
    """
    running = [each for each in active if each.status is Status.RUNNING and is_own(each.root)]
    # Why the run: two operations may start at the same time.
    operation = min(running, key=lambda each: (each.root.info.started_at or math.inf, each.run), default=None)
    return PlatformReport(
        operation or (ended.newest[-1] if ended.newest else None),
        len(running),
        bool(running) and all(is_stalled(each) for each in running),
        ended.counts,
        ended.newest,
        is_final,
    )


def is_stalled(operation: OperationSnapshot) -> bool:
    """Return True if an operation has not advanced for too long."""
    if operation.condition is not Condition.OVERDUE:
        return operation.condition is Condition.STALLED
    # Why: the condition has one value, and overdue has precedence over stalled and paused.
    root = operation.root
    since = root.advanced_clock if root.advanced_clock is not None else root.info.started_clock
    return root.paused_clock is None and since is not None and operation.clock - since > root.stall_after_s


def is_own(root: LevelSnapshot) -> bool:
    """Return False for an operation that is part of an operation of another process."""
    return root.info.parent is None


def get_percentage(operation: OperationSnapshot) -> int | None:
    """Return the percentage from 0 to 100, rounded down, or None while it is unknown.

    It is 100 only for completed operations.
    """
    if operation.status is Status.COMPLETED:
        return 100
    ratio = operation.ratio
    return None if ratio is None else max(0, min(99, int(ratio * 100.0 + 1e-9)))


def format_seconds(seconds: float) -> str:
    """Return a duration with its two largest units, such as ``2 h 5 min``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3_600:
        return f"{total // 60} min {total % 60} s"
    if total < 86_400:
        return f"{total // 3_600} h {total % 3_600 // 60} min"
    return f"{total // 86_400} d {total % 86_400 // 3_600} h"


def format_counts(root: LevelSnapshot) -> str:
    """Return the counts of a level, such as ``42/300``. Empty before the first unit."""
    current = _format_number(root.current)
    if root.total is not None:
        return f"{current}/{_format_number(root.total)}"
    return current if root.current else ""


def _format_number(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
