"""Celery: each task is an operation, from the queue to its end, with its attempts.

Call :func:`instrument` in the module of the Celery application, so that the processes that send
tasks and the workers have it. All of them call ``configure()``, with one journal for all:

- The sender stores the operation as pending, and adds three headers to the message: the run, the
  level that sends the task, and the trace context.
- The process that executes the task continues this run. ``current_level()`` in the task is its
  operation.
- A retry is the next attempt of the run.
- The main process of a worker ends the runs of revoked and expired tasks, and of those whose
  process was killed.

The members of a group or chord, and the links of a chain, are one batch. Processes that record no
progress are not changed.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import wraps
from math import inf
from typing import Any, Final, TypeVar

try:
    from celery import signals
    from celery.app.task import Task
    from celery.exceptions import Ignore, Reject
except ImportError as error:
    text = "The integration with Celery requires celery 5.3 or newer. Install it: pip install celery"
    raise ImportError(text) from error
from opentelemetry import context as context_api
from opentelemetry import propagate, trace

from otel_progress.attribute_patch import AttributePatch
from otel_progress.config import configure
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument import relays
from otel_progress.instrument.batch import OperationBatch
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.interrupts import is_interrupt
from otel_progress.model import Status
from otel_progress.propagator import ProgressPropagator
from otel_progress.queries import flush, get_operation

RUN_HEADER: Final = "otel-progress-run"
"""Header of a message: the run of its operation, and the number of the attempt."""


BATCH_HEADER: Final = "otel-progress-batch"
"""Header of the links of a chain: the id of their batch."""


MAX_GROUPS: Final = 1_000
"""Groups whose members this process counts. Beyond it the count of the oldest one is dropped. Its
batch keeps the total so far.
"""


MAX_KILLED_TASKS: Final = 1_000
"""Killed tasks that wait for their end. Beyond it the oldest ones stay abandoned."""


FIND_S: Final = 5.0
"""Time in which the operation of a killed task is searched in the journal, in seconds."""


_POLL_S: Final = 0.1
"""Time between two searches, in seconds."""


FLUSH_S: Final = 2.0
"""Time that a process of the pool waits at its exit until its progress is written, in seconds."""


_STORE_VARIABLE: Final = "OTEL_PROGRESS_STORE"


_TERMINATED: Final = "terminated"
"""Message of a task that a signal ended."""


_CANVAS: Final = frozenset({"celery.map", "celery.starmap"})
"""Tasks of Celery that call another task for each element."""


F = TypeVar("F", bound=Callable[..., object])


_tracer: Final = ProgressTracer("otel_progress.celery")


_propagator: Final = ProgressPropagator()


class _Execution:
    """Task that this process executes."""

    __slots__ = ("attempt", "batch", "error", "headers", "is_continued", "level", "request", "run", "stack", "thread")

    def __init__(self, request: Any, run: str, attempt: int, level: Level) -> None:
        self.request = request
        self.run = run
        self.attempt = attempt
        self.level = level
        self.batch: str | None = None
        self.headers: Mapping[str, Any] = request.headers or {}
        self.stack = ExitStack()
        self.thread = threading.get_ident()
        self.error: BaseException | None = None
        self.is_continued = False
        """True after the message of the next attempt was built."""


_executions: dict[str, list[_Execution]] = {}
"""Tasks that this process executes, by id. Several attempts of one task may overlap."""


_groups: OrderedDict[str, list[Any]] = OrderedDict()
"""Handle of the batch, and number of the sent members, by the id of the group."""


_killed: deque[tuple[str, int, Status, str, BaseException | None]] = deque(maxlen=MAX_KILLED_TASKS)


_lock = threading.Lock()


_is_ending_killed = [False]


_is_active = [False]


_is_announcing = [True]


def _guard(function: F) -> F:
    """Do nothing without a configuration. Report errors instead of raising them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not relays.is_recording():
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("start", "The progress of a Celery task is incomplete.", error=error)
            return None

    return call  # type: ignore[return-value]


