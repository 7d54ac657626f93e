"""Dramatiq: each message is an operation, from the queue to its last attempt.

Add :class:`ProgressMiddleware` to the broker, in the processes that send messages and in those of
the workers. All of them call ``configure()``, with one journal for all. The type of an operation is
the name of the actor, and its id is that of the message. The headers of
:mod:`otel_progress.integrations.tasks` are in the options of the message.
"""

from __future__ import annotations

import sys
from typing import Any, Final

try:
    from dramatiq import Middleware
except ImportError as error:
    text = "The integration with Dramatiq requires dramatiq 1.17 or newer. Install it: pip install dramatiq"
    raise ImportError(text) from error

from otel_progress.instrument import relays
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.integrations.tasks import (
    RUN_HEADER,
    TaskExecution,
    add_headers,
    end_queued,
    get_batch_id,
    guard,
    parse_run,
    report_errors,
)
from otel_progress.queries import flush

OPTION: Final = "otel_progress"
"""Option of a message with the headers."""


FLUSH_S: Final = 2.0
"""Time that a worker waits at its shutdown until its progress is written, in seconds."""


_tracer: Final = ProgressTracer("otel_progress.dramatiq")


def _build_operation(message: Any) -> Level:
    batch = get_batch_id(_get_headers(message))
    return _tracer.operation(message.actor_name, id=message.message_id, batch=batch, queue=message.queue_name)


def _get_headers(message: Any) -> dict[str, Any]:
    headers = message.options.get(OPTION)
    return headers if isinstance(headers, dict) else {}


def _get_attempt(message: Any) -> int:
    retries = message.options.get("retries")
    return 1 + (retries if isinstance(retries, int) and retries > 0 else 0)


class ProgressMiddleware(Middleware):
    """Middleware that follows messages.

    Add it before ``Retries``. Then a message that is retried is pending again at once, instead of
    failed for a moment.
    """

    def __init__(self) -> None:
        self._executions: dict[str, TaskExecution] = {}

    @guard
    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        """Add the headers of a new message. Store the operation as pending."""
        headers, attempt = _get_headers(message), _get_attempt(message)
        known = parse_run(headers.get(RUN_HEADER))
        if known is None:
            headers = {}
            run = add_headers(headers)
            message.options[OPTION] = headers
            relays.announce_operation(_build_operation(message), run, attempt)
        elif attempt > 1:
            # Why here: another thread may start the next attempt before ``after_process_message``.
            self._end(message, sys.exc_info()[1] or RuntimeError("failed"))
            # Why also twice: a delayed message is enqueued again when its time has come.
            relays.announce_operation(_build_operation(message), known[0], attempt, "waits for a retry")

    @guard
    def before_process_message(self, broker: Any, message: Any) -> None:
        """Start the operation of a message, and make it the current level."""
        if getattr(message, "failed", False):
            return
        level = _build_operation(message)
        execution = TaskExecution(level, _get_headers(message), _get_attempt(message), is_repeated=True)
        self._executions[message.message_id] = execution
        execution.start()

    @report_errors
    def after_process_message(
        self,
        broker: Any,
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """End the operation of a message."""
        self._end(message, exception)

    def _end(self, message: Any, error: BaseException | None) -> None:
        execution = self._executions.pop(message.message_id, None)
        if execution is not None:
            execution.end(error)

    @report_errors
    def after_skip_message(self, broker: Any, message: Any) -> None:
        """End the operation of a message that is not processed."""
        execution = self._executions.pop(message.message_id, None)
        if execution is not None:
            execution.cancel("skipped")
        elif relays.is_recording():
            end_queued(_build_operation(message), _get_headers(message), "skipped", _get_attempt(message))

    @guard
    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Write all progress before the process exits."""
        flush(FLUSH_S)
