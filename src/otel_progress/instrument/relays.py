"""Operations whose run passes from process to process, such as tasks of a queue.

The process that sends a task stores its operation as pending. The process that executes the task
continues the same run. After an error, the next attempt continues it again, in any process. If the
process is killed, another one ends the run. All of them write the same run to the journal, and the
highest sequence number has precedence. So no process waits for another one.

Without a journal that the processes share, each of them has only its own part.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from otel_progress.instrument.arguments import RelayedArguments, normalize_arguments
from otel_progress.instrument.backend import backend_slot
from otel_progress.instrument.context import find_parent_link, get_current_level
from otel_progress.instrument.failures import to_failure
from otel_progress.instrument.level import Level
from otel_progress.live.snapshots import build_snapshot
from otel_progress.model import NO_LEVELS, LevelSnapshot, ParentLink, Status
from otel_progress.processes import QUEUE_INSTANCE
from otel_progress.text import truncate

if TYPE_CHECKING:
    from otel_progress.instrument.failures import ErrorLike
    from otel_progress.operations import OperationSnapshot


MAX_ATTEMPTS: Final = 9_000
"""Highest attempt number. Later attempts have this one, because sequence numbers are bounded."""


_PER_ATTEMPT: Final = 10**12
"""Sequence numbers per attempt. The part below it is a count, or milliseconds since 1970."""


def is_recording() -> bool:
    """Return True if progress is recorded in this process."""
    return backend_slot.current is not None


def relay_operation(level: Level, run: str, attempt: int = 1, *, is_repeated: bool = False) -> Level:
    """Return an operation that continues a run of other processes from the beginning.

    ``level`` is a handle that was not started. ``is_repeated`` is True if the same attempt was
    started before, by a process that may be dead.
    """
    arguments = RelayedArguments(*level._arguments)
    arguments.run = run
    arguments.attempt = max(1, min(attempt, MAX_ATTEMPTS))
    arguments.sequence = _get_first_sequence(arguments.attempt) + (_get_milliseconds() if is_repeated else 1)
    return Level(arguments, None)


def announce_operation(level: Level, run: str, attempt: int = 1, message: str | None = None) -> None:
    """Store the operation of a handle as pending, for a process that will start it.

    ``level`` is a handle that was not started. The operation is part of the current level, unless
    that is an earlier attempt. Without a journal nothing is stored. Never waits.
    """
    backend = backend_slot.current
    if backend is None or not backend.store_name:
        return
    current = get_current_level()
    if current is None:
        link = find_parent_link(backend)
    else:
        operation = current._node.operation
        link = ParentLink(operation.id, operation.run, current._node.path)
    spec = normalize_arguments(backend, level._arguments)
    if level._arguments.batch is None:
        # Why not the current batch: the process that starts the task does not know it.
        spec = spec._replace(batch=None)
    if link is not None and link.run != run:
        spec = spec._replace(link=link)
    pending = _to_pending(build_snapshot(backend.store.create_node(None, spec)), run, attempt)
    backend.store.relay_levels([pending if message is None else replace(pending, message=truncate(message))])


def announce_attempt(level: Level, message: str) -> None:
    """End this attempt of a running operation, and store the next one as pending.

    ``message`` is the reason, such as the error. Never waits for the journal.
    """
    backend = backend_slot.current
    snapshot = level.snapshot()
    if backend is not None and backend.store_name and snapshot.status is Status.RUNNING:
        attempt = min(snapshot.info.attempt + 1, MAX_ATTEMPTS)
        pending = _to_pending(snapshot, snapshot.info.run, attempt)
        # Why first: a reader must not find the run ended before it is pending again.
        backend.store.relay_levels([replace(pending, message=truncate(message))])
    level.cancel(message)


def end_operation(
    operation: OperationSnapshot,
    status: Status,
    reason: str,
    error: ErrorLike | None = None,
    *,
    replaced_messages: Collection[str] = (),
) -> None:
    """End an operation whose process was killed, with its running levels.

    ``operation`` is read from the journal. An ended one is not changed, unless it was cancelled
    with one of the messages ``replaced_messages``. Never waits.
    """
    backend, root = backend_slot.current, operation.root
    is_replaced = root.status is Status.CANCELLED and root.message in replaced_messages
    if backend is None or (root.status.finished and not is_replaced):
        return
    now = time.time()
    sequence = _get_first_sequence(root.info.attempt) + _get_milliseconds()
    ended = [
        replace(
            level,
            sequence=sequence,
            status=Status.CANCELLED if level.path else status,
            message=level.message if level.path else truncate(reason),
            error=None if level.path or error is None else to_failure(error),
            observed_at=now,
            ended_at=max(now, level.info.started_at or now),
            duration_s=level.elapsed(operation.clock),
            eta=None,
            stage=None,
            paused_clock=None,
        )
        for level in (root, *(level for level in operation.levels if level.status is Status.RUNNING))
    ]
    backend.store.relay_levels(ended)


def _to_pending(snapshot: LevelSnapshot, run: str, attempt: int) -> LevelSnapshot:
    """Return a root as it is while its task waits in a queue."""
    now, clock = time.time(), time.monotonic()
    info = replace(
        snapshot.info,
        run=run,
        attempt=attempt,
        instance=QUEUE_INSTANCE,
        started_at=now,
        started_clock=clock,
        trace_id=None,
        span_id=None,
    )
    return replace(
        snapshot,
        info=info,
        sequence=_get_first_sequence(attempt),
        status=Status.PENDING,
        current=0,
        ratio=None,
        failed=0,
        skipped=0,
        error=None,
        stage=None,
        eta=None,
        observed_at=now,
        observed_clock=clock,
        advanced_at=None,
        advanced_clock=None,
        ended_at=None,
        duration_s=None,
        paused_clock=None,
        paused_s=0.0,
        failed_below=0,
        ended_levels=NO_LEVELS,
    )


def _get_first_sequence(attempt: int) -> int:
    return max(1, min(attempt, MAX_ATTEMPTS)) * _PER_ATTEMPT


def _get_milliseconds() -> int:
    return int(time.time() * 1000) % _PER_ATTEMPT
