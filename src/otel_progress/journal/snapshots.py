"""Operations from stored levels and heartbeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import isfinite
from typing import Any, Final

from otel_progress.journal import rows
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.model import Failure, Instance, LevelSnapshot, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import ChangeSet

ERROR_TYPE: Final = "Abandoned"
"""Type of the error of a run that was marked as failed."""


_DEFAULT_REASON: Final = "its process exited without an end"


_PARENT_ENDED: Final = "ended with its parent"


def build_operation(
    root: LevelSnapshot, heartbeat: Heartbeat | None, use: Any, cancelled: Any, moment: ReadTime
) -> OperationSnapshot:
    """Return an operation without levels.

    ``use`` is the column of its resource use, and ``cancelled`` the time of its cancel request.
    """
    instance = None if heartbeat is None else heartbeat.instance
    # Without a heartbeat, the snapshot itself is the last one.
    if heartbeat is None:
        process = Instance(root.info.instance, 0, "", "", 0.0)
        heartbeat = Heartbeat(process, root.observed_at, root.observed_clock)
    liveness = moment.get_liveness(heartbeat)
    return OperationSnapshot(
        root,
        (),
        moment.now,
        liveness.clock,
        instance,
        liveness.alive,
        not_reporting_since=None if root.status.finished else liveness.not_reporting_since,
        resources=None if use is None else rows.decode_use_or_none(use),
        cancel_requested_at=cancelled if type(cancelled) is float and isfinite(cancelled) else None,
    )


def include_relayed(change_set: ChangeSet) -> ChangeSet:
    """Return the change set with the relayed levels among its snapshots.

    Of each level only the newest snapshot is left.
    """
    if not change_set.relayed:
        return change_set
    newest: dict[tuple[str, str], LevelSnapshot] = {}
    for snapshot in (*change_set.snapshots, *change_set.relayed):
        key = (snapshot.info.run, snapshot.info.path)
        known = newest.get(key)
        if known is None or known.sequence < snapshot.sequence:
            newest[key] = snapshot
    return replace(change_set, snapshots=sorted(newest.values(), key=lambda each: each.info.depth))


def sort_depth_first(levels: Iterable[LevelSnapshot]) -> tuple[LevelSnapshot, ...]:
    """Return the levels in depth-first order, siblings sorted by ``order``."""
    known = {level.info.path: level for level in levels}
    children: dict[str, list[LevelSnapshot]] = {}
    for level in known.values():
        above = level.info.parent_path
        # A parent is missing if it was evicted, or if another process has not written it yet.
        while above and above not in known:
            above = above.rpartition("/")[0]
        children.setdefault(above or "", []).append(level)
    for siblings in children.values():
        # Why reverse: siblings are popped from the end.
        siblings.sort(key=lambda level: (level.info.order, level.info.path), reverse=True)
    result, waiting = [], children.get("", [])
    while waiting:
        level = waiting.pop()
        result.append(level)
        waiting += children.get(level.info.path, ())
    return tuple(result)


def end_abandoned_level(
    level: LevelSnapshot, operation: OperationSnapshot, reason: str, moment: ReadTime
) -> LevelSnapshot:
    """Return a level of an abandoned operation that ends now."""
    started_at = level.info.started_at
    ended = replace(
        level,
        sequence=level.sequence + 1,
        observed_at=moment.now,
        observed_clock=operation.clock,
        ended_at=moment.now if started_at is None else max(moment.now, started_at),
        duration_s=level.elapsed(operation.clock),
        eta=None,
        stage=None,
    )
    if level.paused_clock is not None:
        paused_s = level.paused_s + max(0.0, operation.clock - level.paused_clock)
        ended = replace(ended, paused_s=paused_s, paused_clock=None)
    if level.path:
        return replace(ended, status=Status.CANCELLED, message=_PARENT_ENDED)
    return replace(ended, status=Status.FAILED, error=Failure(ERROR_TYPE, reason or _DEFAULT_REASON))


def get_end(root: LevelSnapshot) -> float:
    """Return the end of an ended operation in Unix seconds."""
    return root.observed_at if root.ended_at is None else root.ended_at
