"""Questions about operations, asked of the running configuration; without one there is nothing to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_progress.config import current_runtime
from otel_progress.errors import ConfigurationError

if TYPE_CHECKING:
    from otel_progress.model import Outcome
    from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
    from otel_progress.records import LogRecord
    from otel_progress.runtime.callbacks import Callback


def get_operation(operation_id: str) -> OperationSnapshot | None:
    """Return the newest run of this id with its levels: live ones as of now, else from the journal; None when unknown."""
    runtime = current_runtime()
    return None if runtime is None else runtime.get_operation(operation_id)


def get_active_operations() -> list[OperationSnapshot]:
    """Return the operations of this process that have not ended, with their levels, newest first."""
    runtime = current_runtime()
    return [] if runtime is None else runtime.get_active_operations()


def get_history(operation_type: str | None = None, limit: int = 100) -> list[OperationSnapshot]:
    """Return ended operations, the last one first: those of this process, and those the journal keeps."""
    runtime = current_runtime()
    return [] if runtime is None else runtime.get_history(operation_type, limit)


def get_events(
    operation_id: str, *, level: str | None = None, outcome: Outcome | None = None, since: float | None = None
) -> list[Event]:
    """Return the kept item events of the newest run of this id, oldest first."""
    runtime = current_runtime()
    return (
        [] if runtime is None else runtime.get_events(operation_id, level=level, outcome=outcome, since=since)
    )


def get_batch(batch_id: str) -> BatchSnapshot | None:
    """Return a batch of operations as it is now, those of other processes included where there is a journal; None when unknown."""
    runtime = current_runtime()
    return None if runtime is None else runtime.get_batch(batch_id)


def get_logs(
    operation_id: str,
    *,
    path: str | None = None,
    severity: int = 0,
    since: float | None = None,
    limit: int = 1000,
) -> list[LogRecord]:
    """Return captured log records of the newest run of this id, oldest first; see :meth:`Runtime.get_logs`."""
    runtime = current_runtime()
    if runtime is None:
        return []
    return runtime.get_logs(operation_id, path=path, severity=severity, since=since, limit=limit)


def request_cancel(operation_id: str, reason: str = "") -> bool:
    """Ask the active run of this id, in whatever process, to stop; False when there is none. See :meth:`Runtime.request_cancel`."""
    runtime = current_runtime()
    return False if runtime is None else runtime.request_cancel(operation_id, reason)


def add_callback(callback: Callback, interval: float = 0.1) -> None:
    """Call ``callback(event, operation)`` from a thread of its own; see :meth:`Runtime.add_callback`. Needs ``configure`` first."""
    runtime = current_runtime()
    if runtime is None:
        msg = "add_callback() has nothing to follow: call otel_progress.configure() first"
        raise ConfigurationError(msg)
    runtime.add_callback(callback, interval)


def remove_callback(callback: Callback) -> None:
    """Do not call ``callback`` any more."""
    runtime = current_runtime()
    if runtime is not None:
        runtime.remove_callback(callback)
