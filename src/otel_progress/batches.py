"""Aggregation of operations to batches. Pure functions and immutable records.

Counts, throughput and remaining time follow from a declaration and a tally.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, OperationSnapshot

MAX_ENDS: Final = 100
"""Newest end times in a tally. Older ones are dropped and do not count for the throughput."""


MAX_LISTED: Final = 100
"""Active and failed operations in a BatchSnapshot. Further ones are only counted."""


_MIN_DURATION_S: Final = 1e-6
"""Shortest time from which a throughput is computed."""


def add(tally: BatchTally, status: Status, ended_at: float) -> BatchTally:
    """Return the tally with one more ended operation.

    The order of the calls does not matter.

    ``ended_at`` is in Unix seconds. Raises ValueError if the status is not a final one.
    """
    if not status.finished:
        msg = f"Invalid status {status.value!r}: expected completed, failed, cancelled or skipped."
        raise ValueError(msg)
    ends = list(tally.ends)
    insort(ends, ended_at)
    return BatchTally(
        tally.completed + (status is Status.COMPLETED),
        tally.failed + (status is Status.FAILED),
        tally.cancelled + (status is Status.CANCELLED),
        tally.skipped + (status is Status.SKIPPED),
        tuple(ends[-MAX_ENDS:]),
    )


def merge(a: BatchDeclaration, b: BatchDeclaration) -> BatchDeclaration:
    """Merge two declarations of one batch.

    The newer one has precedence, and the older one fills in its unknown values. The earlier start
    is kept. A batch that is declared again after it was closed is open again. A ``sequence`` of 0
    is the placeholder of an undeclared batch, so every declaration replaces it.
    """
    old, new = (a, b) if a.sequence <= b.sequence else (b, a)
    total = old.total if new.total is None else new.total
    ended_at = new.ended_at
    if ended_at is None and old.ended_at is not None and new.started_at < old.ended_at:
        ended_at = old.ended_at
    return replace(new, total=total, started_at=min(a.started_at, b.started_at), ended_at=ended_at)


def close(declaration: BatchDeclaration, now: float) -> BatchDeclaration:
    """Return a newer declaration that the batch gets no more operations.

    ``now`` is in Unix seconds.
    """
    sequence = max(declaration.sequence + 1, int(now * 1e9))
    return replace(declaration, ended_at=max(now, declaration.started_at), sequence=sequence)


def starts_new_run(old: BatchDeclaration, new: BatchDeclaration) -> bool:
    """Return True if ``new`` declares a batch again after ``old`` was closed.

    It starts a new run of the batch, unless an operation of it is still running.
    """
    if old.ended_at is None or new.sequence <= old.sequence:
        return False
    return new.started_at >= old.ended_at and new.started_at > old.started_at


def create_cursor(batch: BatchSnapshot, listed_at: float | None = None) -> BatchCursor:
    """Return the cursor of a batch in a list that was started at ``listed_at``.

    Without that time (Unix seconds), the list starts with the reading of the batch.
    """
    was_finished = was_finished_at(batch.is_finished, batch.ended_at, listed_at)
    return BatchCursor(
        batch.read_at if listed_at is None else listed_at, was_finished, batch.started_at, batch.id
    )


def was_finished_at(is_finished: bool, ended_at: float | None, time: float | None) -> bool:
    """Return True if a batch was finished at a time (Unix seconds), None for now.

    A finished batch without an end time was always finished.
    """
    return is_finished and (time is None or ended_at is None or ended_at <= time)


def sort_key(is_finished: bool, started_at: float, id_: str) -> tuple[bool, float, str]:
    """Return the sort key of batches: unfinished first, then the newest, then by id."""
    return is_finished, -started_at, id_


def cursor_sort_key(cursor: BatchCursor) -> tuple[bool, float, str]:
    """Return the sort key of a cursor."""
    return sort_key(cursor.is_finished, cursor.started_at, cursor.id)


def summarise(
    info: BatchDeclaration,
    tally: BatchTally,
    active: Sequence[OperationSnapshot],
    failed: Sequence[OperationSnapshot],
    read_at: float,
    *,
    running: int | None = None,
    running_ratio: float | None = None,
    abandoned: Abandoned | None = None,
) -> BatchSnapshot:
    """Build the snapshot of a batch from its declaration and its operations.

    - ``tally``: ended operations.
    - ``active``, ``failed``: operations without levels, newest first.
    - ``read_at``: time of the snapshot in Unix seconds.
    - ``running``, ``running_ratio``: number of all active operations and the sum of their ratios.
      Required if ``active`` is incomplete.
    - ``abandoned``: those of the active operations whose process has exited. None without any.

    ``ended_at`` of a finished batch is the latest of its closing, its last end and the last
    heartbeat of an abandoned operation.
    """
    gone = abandoned or Abandoned()
    count = len(active) if running is None else running
    done = sum(operation.ratio or 0.0 for operation in active) if running_ratio is None else running_ratio
    pending = min(count, sum(operation.status is Status.PENDING for operation in active))
    is_finished = count <= gone.count and _is_complete(info, tally, gone)
    ended_at = _get_end(info, tally, gone) if is_finished else None
    if ended_at is None:
        throughput = _get_recent_throughput(info, tally, read_at)
    else:
        throughput = _get_mean_throughput(info, tally, ended_at)
    remaining_s = (
        0.0
        if is_finished
        else _estimate_remaining(info, tally.finished, max(0, count - gone.count), done, throughput)
    )
    return BatchSnapshot(
        id=info.id,
        name=info.name,
        type=info.type,
        total=info.total,
        started_at=info.started_at,
        ended_at=ended_at,
        read_at=read_at,
        counts=_count_by_status(tally, count - pending, pending),
        ratio=_get_ratio(info.total, tally.finished, done, is_finished),
        throughput=throughput,
        remaining_s=remaining_s,
        active=tuple(active[:MAX_LISTED]),
        failed=tuple(failed[:MAX_LISTED]),
        abandoned=gone.count,
    )


def set_missing_total(batch: BatchSnapshot, total: int | None) -> BatchSnapshot:
    """Return a batch with ``total`` if its own one is unknown.

    The end of a batch that is finished with this total is the time of its reading.
    """
    if batch.total is not None or total is None:
        return batch
    known = replace(batch, total=total)
    done = sum(operation.ratio or 0.0 for operation in batch.active)
    ratio = _get_ratio(total, batch.finished_count, done, known.is_finished)
    if not known.is_finished:
        return replace(known, ratio=ratio)
    return replace(known, ratio=ratio, ended_at=batch.ended_at or batch.read_at, remaining_s=0.0)


def _is_complete(info: BatchDeclaration, tally: BatchTally, abandoned: Abandoned) -> bool:
    """Return True if the batch was closed or all operations of its total have ended."""
    ended = tally.finished + abandoned.count
    return info.ended_at is not None or (info.total is not None and ended >= info.total > 0)


def _get_end(info: BatchDeclaration, tally: BatchTally, abandoned: Abandoned) -> float | None:
    """Return the latest of the closing and the last ends, or None without any."""
    ends = (info.ended_at, tally.ends[-1] if tally.ends else None, abandoned.last_seen_at)
    return max((end for end in ends if end is not None), default=None)


def _count_by_status(tally: BatchTally, running: int, pending: int) -> MappingProxyType[Status, int]:
    return MappingProxyType(
        {
            Status.PENDING: pending,
            Status.RUNNING: running,
            Status.COMPLETED: tally.completed,
            Status.FAILED: tally.failed,
            Status.CANCELLED: tally.cancelled,
            Status.SKIPPED: tally.skipped,
        }
    )


def _get_ratio(total: int | None, finished: int, done: float, is_finished: bool) -> float | None:
    if total is None:
        return None
    # A batch without expected operations is done as soon as it is finished.
    if total <= 0:
        return 1.0 if is_finished else None
    return min(1.0, max(0.0, (finished + done) / total))


def _get_recent_throughput(info: BatchDeclaration, tally: BatchTally, read_at: float) -> float | None:
    """Return the operations per second over the newer half of the ends, or None.

    The time since the last end counts only beyond the longest gap between these ends. So bursts
    of ends (a pool whose tasks take equally long) have a steady throughput, and the throughput of
    a batch that hangs decreases.
    """
    ends = list(tally.ends)
    if not ends:
        return None
    # If no end was dropped, the first operation took the time since the start of the batch.
    if len(ends) == tally.finished:
        ends.insert(0, min(info.started_at, ends[0]))
    if len(ends) < 2:
        return None
    window = ends[(len(ends) - 1) // 2 :]
    longest_gap = max(later - earlier for earlier, later in pairwise(window))
    seconds = window[-1] - window[0] + max(0.0, read_at - window[-1] - longest_gap)
    if seconds > _MIN_DURATION_S:
        return (len(window) - 1) / seconds
    # All operations of the window ended at one time, so the whole time is used instead.
    return _get_mean_throughput(info, tally, read_at)


def _get_mean_throughput(info: BatchDeclaration, tally: BatchTally, end: float) -> float | None:
    seconds = end - info.started_at
    return tally.finished / seconds if tally.finished and seconds > _MIN_DURATION_S else None


def _estimate_remaining(
    info: BatchDeclaration, finished: int, running: int, done: float, throughput: float | None
) -> float | None:
    """Return the seconds for all expected operations, at least for the active ones."""
    if throughput is None or (info.total is None and info.ended_at is None):
        return None
    known = finished + running
    expected = known if info.total is None or info.ended_at is not None else max(info.total, known)
    return max(0.0, expected - finished - done) / throughput


@dataclass(frozen=True, slots=True)
class BatchDeclaration:
    """Declaration of a batch, which is a group of operations.

    ``total`` is the number of expected operations, if known. ``ended_at`` is None while more
    operations may be added. ``sequence`` is the time of the declaration in Unix nanoseconds, and 0
    for an undeclared id. Several processes may declare one id, see
    :func:`otel_progress.batches.merge`.
    """

    id: str
    name: str
    type: str
    total: int | None
    started_at: float
    ended_at: float | None
    sequence: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Number of operations of a batch whose processes have exited.

    ``last_seen_at`` is the last heartbeat of these processes in Unix seconds.
    """

    count: int = 0
    last_seen_at: float | None = None


@dataclass(frozen=True, slots=True)
class BatchCursor:
    """Position of a batch in the list of batches that was started at ``listed_at``.

    ``is_finished`` is the state of the batch at that time (Unix seconds). So a batch that ends
    between two pages keeps its position.
    """

    listed_at: float
    is_finished: bool
    started_at: float
    id: str


@dataclass(frozen=True, slots=True)
class BatchTally:
    """Number of ended operations of a batch by status.

    The tally remains when the operations are deleted. ``ends`` are the times of the newest ends
    (Unix seconds, ascending) for the throughput.
    """

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    ends: Sequence[float] = ()

    @property
    def finished(self) -> int:
        """Number of ended operations with any status."""
        return self.completed + self.failed + self.cancelled + self.skipped
