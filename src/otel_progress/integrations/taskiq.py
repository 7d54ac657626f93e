"""Taskiq: each task is an operation, from the queue to its end, with its attempts.

Add :class:`ProgressMiddleware` to the broker, in the processes that send tasks and in those of the
workers. All of them call ``configure()``, with one journal for all. The type of an operation is the
name of the task, and its id is that of the task. The headers of
:mod:`otel_progress.integrations.tasks` are labels of the message.
"""

from __future__ import annotations

from typing import Any, Final

try:
    from taskiq import NoResultError, TaskiqMessage, TaskiqMiddleware, TaskiqResult
except ImportError as error:
    text = "The integration with Taskiq requires taskiq 0.11 or newer. Install it: pip install taskiq"
    raise ImportError(text) from error

from otel_progress.instrument import relays
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.integrations.tasks import (
    RUN_HEADER,
    TaskExecution,
    add_headers,
    get_batch_id,
    guard,
    parse_run,
    report_errors,
)

_RETRIES_LABEL: Final = "_retries"
"""Label in which the middlewares of Taskiq count retries."""


_tracer: Final = ProgressTracer("otel_progress.taskiq")


def _build_operation(message: TaskiqMessage) -> Level:
    return _tracer.operation(message.task_name, id=message.task_id, batch=get_batch_id(message.labels))


def _get_attempt(message: TaskiqMessage) -> int:
    try:
        return 1 + max(0, int(message.labels.get(_RETRIES_LABEL, 0)))
    except (TypeError, ValueError):
        return 1


class ProgressMiddleware(TaskiqMiddleware):
    """Middleware that follows tasks, in senders and in workers."""

    def __init__(self) -> None:
        super().__init__()
        self._executions: dict[str, list[TaskExecution]] = {}

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Add the labels of a new task. Store the operation as pending."""
        self._prepare(message)
        return message

    @guard
    def _prepare(self, message: TaskiqMessage) -> None:
        known, attempt = parse_run(message.labels.get(RUN_HEADER)), _get_attempt(message)
        if known is None or attempt == 1:
            run = add_headers(message.labels)
            relays.announce_operation(_build_operation(message), run, attempt)
        else:
            relays.announce_operation(_build_operation(message), known[0], attempt, "waits for a retry")

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Start the operation of a task, and make it the current level."""
        self._start(message)
        return message

    @guard
    def _start(self, message: TaskiqMessage) -> None:
        executions = self._executions.setdefault(message.task_id, [])
        if executions:
            # Why: a broker in memory executes a retry inside the attempt that failed.
            executions[-1].end_attempt("waits for a retry")
        level = _build_operation(message)
        execution = TaskExecution(level, message.labels, _get_attempt(message), is_repeated=True)
        executions.append(execution)
        execution.start()

    @report_errors
    def on_error(self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException) -> None:
        """End the operation of a task with its error.

        A task that sets no result is completed.
        """
        self._end(message, None if isinstance(exception, NoResultError) else exception)

    @report_errors
    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """End the operation of a task that has no error."""
        # Why: the next attempt may run in this process already.
        if not result.is_err:
            self._end(message, None)

    def _end(self, message: TaskiqMessage, error: BaseException | None) -> None:
        executions = self._executions.get(message.task_id)
        if not executions:
            return
        execution = executions.pop()
        if not executions:
            self._executions.pop(message.task_id, None)
        execution.end(error)
