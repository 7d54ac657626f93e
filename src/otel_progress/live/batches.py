"""The batches of this process: which operations belong to them, what the ended ones came to, and what sinks are yet to be told.

Not thread-safe by itself: the live store calls it with its lock held. However many operations a batch has, what is kept of those that
ended are counts, a hundred moments and a hundred failures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from otel_progress.batches import (
    MAX_ENDS,
    MAX_LISTED,
    BatchCursor,
    BatchDeclaration,
    BatchTally,
    cursor_sort_key,
    merge,
    sort_key,
    was_finished_at,
)
from otel_progress.live.node import Node
from otel_progress.live.snapshots import take_snapshot
from otel_progress.model import LevelSnapshot, Status

MAX_BATCHES: Final = 200
"""Batches that are remembered; beyond, the oldest that are over go first, and never one with an operation that runs."""


_NS: Final = 1_000_000_000


class BatchState:
    """A batch with its operations. ``active`` holds their nodes, the oldest first; ``failed`` snapshots of the last that failed."""

    __slots__ = ("active", "counts", "ends", "failed", "info")

    def __init__(self, info: BatchDeclaration) -> None:
        self.info = info
        self.active: dict[Node, None] = {}
        self.counts = dict.fromkeys((Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED), 0)
        self.ends: deque[float] = deque(maxlen=MAX_ENDS)
        self.failed: deque[LevelSnapshot] = deque(maxlen=MAX_LISTED)

    def tally(self) -> BatchTally:
        """Return what the ended operations came to."""
        count = self.counts
        ends = tuple(sorted(self.ends))  # they are not in order where the wall clock was set back
        return BatchTally(
            count[Status.COMPLETED],
            count[Status.FAILED],
            count[Status.CANCELLED],
            count[Status.SKIPPED],
            ends,
        )

    @property
    def is_finished(self) -> bool:
        """True when nothing runs and no more is expected."""
        total = self.info.total
        return not self.active and (
            self.info.ended_at is not None or (total is not None and sum(self.counts.values()) >= total > 0)
        )

    def rank(self, moment: float | None) -> tuple[bool, float, str]:
        """Return what it is sorted by in a list that was begun at ``moment`` (Unix seconds; None: now)."""
        over, ended_at = (
            self.is_finished,
            max((at for at in (self.info.ended_at, *self.ends) if at is not None), default=None),
        )
        return sort_key(was_finished_at(over, ended_at, moment), self.info.started_at, self.info.id)


class BatchRegistry:
    """All batches of this process by id, the oldest first. ``now`` is the wall clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, BatchState] = {}
        self._unsent: dict[str, None] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def waiting(self) -> bool:
        """True when there is a declaration that no sink was told of."""
        return bool(self._unsent)

    def declare(self, id_: str, name: str, type_: str, total: int | None) -> None:
        """Declare a batch, or once more one that is known: the newest declaration wins."""
        info = BatchDeclaration(id_, name, type_, total, self._now(), None, self._next_sequence())
        known = self._known.get(id_)
        if known is None:
            self._remember(info)
        else:
            known.info = merge(known.info, info)
        self._unsent[id_] = None

    def set_total(self, id_: str, total: int) -> None:
        """Say how many operations there are in all."""
        self._change(id_, total=total)

    def close(self, id_: str) -> None:
        """Say that no more operations come; the first time counts."""
        known = self._known.get(id_)
        if known is not None and known.info.ended_at is None:
            self._change(id_, ended_at=max(self._now(), known.info.started_at))

    def join(self, id_: str, node: Node) -> None:
        """Take in an operation that began; a batch nobody declared here goes by its id."""
        known = self._known.get(id_)
        if known is None:
            known = self._remember(BatchDeclaration(id_, id_, "batch", None, self._now(), None, 0))
            self._unsent[id_] = None
        known.active[node] = None

    def leave(self, id_: str, node: Node) -> None:
        """Count an operation that ended."""
        known = self._known.get(id_)
        if known is None or node not in known.active:
            return
        del known.active[node]
        known.counts[node.status] += 1
        known.ends.append(node.ended_at or 0.0)
        if node.status is Status.FAILED:
            known.failed.appendleft(take_snapshot(node))

    def get(self, id_: str) -> BatchState | None:
        """Return a batch with its operations, or None."""
        return self._known.get(id_)

    def newest(self, after: BatchCursor | None = None) -> Sequence[BatchState]:
        """Return the batches, those that are not over first, then the newest first, then by id; only those ``after`` a place."""
        moment = None if after is None else after.listed_at
        ranked = sorted(
            (batch.rank(moment), batch) for batch in self._known.values()
        )  # ids differ, so batches are not compared
        return [batch for place, batch in ranked if after is None or place > cursor_sort_key(after)]

    def drain(self, *, everything: bool = False) -> list[BatchDeclaration]:
        """Return the declarations that are new or have changed since the last time; all of them on demand."""
        ids, self._unsent = (list(self._known) if everything else list(self._unsent)), {}
        return [self._known[id_].info for id_ in ids if id_ in self._known]

    def _change(self, id_: str, *, total: int | None = None, ended_at: float | None = None) -> None:
        known = self._known.get(id_)
        if known is None:  # forgotten, or declared by the process this one was forked from
            return
        before = known.info
        known.info = replace(
            before,
            total=before.total if total is None else total,
            ended_at=before.ended_at if ended_at is None else ended_at,
            sequence=self._next_sequence(),
        )
        self._unsent[id_] = None

    def _next_sequence(self) -> int:
        self._sequence = max(self._sequence + 1, int(self._now() * _NS))
        return self._sequence

    def _remember(self, info: BatchDeclaration) -> BatchState:
        made = self._known[info.id] = BatchState(info)
        if len(self._known) > MAX_BATCHES:
            idle = [id_ for id_, batch in self._known.items() if not batch.active and batch is not made]
            oldest = next((id_ for id_ in idle if self._known[id_].is_finished), idle[0] if idle else None)
            if oldest is not None:
                del self._known[oldest]
        return made
