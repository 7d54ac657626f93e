"""Operations of task queues: headers, executed tasks, and killed tasks.

The integrations with task queues share it. A message has three headers: the run of its operation
with the number of the attempt, the level that sends the task, and the trace context. See
:mod:`otel_progress.instrument.relays` for the runs.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, Final, TypeVar

from opentelemetry import context as context_api
from opentelemetry import propagate, trace

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument import relays
from otel_progress.instrument.context import get_current_batch
from otel_progress.instrument.level import Level
from otel_progress.interrupts import is_interrupt
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.propagator import ProgressPropagator
from otel_progress.queries import get_operation
from otel_progress.runtime.runtime import REASON_EXIT

RUN_HEADER: Final = "otel-progress-run"
"""Header of a message: the run of its operation, and the number of the attempt."""


BATCH_HEADER: Final = "otel-progress-batch"
"""Header of a message: the id of the batch of its operation."""


TERMINATED: Final = "terminated"
"""Message of a task that a signal ended."""


MAX_KILLED_TASKS: Final = 1_000
"""Killed tasks that wait for their end. Beyond it the oldest ones stay abandoned."""


FIND_S: Final = 5.0
"""Time in which the operation of a killed task is searched in the journal, in seconds."""


_POLL_S: Final = 0.1
"""Time between two searches, in seconds."""


_MAX_RUN_CHARACTERS: Final = 64


_MAX_ATTEMPT_DIGITS: Final = 6


F = TypeVar("F", bound=Callable[..., object])


_propagator: Final = ProgressPropagator()


def guard(function: F) -> F:
    """Decorate a hook so that it does nothing without a configuration.

    Its errors are reported.
    """
    reporting = report_errors(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return reporting(*args, **kwargs) if relays.is_recording() else None

    return call  # type: ignore[return-value]


def report_errors(function: F) -> F:
    """Decorate a hook so that it reports its errors instead of raising them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("start", "The progress of a task is incomplete.", error=error)
            return None

    return call  # type: ignore[return-value]


# --- messages ---


def add_headers(headers: MutableMapping[str, Any]) -> str:
    """Add the headers of a new task, and return its run.

    The operation of a task that is sent in the block of a batch belongs to the batch.

    Headers of the trace that are there, such as those of another instrumentation, stay.
    """
    run = uuid.uuid4().hex
    headers[RUN_HEADER] = format_run(run, 1)
    batch = get_current_batch()
    if batch is not None:
        headers[BATCH_HEADER] = batch
    if not any(name in headers for name in propagate.get_global_textmap().fields):
        propagate.inject(headers)
    _propagator.inject(headers)
    return run


def copy_link(source: Mapping[str, Any], target: MutableMapping[str, Any]) -> None:
    """Copy trace and sending level of an attempt to the message of the next one.

    Why not the current level: an operation cannot be part of itself.
    """
    for name in (*propagate.get_global_textmap().fields, *_propagator.fields):
        if name in source:
            target[name] = source[name]


def format_run(run: str, attempt: int) -> str:
    """Return the value of the header of a run."""
    return f"{run};{attempt}"


def parse_run(value: object) -> tuple[str, int] | None:
    """Return the run and the attempt of a header, or None if it is invalid."""
    if not isinstance(value, str):
        return None
    run, _, attempt = value.partition(";")
    if not run.isalnum() or len(run) > _MAX_RUN_CHARACTERS:
        return None
    if not (attempt.isascii() and attempt.isdecimal()) or len(attempt) > _MAX_ATTEMPT_DIGITS:
        return None
    return run, int(attempt)


def get_batch_id(headers: Mapping[str, Any]) -> str | None:
    """Return the id of the batch in headers, or None."""
    batch = headers.get(BATCH_HEADER)
    return batch if isinstance(batch, str) else None


def _extract(headers: Mapping[str, Any]) -> context_api.Context | None:
    """Return the context with the trace and the level that sent a task, or None.

    A span that another instrumentation has started for the task stays the current one.
    """
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    if not texts:
        return None
    context = context_api.get_current()
    if not trace.get_current_span(context).get_span_context().is_valid:
        context = propagate.extract(texts, context)
    return _propagator.extract(texts, context)


# --- executed tasks ---


def _detach(token: Any, context: context_api.Context) -> None:
    """Detach a context, unless another instrumentation has left it already."""
    if context_api.get_current() is context:
        context_api.detach(token)


