"""Huey: each task is an operation, from the queue to its end, with its attempts.

Call :func:`instrument` with the Huey object, in the processes that enqueue tasks and in the
consumer. All of them call ``configure()``, with one journal for all. The type of an operation is
the name of the task, and its id is that of the task. Messages of Huey have no headers, so an
operation has no parent.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Mapping
from typing import Any, Final

try:
    from huey import signals  # type: ignore[import-untyped]
    from huey.api import PeriodicTask  # type: ignore[import-untyped]
except ImportError as error:
    text = "The integration with Huey requires huey 2.5 or newer. Install it: pip install huey"
    raise ImportError(text) from error

from otel_progress.instrument import relays
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.integrations.tasks import (
    RUN_HEADER,
    TaskExecution,
    end_queued,
    format_run,
    parse_run,
    report_errors,
)

_tracer: Final = ProgressTracer("otel_progress.huey")


_CANCELLED: Final = {
    getattr(signals, name): text
    for name, text in {
        "SIGNAL_CANCELED": "cancelled",
        "SIGNAL_INTERRUPTED": "interrupted",
        "SIGNAL_LOCKED": "locked",
        "SIGNAL_RATE_LIMITED": "rate limited",
        "SIGNAL_REVOKED": "revoked",
        "SIGNAL_EXPIRED": "expired",
    }.items()
    if hasattr(signals, name)
}
"""Messages of the signals that end a task without an error."""


_TIMEOUT: Final = getattr(signals, "SIGNAL_TIMEOUT", "timeout")


_executions: dict[int, TaskExecution] = {}
"""Tasks that this process executes, by the identity of the task object."""


_instrumented: weakref.WeakSet[Any] = weakref.WeakSet()


def _build_operation(task: Any) -> Level:
    # Why not the id: a periodic task has the same one at each run.
    id_ = None if isinstance(task, PeriodicTask) else task.id
    return _tracer.operation(task.name, id=id_)


def _build_headers(task: Any) -> Mapping[str, str]:
    """Return the headers of a task, whose message has none.

    The run follows from the id.
    """
    if isinstance(task, PeriodicTask):
        return {RUN_HEADER: format_run(uuid.uuid4().hex, 1)}
    run = uuid.uuid5(uuid.NAMESPACE_OID, f"huey:{task.id}").hex
    # Why the difference: a task only knows how often it may still be repeated.
    return {RUN_HEADER: format_run(run, max(1, 1 + (type(task).default_retries or 0) - (task.retries or 0)))}


@report_errors
def _receive(signal: str, task: Any, error: BaseException | None = None, *others: Any) -> None:  # noqa: ARG001
    execution = _executions.get(id(task))
    if execution is None and not relays.is_recording():
        return
    if signal == signals.SIGNAL_ENQUEUED:
        if not isinstance(task, PeriodicTask):
            relays.announce_operation(_build_operation(task), _get_run(task))
    elif signal == signals.SIGNAL_EXECUTING:
        execution = TaskExecution(_build_operation(task), _build_headers(task), is_repeated=True)
        _executions[id(task)] = execution
        execution.start()
    elif signal == signals.SIGNAL_RETRYING:
        if execution is not None:
            _executions.pop(id(task)).cancel("waits for a retry")
        headers = _build_headers(task)
        run, attempt = parse_run(headers[RUN_HEADER]) or ("", 1)
        # Why not the next number: the task has counted its retry already.
        relays.announce_operation(_build_operation(task), run, attempt, "waits for a retry")
    elif execution is not None and signal in (signals.SIGNAL_COMPLETE, signals.SIGNAL_ERROR, _TIMEOUT):
        failure = TimeoutError("timed out") if signal == _TIMEOUT else error
        _executions.pop(id(task)).end(
            None if signal == signals.SIGNAL_COMPLETE else failure or RuntimeError("failed")
        )
    elif signal in _CANCELLED:
        if execution is not None:
            _executions.pop(id(task)).cancel(_CANCELLED[signal])
        elif signal in (signals.SIGNAL_REVOKED, signals.SIGNAL_EXPIRED):
            end_queued(_build_operation(task), _build_headers(task), _CANCELLED[signal])


def _get_run(task: Any) -> str:
    return _build_headers(task)[RUN_HEADER].partition(";")[0]


def instrument(huey: Any) -> None:
    """Follow the tasks of a Huey object. Idempotent."""
    if huey not in _instrumented:
        _instrumented.add(huey)
        huey.signal()(_receive)


def uninstrument(huey: Any) -> None:
    """Undo :func:`instrument`. Idempotent."""
    if huey in _instrumented:
        _instrumented.discard(huey)
        huey.disconnect_signal(_receive)
