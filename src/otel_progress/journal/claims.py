"""Claims of runs: which run is continued, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from otel_progress.errors import JournalError, OperationRunningError
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.snapshots import end_abandoned_level
from otel_progress.model import LevelSnapshot, Number, Status
from otel_progress.operations import OperationSnapshot
from otel_progress.resumption import RunClaim, digest_key, digest_level_scope, is_complete, is_empty

SUPERSEDED_MESSAGE: Final = "continued by a later session"
"""Message of a superseded operation that had not ended."""


class ClaimBusyError(JournalError):
    """Another process has the lease of a claim. It expires if that process was killed."""

    is_temporary = True


def select_runs(
    found: Sequence[OperationSnapshot],
    claim: RunClaim,
    has_work: Callable[[str], bool],
    build_error: Callable[[OperationSnapshot], OperationRunningError],
) -> tuple[list[OperationSnapshot], OperationSnapshot | None]:
    """Return the runs that a claim supersedes, and the one that it continues, if any.

    ``found`` are the newest runs of the operation, the newest first. It is the newest run with
    progress that follows the last completed run. Why not always the newest one: a session that was
    killed at once has nothing to continue. ``has_work`` returns True if a run has a checkpoint,
    keys, or continues another one. Raises OperationRunningError if a process is alive.
    """
    dead: list[OperationSnapshot] = []
    for operation in found:
        if operation.run == claim.root.info.run:
            continue
        if is_complete(operation.root):
            break
        is_own = operation.root.info.instance == claim.instance.id
        if not operation.status.finished and not operation.may_be_dead and not is_own:
            raise build_error(operation)
        dead.append(operation)
        if not is_empty(operation.root) or has_work(operation.run):
            return dead, operation
    return dead, dead[0] if dead else None


def get_attempt(dead: Sequence[OperationSnapshot]) -> int:
    """Return the attempt of the run that continues some runs."""
    return max(operation.root.info.attempt for operation in dead) + 1


def build_running_error(
    operation: OperationSnapshot, heartbeat: Heartbeat | None, moment: ReadTime
) -> OperationRunningError:
    """Return the error for a run whose process is alive."""
    process = operation.instance
    owner = "another process"
    if process is not None:
        owner = f"process {process.pid} on {process.host.split('/')[0]!r}"
    error = OperationRunningError(
        f"Invalid start of operation {operation.operation_id!r} with resume=True: expected no live process "
        f"that runs it, but {owner} does. Wait for its end, cancel it, or use another id."
    )
    if heartbeat is not None:
        error.retry_after_s, error.heartbeat_at = moment.get_expiry_s(heartbeat), heartbeat.heartbeat_at
    return error


def supersede_level(
    level: LevelSnapshot, operation: OperationSnapshot, run: str, moment: ReadTime
) -> LevelSnapshot:
    """Return a level of an operation that ``run`` continues now.

    A level that has not ended is cancelled. The operation refers to the new run.
    """
    ended = level
    if not level.status.finished:
        ended = replace(
            end_abandoned_level(level, operation, "", moment), status=Status.CANCELLED, error=None
        )
    if level.path:
        return ended
    message = level.message if level.status.finished else SUPERSEDED_MESSAGE
    return replace(ended, sequence=level.sequence + 1, message=message, superseded_by=run)


def list_level_keys(operation: OperationSnapshot) -> list[tuple[bytes, bytes, Number]]:
    """Return the keys of the completed levels of an operation.

    Each is a scope, a key and a weight. They replace the keys of a run that recorded none, because
    it was started without ``resume``.
    """
    return [
        (
            digest_level_scope(level.info.parent_path or ""),
            digest_key(level.path.rpartition("/")[2]),
            0 if level.info.declared else level.info.weight,
        )
        for level in operation.levels
        if level.status is Status.COMPLETED
    ]