class TaskExecution:
    """Task that this process executes, from its start to its end.

    ``level`` is a handle that was not started. ``headers`` are those of the message. ``attempt``
    replaces the number in them. ``is_repeated`` is True if the message was delivered before.
    """

    def __init__(
        self,
        level: Level,
        headers: Mapping[str, Any],
        attempt: int | None = None,
        *,
        is_repeated: bool = False,
    ) -> None:
        run, number = parse_run(headers.get(RUN_HEADER)) or (uuid.uuid4().hex, 1)
        self.run = run
        self.attempt = number if attempt is None else attempt
        self.headers = headers
        self.level = relays.relay_operation(level, run, self.attempt, is_repeated=is_repeated)
        self.thread = threading.get_ident()
        self.error: BaseException | None = None
        self._stack = ExitStack()

    def continue_run(self, run: str, attempt: int, level: Level) -> None:
        """Continue another run than that of the headers, before the start."""
        self.run, self.attempt = run, attempt
        self.level = relays.relay_operation(level, run, attempt)

    def start(self) -> None:
        """Start the operation, and make it the current level of this thread or task."""
        context = _extract(self.headers)
        if context is not None:
            self._stack.callback(_detach, context_api.attach(context), context)
        self._stack.enter_context(self.level)

    def end(self, error: BaseException | None = None) -> None:
        """End the operation, and restore the context. A completed task has no error."""
        try:
            self._stack.__exit__(
                None if error is None else type(error), error, getattr(error, "__traceback__", None)
            )
        finally:
            self._stack.close()

    def cancel(self, reason: str) -> None:
        """End the operation as cancelled, and restore the context."""
        self.level.cancel(reason)
        self._stack.close()

    def skip(self, reason: str) -> None:
        """End the operation as skipped, and restore the context."""
        self.level.skip(reason)
        self._stack.close()

    def end_attempt(self, reason: str) -> None:
        """End this attempt, and store the next one as pending. The context stays."""
        if self.level.recording:
            relays.announce_attempt(self.level, reason)

    def leave(self) -> None:
        """Restore the context."""
        self._stack.close()


def end_queued(level: Level, headers: Mapping[str, Any], reason: str, attempt: int | None = None) -> None:
    """End the operation of a task that no process executes. It is cancelled."""
    run, number = parse_run(headers.get(RUN_HEADER)) or (uuid.uuid4().hex, 1)
    relays.relay_operation(level, run, attempt or number, is_repeated=True).cancel(reason)


# --- killed tasks ---


class _KilledTasks:
    """Ends the operations of killed tasks in a thread, because that reads the journal."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[str, int | None, Status, str, BaseException | str | None]] = deque(
            maxlen=MAX_KILLED_TASKS
        )
        self._lock = threading.Lock()
        self._is_running = False

    def add(self, *task: Any) -> None:
        self._tasks.append(task)
        with self._lock:
            is_running, self._is_running = self._is_running, True
        if not is_running:
            threading.Thread(target=self._end_all, name="otel-progress-killed", daemon=True).start()

    def _end_all(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._is_running = False
                    return
                task = self._tasks.popleft()
            try:
                _end_one(*task)
            except Exception as error:
                report_internal_error("journal", "The end of a killed task is not stored.", error=error)


_REPORTED_ENDS: Final = frozenset({TERMINATED, REASON_EXIT})
"""Messages of a process that was ended and reported its end itself."""


def _end_one(
    task_id: str, attempt: int | None, status: Status, reason: str, error: BaseException | str | None
) -> None:
    """End the operation of a killed task. Wait until the journal has it."""
    wait = threading.Event()
    for _ in range(int(FIND_S / _POLL_S)):
        operation = get_operation(task_id)
        if operation is not None and _is_attempt(operation, attempt):
            if attempt is None or operation.root.info.attempt == attempt:
                # Why also a cancelled one: a process that a signal ends may report its end itself.
                relays.end_operation(operation, status, reason, error, replaced_messages=_REPORTED_ENDS)
            return
        wait.wait(_POLL_S)


def _is_attempt(operation: OperationSnapshot, attempt: int | None) -> bool:
    """Return whether the journal has the attempt of a killed task, or a later one."""
    if attempt is None:
        return operation.status is not Status.PENDING
    return operation.root.info.attempt >= attempt


_killed = _KilledTasks()


def _discard_killed() -> None:
    global _killed
    _killed = _KilledTasks()


on_fork(phase=ForkPhase.CACHES, after_in_child=_discard_killed)


def end_killed(
    task_id: str, attempt: int | None, status: Status, reason: str, error: BaseException | str | None = None
) -> None:
    """End an operation of this attempt, whose process was killed. Never waits.

    The attempt None is the one that is running. A later attempt is not changed. Without a journal
    that the processes share it has no effect.
    """
    _killed.add(task_id, attempt, status, reason, error)
