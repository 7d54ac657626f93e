"""Many operations as one: how their counts, their pace and what is left follow from a declaration and a tally. Pure."""

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
"""Moments of ends that a tally keeps."""


MAX_LISTED: Final = 100
"""Active operations, and failed ones, that a snapshot of a batch lists."""


_INSTANT: Final = 1e-6
"""Seconds below which no pace can be told."""


def add(tally: BatchTally, status: Status, ended_at: float) -> BatchTally:
    """Return the tally with one more operation, which ended with ``status`` at ``ended_at`` (Unix seconds), in whatever order.

    Raises ValueError when the status is none that an operation ends with.
    """
    if not status.finished:
        msg = f"an operation ends as completed, failed, cancelled or skipped, not as {status.value}"
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
    """Return what two declarations of one batch come to: the newest wins, and where it knows nothing the other one stays.

    The batch started with the earlier of them. One that was declared again after it had been closed is open again. A ``sequence`` of 0
    is no declaration (an operation named an id that nobody had declared here): it yields to any.
    """
    old, new = (a, b) if a.sequence <= b.sequence else (b, a)
    total = old.total if new.total is None else new.total
    ended_at = new.ended_at
    if ended_at is None and old.ended_at is not None and new.started_at < old.ended_at:
        ended_at = old.ended_at
    return replace(new, total=total, started_at=min(a.started_at, b.started_at), ended_at=ended_at)


def cursor_of(batch: BatchSnapshot, moment: float | None = None) -> BatchCursor:
    """Return where a batch stands in a list that was begun at ``moment`` (Unix seconds); without it, in one that begins now."""
    at = batch.read_at if moment is None else moment
    return BatchCursor(
        at, was_finished_at(batch.is_finished, batch.ended_at, moment), batch.started_at, batch.id
    )


def was_finished_at(over: bool, ended_at: float | None, moment: float | None) -> bool:
    """Tell whether a batch was over by ``moment``, None for now. One that ended nobody knows when always was."""
    return over and (moment is None or ended_at is None or ended_at <= moment)


def sort_key(over: bool, started_at: float, id_: str) -> tuple[bool, float, str]:
    """Return what lists of batches are sorted by: those that are not over first, then the newest first, then by id."""
    return over, -started_at, id_


def cursor_sort_key(place: BatchCursor) -> tuple[bool, float, str]:
    """Return what a place is sorted by."""
    return sort_key(place.is_finished, place.started_at, place.id)


def summarise(
    info: BatchDeclaration,
    tally: BatchTally,
    active: Sequence[OperationSnapshot],
    failed: Sequence[OperationSnapshot],
    read_at: float,
    *,
    running: int | None = None,
    running_ratio: float | None = None,
) -> BatchSnapshot:
    """Return a batch as it is at ``read_at`` (Unix seconds), from what ended (``tally``) and what has not (``active``).

    ``active`` and ``failed`` are without levels, the newest first. Where ``active`` is not all there are, ``running`` says how many have
    not ended and ``running_ratio`` the sum of their ratios. ``ended_at`` of the result is set once the batch is over: when it was closed
    or, if later, when its last operation ended.
    """
    count = len(active) if running is None else running
    done = sum(one.ratio or 0.0 for one in active) if running_ratio is None else running_ratio
    pending = min(count, sum(one.status is Status.PENDING for one in active))
    last = tally.ends[-1] if tally.ends else None
    over = not count and (
        info.ended_at is not None or (info.total is not None and tally.finished >= info.total > 0)
    )
    ended_at = max((at for at in (info.ended_at, last) if at is not None), default=None) if over else None
    pace = _pace(info, tally, read_at) if ended_at is None else _whole_pace(info, tally, ended_at)
    return BatchSnapshot(
        id=info.id,
        name=info.name,
        type=info.type,
        total=info.total,
        started_at=info.started_at,
        ended_at=ended_at,
        read_at=read_at,
        counts=_counts(tally, count - pending, pending),
        ratio=_ratio(info.total, tally.finished, done, over),
        throughput=pace,
        remaining_s=0.0 if over else _remaining(info, tally.finished, count, done, pace),
        active=tuple(active[:MAX_LISTED]),
        failed=tuple(failed[:MAX_LISTED]),
    )


def _counts(tally: BatchTally, running: int, pending: int) -> MappingProxyType[Status, int]:
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


def _ratio(total: int | None, finished: int, done: float, over: bool) -> float | None:
    if total is None:
        return None
    if total <= 0:  # nothing was expected: all of it is done, once nothing is to come either
        return 1.0 if over else None
    return min(1.0, max(0.0, (finished + done) / total))


def _pace(info: BatchDeclaration, tally: BatchTally, read_at: float) -> float | None:
    """Return operations ended a second over the more recent half of the ends that are kept; None while none has ended.

    Silence lowers it as soon as it lasts longer than the longest one of that half, so that ends in bursts (a pool whose tasks take
    equally long) have a steady pace, and a batch that hangs has none before long.
    """
    points = list(tally.ends)
    if not points:
        return None
    if len(points) == tally.finished:  # none is forgotten, so the first one took from the start
        points.insert(0, min(info.started_at, points[0]))
    if len(points) < 2:
        return None
    window = points[(len(points) - 1) // 2 :]
    longest = max(later - earlier for earlier, later in pairwise(window))
    seconds = window[-1] - window[0] + max(0.0, read_at - window[-1] - longest)
    if seconds > _INSTANT:
        return (len(window) - 1) / seconds
    return _whole_pace(info, tally, read_at)  # all at one moment, just now: the whole time says more


def _whole_pace(info: BatchDeclaration, tally: BatchTally, end: float) -> float | None:
    seconds = end - info.started_at
    return tally.finished / seconds if tally.finished and seconds > _INSTANT else None


def _remaining(
    info: BatchDeclaration, finished: int, running: int, done: float, pace: float | None
) -> float | None:
    """Return the seconds that what is left takes at this pace: what is expected, and at least what runs already."""
    if pace is None or (info.total is None and info.ended_at is None):
        return None
    known = finished + running
    expected = known if info.total is None or info.ended_at is not None else max(info.total, known)
    return max(0.0, expected - finished - done) / pace


@dataclass(frozen=True, slots=True)
class BatchDeclaration:
    """A batch as it was declared: many operations with one aggregate. ``total`` is the number of operations expected, if known.

    Several processes may declare the same id; :func:`otel_progress.batches.merge` says what that comes to. ``sequence`` is the moment
    of the declaration in Unix nanoseconds, 0 for an id that was never declared. ``ended_at`` is None while more operations may come.
    """

    id: str
    name: str
    type: str
    total: int | None
    started_at: float
    ended_at: float | None
    sequence: int


@dataclass(frozen=True, slots=True)
class BatchCursor:
    """Where a batch stands in the list of batches, as of the moment (Unix seconds) at which the list was begun.

    ``over`` says whether the batch was over by then, so that one which ends while somebody pages stays where it was.
    """

    listed_at: float
    is_finished: bool
    started_at: float
    id: str


@dataclass(frozen=True, slots=True)
class BatchTally:
    """What ended operations of a batch came to, so that they need not be kept: how many by status, and when.

    ``ends`` are the moments (Unix seconds, ascending) of the most recent ends, for the throughput.
    """

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0
    ends: Sequence[float] = ()

    @property
    def finished(self) -> int:
        """Operations that ended, in whatever way."""
        return self.completed + self.failed + self.cancelled + self.skipped
