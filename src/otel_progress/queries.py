"""Module functions that query, flush and shut down the active configuration.

Without a configuration they return empty results and do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_progress.config import current_runtime
from otel_progress.errors import ConfigurationError
from otel_progress.runtime.runtime import FLUSH_S, SHUTDOWN_S

if TYPE_CHECKING:
    from otel_progress.model import Outcome
    from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
    from otel_progress.records import LogRecord
    from otel_progress.runtime.callbacks import Callback


def get_operation(operation_id: str) -> OperationSnapshot | None:
    """Return the newest run of an operation with its levels, or None if it is unknown.

    A run of this process is current. Another run is read from the journal. Without a
    configuration the result is None.
    """
    runtime = current_runtime()
    return None if runtime is None else runtime.get_operation(operation_id)


def get_active_operations() -> list[OperationSnapshot]:
    """Return the active operations of this process with their levels, newest first.

    Without a configuration the list is empty.
    """
    runtime = current_runtime()
    return [] if runtime is None else runtime.get_active_operations()


def get_history(operation_type: str | None = None, limit: int = 100) -> list[OperationSnapshot]:
    """Return ended operations of this process and of the journal, the last one first.

    The operations have no levels. ``operation_type`` selects one type, and ``limit`` is the maximum
    number of operations. Without a configuration the list is empty.
    """
    runtime = current_runtime()
    return [] if runtime is None else runtime.get_history(operation_type, limit)


def get_events(
    operation_id: str, *, path: str | None = None, outcome: Outcome | None = None, since: float | None = None
) -> list[Event]:
    """Return the newest 1,000 matching item events of the newest run, oldest first.

    ``path`` selects a level with its subtree. ``since`` is the earliest time in Unix seconds.
    Without a configuration the list is empty.
    """
    runtime = current_runtime()
    if runtime is None:
        return []
    return runtime.get_events(operation_id, path=path, outcome=outcome, since=since)


def get_batch(batch_id: str) -> BatchSnapshot | None:
    """Return the current state of a batch, or None if it is unknown.

    With a journal, it includes the operations of other processes. Without a configuration the
    result is None.
    """
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
    """Return captured log records of the newest run, oldest first.

    See :meth:`Runtime.get_logs`. Without a configuration the list is empty.
    """
    runtime = current_runtime()
    if runtime is None:
        return []
    return runtime.get_logs(operation_id, path=path, severity=severity, since=since, limit=limit)


def request_cancel(operation_id: str, reason: str = "") -> bool:
    """Request that the active run of an operation stops, in any process.

    Return False if no run is active, or without a configuration. Raises JournalError if the request
    is for another process and cannot be written. See :meth:`Runtime.request_cancel`.
    """
    runtime = current_runtime()
    return False if runtime is None else runtime.request_cancel(operation_id, reason)


def add_callback(callback: Callback, interval: float = 0.1) -> None:
    """Register a callback that its own thread calls with (event, operation).

    ``interval`` is the shortest time between two updates of an operation, in seconds. Raises
    ConfigurationError without a configuration, and for an invalid callback or interval. See
    :meth:`Runtime.add_callback`.
    """
    runtime = current_runtime()
    if runtime is None:
        msg = (
            "Invalid call of add_callback(): expected a configuration. Call otel_progress.configure() first."
        )
        raise ConfigurationError(msg)
    runtime.add_callback(callback, interval)


def remove_callback(callback: Callback) -> None:
    """Unregister a callback. An unknown callback is ignored."""
    runtime = current_runtime()
    if runtime is not None:
        runtime.remove_callback(callback)


def flush(timeout: float = FLUSH_S) -> bool:
    """Send all progress so far to the journal, callbacks and exporters.

    Return False if a receiver failed or took longer than ``timeout`` seconds. Without a
    configuration there is nothing to send, and the result is True. See :meth:`Runtime.force_flush`.
    """
    runtime = current_runtime()
    return True if runtime is None else runtime.force_flush(timeout)


def shutdown(timeout: float = SHUTDOWN_S) -> bool:
    """Cancel active operations, export everything, and end the configuration.

    Return False if a component failed or took longer than ``timeout`` seconds. Further calls, and
    calls without a configuration, do nothing and return True. Never raises. After it,
    ``configure()`` can be called again. See :meth:`Runtime.shutdown`.
    """
    runtime = current_runtime()
    return True if runtime is None else runtime.shutdown(timeout)
