"""Batches of this process with their operations.

Of ended operations, a batch stores counts, the last hundred end times and the last hundred
failures. Methods whose name ends in ``_locked`` require the lock of the live store.
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
from otel_progress.live.snapshots import take_snapshot_locked
from otel_progress.locking import store_together
from otel_progress.model import LevelSnapshot, Status

MAX_BATCHES: Final = 200
"""Batches in memory. Beyond it, the oldest finished ones are evicted first, and never one with an
active operation.
"""


_NS: Final = 1_000_000_000


_MIN_GAP_S: Final = 1e-6
"""Time between the end of a run of a batch and the start of the next one, in seconds."""


class BatchState:
    """A batch with its active operations and snapshots of its last failed ones."""

    __slots__ = ("active", "clock", "counts", "ends", "failed", "info", "last_ended")

    def __init__(self, info: BatchDeclaration, clock: float) -> None:
        self.info = info
        self.clock = clock
        """Monotonic seconds at ``info.started_at``."""
        self.active: dict[Node, None] = {}
        self.counts = dict.fromkeys((Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED), 0)
        self.last_ended: Node | None = None
        """Operation that is being moved to the counts."""
        self.ends: deque[float] = deque(maxlen=MAX_ENDS)
        self.failed: deque[LevelSnapshot] = deque(maxlen=MAX_LISTED)

    def tally(self) -> BatchTally:
        """Return the counts and end times of the ended operations."""
        counts = self.counts
        # Why sorted: the wall clock may have been set back.
        ends = tuple(sorted(self.ends))
        return BatchTally(
            counts[Status.COMPLETED],
            counts[Status.FAILED],
            counts[Status.CANCELLED],
            counts[Status.SKIPPED],
            ends,
        )

    @property
    def is_finished(self) -> bool:
        """True when no operation runs and no further one is expected."""
        total = self.info.total
        return not self.active and (
            self.info.ended_at is not None or (total is not None and sum(self.counts.values()) >= total > 0)
        )

    def build_sort_key(self, listed_at: float | None) -> tuple[bool, float, str]:
        """Return the sort key in a list that started at ``listed_at``, or now for None."""
        ended_at = max((at for at in (self.info.ended_at, *self.ends) if at is not None), default=None)
        was_finished = was_finished_at(self.is_finished, ended_at, listed_at)
        return sort_key(was_finished, self.info.started_at, self.info.id)


class BatchRegistry:
    """Batches of this process by id, the oldest first.

    ``now`` returns Unix seconds, ``clock`` monotonic seconds.
    """

    def __init__(
        self, now: Callable[[], float], clock: Callable[[], float], *, max_batches: int = MAX_BATCHES
    ) -> None:
        self._now = now
        self._clock = clock
        self._max_batches = max_batches
        self._batches: dict[str, BatchState] = {}
        self._unsent: dict[str, None] = {}
        self._closed_runs: list[BatchDeclaration] = []
        """Last declarations of runs that a new run of their batch has replaced, until a tick."""
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def has_unsent(self) -> bool:
        """True when no change set has reported some declaration."""
        return bool(self._unsent)

    def declare_locked(self, id_: str, name: str, type_: str, total: int | None) -> None:
        """Declare a batch. The newest declaration of an id wins.

        A closed batch without a running operation starts a new run.
        """
        info = BatchDeclaration(id_, name, type_, total, self._now(), None, self._next_sequence_locked())
        batch = self._batches.get(id_)
        if batch is not None and batch.info.ended_at is not None and not batch.active:
            self._closed_runs.append(batch.info)
            del self._closed_runs[:-MAX_BATCHES]
            # Why later: the wall clock may have been set back, or have coarse steps.
            start = max(info.started_at, batch.info.ended_at + _MIN_GAP_S)
            info, batch = replace(info, started_at=start), None
        if batch is None:
            self._add_locked(info)
        else:
            batch.info = merge(batch.info, info)
        self._unsent[id_] = None

    def set_total_locked(self, id_: str, total: int) -> None:
        """Set the number of operations in a batch."""
        self._change_locked(id_, total=total)

    def close_locked(self, id_: str) -> None:
        """Declare that a batch gets no more operations. The first call sets its end."""
        batch = self._batches.get(id_)
        if batch is not None and batch.info.ended_at is None:
            # Why the latest: the wall clock may have been set back since the start.
            elapsed_s = self._clock() - batch.clock
            self._change_locked(id_, ended_at=max(self._now(), batch.info.started_at + elapsed_s))

    def delete_locked(self, id_: str) -> bool:
        """Delete a batch. Return False if it is unknown or has an active operation."""
        if not self.is_idle(id_):
            return False
        del self._batches[id_]
        self._unsent.pop(id_, None)
        return True

    def is_open(self, id_: str) -> bool:
        """Return True for a known batch that was not closed. Takes no lock."""
        batch = self._batches.get(id_)
        return batch is not None and batch.info.ended_at is None

    def is_idle(self, id_: str) -> bool:
        """Return True for a known batch without an active operation. Takes no lock."""
        batch = self._batches.get(id_)
        return batch is not None and not batch.active

    def add_operation_locked(self, id_: str, node: Node) -> None:
        """Add a started operation. An undeclared batch gets its id as its name."""
        batch = self._batches.get(id_)
        if batch is None:
            batch = self._add_locked(BatchDeclaration(id_, id_, "batch", None, self._now(), None, 0))
            self._unsent[id_] = None
        batch.active[node] = None

    def remove_operation_locked(self, id_: str, node: Node) -> None:
        """Move an operation that ended to the counts."""
        batch = self._batches.get(id_)
        if batch is None or node not in batch.active:
            return
        if batch.last_ended is not node:
            counts = {**batch.counts, node.status: batch.counts[node.status] + 1}
            # Why together: the call is repeated when an exception interrupts it.
            store_together((batch, batch), ("counts", "last_ended"), (counts, node))
            batch.ends.append(node.ended_at or 0.0)
            if node.status is Status.FAILED:
                batch.failed.appendleft(take_snapshot_locked(node))
        del batch.active[node]
        batch.last_ended = None

    def get_batch_locked(self, id_: str) -> BatchState | None:
        """Return a batch with its operations, or None."""
        return self._batches.get(id_)

    def list_newest_locked(self, after: BatchCursor | None = None) -> Sequence[BatchState]:
        """Return unfinished batches, then finished ones, both the newest first.

        Batches with the same start are sorted by id.
            With ``after``, return only those behind this cursor.
        """
        listed_at = None if after is None else after.listed_at
        # Why no key function: the sort keys contain the id, so batches themselves are never
        # compared.
        entries = sorted((batch.build_sort_key(listed_at), batch) for batch in self._batches.values())
        return [batch for key, batch in entries if after is None or key > cursor_sort_key(after)]

    def drain_locked(self, *, everything: bool = False) -> list[BatchDeclaration]:
        """Return the declarations that changed since the last call, or all of them."""
        ids, self._unsent = (list(self._batches) if everything else list(self._unsent)), {}
        closed, self._closed_runs = self._closed_runs, []
        return [*closed, *(self._batches[id_].info for id_ in ids if id_ in self._batches)]

    def _change_locked(self, id_: str, *, total: int | None = None, ended_at: float | None = None) -> None:
        batch = self._batches.get(id_)
        # Why it may be unknown: it was evicted, or declared before a fork of this process.
        if batch is None:
            return
        before = batch.info
        batch.info = replace(
            before,
            total=before.total if total is None else total,
            ended_at=before.ended_at if ended_at is None else ended_at,
            sequence=self._next_sequence_locked(),
        )
        self._unsent[id_] = None

    def _next_sequence_locked(self) -> int:
        self._sequence = max(self._sequence + 1, int(self._now() * _NS))
        return self._sequence

    def _add_locked(self, info: BatchDeclaration) -> BatchState:
        added = self._batches[info.id] = BatchState(info, self._clock())
        if len(self._batches) > self._max_batches:
            idle = [id_ for id_, batch in self._batches.items() if not batch.active and batch is not added]
            oldest = next((id_ for id_ in idle if self._batches[id_].is_finished), idle[0] if idle else None)
            if oldest is not None:
                del self._batches[oldest]
        return added