# --- the process that sends a task --------------------------------------------------------------------


@_guard
def _prepare_message(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
    """Add the headers of a message before it is sent, and store the operation as pending."""
    if not isinstance(headers, dict) or "id" not in headers:  # not protocol 2
        return
    task_id = headers["id"]
    executions = _executions.get(task_id)
    if executions:
        _continue_run(executions[-1], headers)
        return
    known = _parse_run(headers.get(RUN_HEADER))
    if headers.get("retries") and known is not None:
        # The main process sends the task again, because its process was killed.
        headers[RUN_HEADER] = f"{known[0]};{known[1] + 1}"
        return
    run = uuid.uuid4().hex
    headers[RUN_HEADER] = f"{run};1"
    propagate.inject(headers)
    _propagator.inject(headers)
    name = str(headers.get("task") or sender)
    embedded = body[2] if isinstance(body, (tuple, list)) and len(body) == 3 else {}
    batch = _find_batch(headers, name, embedded if isinstance(embedded, Mapping) else {})
    if _is_announcing[0]:
        relays.announce_operation(_build_operation(task_id, name, batch, {}), run)


def _continue_run(execution: _Execution, headers: dict[str, Any]) -> None:
    """Add the headers of the next attempt: a retry, or the task that replaces this one."""
    execution.is_continued = True
    headers[RUN_HEADER] = f"{execution.run};{execution.attempt + 1}"
    for name in (*propagate.get_global_textmap().fields, *_propagator.fields):
        # Why not the current level: an operation cannot be part of itself.
        if name in execution.headers:
            headers[name] = execution.headers[name]
    if execution.batch is not None:
        headers[BATCH_HEADER] = execution.batch


def _find_batch(headers: dict[str, Any], name: str, embedded: Mapping[str, Any]) -> str | None:
    """Return the id of the batch of a new task. Declare the batch and its total."""
    task_id, group = headers["id"], headers.get("group")
    sending = _get_current()
    if sending is not None and _is_next_link(sending.request, task_id):
        if group is None and sending.request.group is None and sending.batch is not None:
            headers[BATCH_HEADER] = sending.batch
            return sending.batch
        return None if group is None else str(group)
    if group is not None:
        # Why the index: the body of a chord has none, and was counted with the members.
        if headers.get("group_index") is not None:
            _count_member(str(group), name, has_body=embedded.get("chord") is not None)
        return str(group)
    links = _count_links(embedded.get("chain"))
    if not links:
        return None
    batch = f"chain-{task_id}"
    headers[BATCH_HEADER] = batch
    _tracer.batch(f"{name} and {links} more", id=batch, type="celery.chain", total=1 + links).start()
    return batch


def _count_member(group: str, name: str, *, has_body: bool) -> None:
    """Count a member of a group. The total of its batch increases with each one."""
    with _lock:
        counted = _groups.pop(group, None)
        if counted is None:
            kind = "celery.chord" if has_body else "celery.group"
            counted = [_tracer.batch(name, id=group, type=kind), 1 if has_body else 0]
        counted[1] += 1
        _groups[group] = counted
        while len(_groups) > MAX_GROUPS:
            _groups.popitem(last=False)
    batch: OperationBatch = counted[0]
    batch.set_total(counted[1])


def _count_links(chain: Any) -> int:
    """Return the number of tasks that follow in a chain, up to the first group in it."""
    count = 0
    for link in reversed(chain or ()):
        options = link.get("options") or {}
        if link.get("subtask_type") is not None or options.get("group_id") is not None:
            break
        count += 1
    return count


def _is_next_link(request: Any, task_id: str) -> bool:
    """Return True if a task is the next link of the chain of a request."""
    chain = request.chain
    return bool(chain) and (chain[-1].get("options") or {}).get("task_id") == task_id


def _parse_run(value: Any) -> tuple[str, int] | None:
    """Return the run and the attempt of a header, or None."""
    run, separator, attempt = value.partition(";") if isinstance(value, str) else ("", "", "")
    if not separator or not run.isalnum() or len(run) > 64 or not attempt.isdecimal() or len(attempt) > 6:
        return None
    return run, int(attempt)


# --- the process that executes a task -----------------------------------------------------------------


@_guard
def _start_task(task_id: str, task: Any, kwargs: Any = None, **_: Any) -> None:
    """Start the operation of a task, and make it the current level."""
    _move_to_end(signals.task_prerun, _start_task)
    request = task.request
    headers = request.headers or {}
    run, attempt = _parse_run(headers.get(RUN_HEADER)) or (uuid.uuid4().hex, 1 + (request.retries or 0))
    earlier = _executions.get(task_id)
    if earlier:
        _end_attempt(earlier[-1], "next attempt")
        run, attempt = earlier[-1].run, max(attempt, earlier[-1].attempt + 1)
    delivery = request.delivery_info or {}
    batch = request.group or headers.get(BATCH_HEADER)
    name = _get_inner_name(task, kwargs)
    metadata = {"queue": delivery.get("routing_key")} if delivery.get("routing_key") else {}
    level = relays.relay_operation(
        _build_operation(task_id, task.name, batch, metadata, name),
        run,
        attempt,
        is_repeated=bool(delivery.get("redelivered")),
    )
    execution = _Execution(request, run, attempt, level)
    execution.batch = batch
    _executions.setdefault(task_id, []).append(execution)
    context = _extract(headers)
    if context is not None:
        execution.stack.callback(context_api.detach, context_api.attach(context))
    execution.stack.enter_context(level)
    if task.name in _CANVAS and isinstance(kwargs, dict) and isinstance(kwargs.get("it"), (list, tuple)):
        kwargs["it"] = _CountedElements(kwargs["it"], level)


class _CountedElements(list[Any]):
    """Elements of ``celery.map``. Each one that was processed counts on the operation."""

    def __init__(self, elements: Iterable[Any], level: Level) -> None:
        super().__init__(elements)
        self._level = level
        level.set_total(len(self))

    def __iter__(self) -> Iterator[Any]:
        for element in super().__iter__():
            yield element
            self._level.increment()

    def __reduce__(self) -> tuple[object, ...]:
        return list, (list(super().__iter__()),)


@_guard
def _store_error(task_id: str, exception: Any = None, sender: Any = None, **_: Any) -> None:
    """Store the error of a task. In the main process of a worker, end a killed task."""
    executions = _executions.get(task_id)
    if executions:
        executions[-1].error = exception
    elif not isinstance(exception, (Reject, Ignore)):
        request = getattr(sender, "request", None)
        _end_killed(request, task_id, Status.FAILED, "", exception)


@_guard
def _store_reason(request: Any, reason: Any = None, **_: Any) -> None:
    """Store why a task is repeated."""
    executions = _executions.get(request.id)
    if executions:
        error = getattr(reason, "exc", None) or reason
        executions[-1].error = error if isinstance(error, BaseException) else None


@_guard
def _end_task(task_id: str, state: Any = None, retval: Any = None, **_: Any) -> None:
    """End the operation of a task, and restore the context."""
    execution = _take_execution(task_id)
    if execution is None:
        return
    level, error = execution.level, execution.error
    try:
        if state == "SUCCESS":
            execution.stack.__exit__(None, None, None)
            return
        if state == "FAILURE":
            if execution.is_continued and not level.recording:
                _restart(execution).fail(error or "failed")
            failure = error if error is not None else RuntimeError("failed")
            execution.stack.__exit__(type(failure), failure, failure.__traceback__)
        elif state == "RETRY" or (state == "IGNORED" and execution.is_continued):
            reason = "replaced by another task" if state == "IGNORED" else _describe_retry(error)
            _end_attempt(execution, reason)
        elif state == "IGNORED":
            level.skip("ignored")
        elif state == "REJECTED":
            level.cancel(f"rejected: {retval}")
        else:
            level.cancel(_TERMINATED)
    finally:
        execution.stack.close()


def _describe_retry(error: BaseException | None) -> str:
    return "waits for a retry" if error is None else f"waits for a retry: {type(error).__name__}: {error}"


def _end_attempt(execution: _Execution, reason: str) -> None:
    if execution.level.recording:
        relays.announce_attempt(execution.level, reason)


def _restart(execution: _Execution) -> Level:
    """Return the next attempt of a task, whose message could not be sent."""
    request = execution.request
    level = _build_operation(request.id, request.task, execution.batch, {})
    return relays.relay_operation(level, execution.run, execution.attempt + 1, is_repeated=True)


def _take_execution(task_id: str) -> _Execution | None:
    """Remove and return the newest execution of a task in this thread."""
    executions, thread = _executions.get(task_id, []), threading.get_ident()
    for index in range(len(executions) - 1, -1, -1):
        if executions[index].thread == thread:
            execution = executions.pop(index)
            if not executions:
                _executions.pop(task_id, None)
            return execution
    return None


def _get_current() -> _Execution | None:
    """Return the task that this thread executes, or None."""
    from celery import current_task

    request = getattr(current_task, "request", None)
    executions = _executions.get(getattr(request, "id", None) or "")
    return executions[-1] if executions else None


def _build_operation(
    task_id: str, name: str, batch: str | None, metadata: Mapping[str, object], inner: str | None = None
) -> Level:
    return _tracer.operation(name, inner, id=task_id, batch=batch, **metadata)  # type: ignore[arg-type]


def _get_inner_name(task: Any, kwargs: Any) -> str | None:
    """Return the name of the task that ``celery.map`` calls. None for any other task."""
    inner = kwargs.get("task") if task.name in _CANVAS and isinstance(kwargs, Mapping) else None
    return str(inner["task"]) if isinstance(inner, Mapping) and "task" in inner else None


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


def _move_to_end(signal: Any, receiver: Callable[..., object]) -> None:
    """Make a receiver the last one of a signal.

    Why: that of opentelemetry-instrumentation-celery replaces the current context.
    """
    if signal.receivers and signal.receivers[-1][1] is not receiver:
        signal.disconnect(receiver)
        signal.connect(receiver, weak=False)


def _wrap_update_state(update_state: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(update_state)
    def call(self: Any, task_id: Any = None, state: Any = None, meta: Any = None, **kwargs: Any) -> Any:
        result = update_state(self, task_id, state, meta, **kwargs)
        if _state_patch.is_active and isinstance(meta, Mapping):
            _read_state(self, task_id, meta)
        return result

    return call


@_guard
def _read_state(task: Any, task_id: Any, meta: Mapping[Any, Any]) -> None:
    """Set count, total and message of the operation from the state that a task stored."""
    executions = _executions.get(task_id or task.request.id or "")
    if not executions:
        return
    total, current = _to_count(meta.get("total")), _to_count(meta.get("current"))
    texts = (meta.get(key) for key in ("message", "status", "description"))
    message = next((each for each in texts if isinstance(each, str) and each), None)
    if current is not None and total:
        current = min(current, total)
    executions[-1].level.update(current=current, total=total or None, message=message)


def _to_count(value: Any) -> float | None:
    """Return a finite number of at least 0. None for any other value."""
    is_count = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < inf
    return value if is_count else None


_state_patch: Final = AttributePatch(Task, "update_state")


# --- the main process of a worker ---------------------------------------------------------------------


@_guard
def _end_revoked(
    request: Any, terminated: bool = False, signum: Any = None, expired: bool = False, **_: Any
) -> None:
    """End the operation of a task that was revoked or has expired."""
    task_id = request.id
    if terminated:
        _end_killed(request, task_id, Status.CANCELLED, f"revoked, stopped by {_describe_signal(signum)}", None)
        return
    headers = request.headers or {}
    run, attempt = _parse_run(headers.get(RUN_HEADER)) or (uuid.uuid4().hex, 1)
    level = _build_operation(task_id, request.task, request.group or headers.get(BATCH_HEADER), {})
    relays.relay_operation(level, run, attempt, is_repeated=True).cancel("expired" if expired else "revoked")


def _describe_signal(signum: Any) -> str:
    try:
        import signal

        return signal.Signals(signum).name
    except ValueError:
        return str(signum)


def _end_killed(request: Any, task_id: str, status: Status, reason: str, error: BaseException | None) -> None:
    """End the operation of a killed task in a thread, because that reads the journal."""
    headers = getattr(request, "headers", None) or {}
    known = _parse_run(headers.get(RUN_HEADER))
    _killed.append((task_id, known[1] if known else 1, status, reason, error))
    with _lock:
        is_started, _is_ending_killed[0] = _is_ending_killed[0], True
    if not is_started:
        threading.Thread(target=_end_all_killed, name="otel-progress-celery", daemon=True).start()


def _end_all_killed() -> None:
    while True:
        try:
            killed = _killed.popleft()
        except IndexError:
            with _lock:
                if not _killed:
                    _is_ending_killed[0] = False
                    return
            continue
        try:
            _end_one_killed(*killed)
        except Exception as error:
            report_internal_error("journal", "The end of a killed Celery task is not stored.", error=error)


def _end_one_killed(
    task_id: str, attempt: int, status: Status, reason: str, error: BaseException | None
) -> None:
    """End the operation of a killed task. Wait until the journal has it."""
    wait = threading.Event()
    for _ in range(int(FIND_S / _POLL_S)):
        operation = get_operation(task_id)
        if operation is not None and operation.root.info.attempt >= attempt:
            is_next = operation.root.info.attempt > attempt or task_id in _executions
            if not is_next:
                # Why also a cancelled one: a process that exceeded its time limit may end it itself.
                relays.end_operation(operation, status, reason, error, replaced_message=_TERMINATED)
            return
        wait.wait(_POLL_S)


# --- processes of a worker ----------------------------------------------------------------------------


def _prepare_process(**_: Any) -> None:
    """Start the recording if only the environment configures it. Drop the state of the parent."""
    _executions.clear()
    _groups.clear()
    _killed.clear()
    _is_ending_killed[0] = False
    global _lock
    _lock = threading.Lock()
    if relays.is_recording() or not os.environ.get(_STORE_VARIABLE):
        return
    try:
        configure(console=False)
    except Exception as error:
        report_internal_error("start", "Progress of this Celery worker is not recorded.", error=error)


@_guard
def _leave_process(**_: Any) -> None:
    """Write everything before a process of the pool exits, because it runs no exit functions."""
    flush(FLUSH_S)


def _list_receivers() -> list[tuple[Any, Callable[..., object]]]:
    return [
        (signals.before_task_publish, _prepare_message),
        (signals.task_prerun, _start_task),
        (signals.task_postrun, _end_task),
        (signals.task_failure, _store_error),
        (signals.task_retry, _store_reason),
        (signals.task_revoked, _end_revoked),
        (signals.worker_init, _prepare_process),
        (signals.worker_process_init, _prepare_process),
        (signals.worker_process_shutdown, _leave_process),
    ]


def instrument(*, announce: bool = True) -> None:
    """Follow the tasks that this process sends and executes. Idempotent.

    With ``announce`` the journal has the operation of each sent task as pending, until a worker
    starts it. Set it to False to store only what runs.
    """
    _is_announcing[0] = bool(announce)
    if _is_active[0]:
        return
    _is_active[0] = True
    for signal, receiver in _list_receivers():
        signal.connect(receiver, weak=False)
    _state_patch.apply(_wrap_update_state)


def uninstrument() -> None:
    """Undo :func:`instrument`. Running tasks end as if it was active. Idempotent."""
    if not _is_active[0]:
        return
    _is_active[0] = False
    for signal, receiver in _list_receivers():
        if signal is not signals.task_postrun or not _executions:
            signal.disconnect(receiver)
    _state_patch.remove()
