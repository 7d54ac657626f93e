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
import signal as signal_numbers
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from math import inf
from typing import Any, Final

try:
    from celery import signals  # type: ignore[import-untyped]
    from celery.app.task import Task  # type: ignore[import-untyped]
    from celery.backends.base import Backend  # type: ignore[import-untyped]
    from celery.exceptions import Ignore, Reject  # type: ignore[import-untyped]
except ImportError as error:
    text = "The integration with Celery requires celery 5.3 or newer. Install it: pip install celery"
    raise ImportError(text) from error

from otel_progress.attribute_patch import AttributePatch
from otel_progress.config import configure
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument import relays
from otel_progress.instrument.batch import OperationBatch
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.integrations.tasks import (
    BATCH_HEADER,
    RUN_HEADER,
    TERMINATED,
    TaskExecution,
    add_headers,
    copy_link,
    end_killed,
    end_queued,
    format_run,
    get_batch_id,
    guard,
    parse_run,
    report_errors,
)
from otel_progress.model import Status
from otel_progress.queries import flush

MAX_GROUPS: Final = 1_000
"""Groups whose members this process counts. Beyond it the count of the oldest one is dropped. Its
batch keeps the total so far.
"""


FLUSH_S: Final = 2.0
"""Time that a process of the pool waits at its exit until its progress is written, in seconds."""


_STORE_VARIABLE: Final = "OTEL_PROGRESS_STORE"


_CHAIN: Final = "chain-"
"""Start of the ids of the batches of chains."""


_CANVAS: Final = frozenset({"celery.map", "celery.starmap"})
"""Tasks of Celery that call another task for each element."""


_OTHER: Final = "opentelemetry.instrumentation.celery"


_tracer: Final = ProgressTracer("otel_progress.celery")


class _Execution(TaskExecution):
    """Task that this process executes."""

    def __init__(self, request: Any, level: Level, *, is_repeated: bool) -> None:
        headers = request.headers or {}
        attempt = None if headers.get(RUN_HEADER) else 1 + (request.retries or 0)
        super().__init__(level, headers, attempt, is_repeated=is_repeated)
        self.request = request
        self.batch: str | None = None
        self.is_continued = False
        """True after the message of the next attempt was built."""


_executions: dict[str, list[_Execution]] = {}
"""Tasks that this process executes, by id. Several attempts of one task may overlap."""


_groups: OrderedDict[str, list[Any]] = OrderedDict()
"""Handle of the batch, and number of the sent members, by the id of the group."""


_eager_runs: OrderedDict[str, tuple[str, int]] = OrderedDict()
"""Run and number of the next attempt of a task that this process retries without a message."""


_lock = threading.Lock()


_is_active = [False]


_is_announcing = [True]


# --- the process that sends a task ---


@guard
def _prepare_message(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
    """Add the headers of a message, and store its operation as pending."""
    if not isinstance(headers, dict) or "id" not in headers:  # not protocol 2
        return
    task_id = headers["id"]
    executions = _executions.get(task_id)
    if executions:
        _continue_run(executions[-1], headers)
        return
    known = parse_run(headers.get(RUN_HEADER))
    if headers.get("retries") and known is not None:
        # The main process sends the task again, because its process was killed.
        headers[RUN_HEADER] = format_run(known[0], known[1] + 1)
        return
    run = add_headers(headers)
    name = str(headers.get("task") or sender)
    embedded = body[2] if isinstance(body, (tuple, list)) and len(body) == 3 else {}
    batch = _find_batch(headers, name, embedded if isinstance(embedded, Mapping) else {})
    if _is_announcing[0]:
        relays.announce_operation(_build_operation(task_id, name, batch, {}), run)


def _continue_run(execution: _Execution, headers: dict[str, Any]) -> None:
    """Add the headers of the next attempt: a retry, or a replacing task."""
    execution.is_continued = True
    headers[RUN_HEADER] = format_run(execution.run, execution.attempt + 1)
    copy_link(execution.headers, headers)
    if execution.batch is not None:
        headers[BATCH_HEADER] = execution.batch


def _find_batch(headers: dict[str, Any], name: str, embedded: Mapping[str, Any]) -> str | None:
    """Return the id of the batch of a new task. Declare the batch and its total."""
    task_id, group = headers["id"], headers.get("group")
    sending, chain = _get_current(), embedded.get("chain")
    request = None if sending is None else sending.request
    if request is not None and _is_next_link(request, task_id):
        batch = None if sending is None else sending.batch
        if group is None and batch is not None and batch.startswith(_CHAIN):
            headers[BATCH_HEADER] = batch
            return batch
        return group
    if request is not None and request.group is not None and task_id in _list_ids(request.chord):
        # Why not counted: the total of the chord contains its body.
        headers[BATCH_HEADER] = request.group
        return request.group  # type: ignore[no-any-return]
    member_of = group or _get_group(chain)
    if member_of is not None:
        headers.pop(BATCH_HEADER, None)
        if request is None or request.group != member_of:
            _count_member(str(member_of), name, len(_list_ids(embedded.get("chord"))))
        return group
    links = _count_links(chain)
    if not links:
        return get_batch_id(headers)
    headers[BATCH_HEADER] = batch = f"{_CHAIN}{task_id}"
    _tracer.batch(f"{name} and {links} more", id=batch, type="celery.chain", total=1 + links).start()
    return batch


def _list_bodies(body: Any) -> list[Any]:
    """Return the signatures of the tasks that follow the members of a chord.

    The body is a task, a group, or a chain, of which the last link is a member of the chord.
    """
    if not isinstance(body, Mapping):
        return []
    if body.get("subtask_type") == "group":
        return list((body.get("kwargs") or {}).get("tasks") or ())
    return [body]


def _list_ids(body: Any) -> list[Any]:
    """Return the ids of the tasks that follow the members of a chord."""
    return [(each.get("options") or {}).get("task_id") for each in _list_bodies(body)]


def _get_group(chain: Any) -> Any:
    """Return the group that a chain is a member of. Its last link has the id."""
    return (chain[0].get("options") or {}).get("group_id") if chain else None


def _count_member(group: str, name: str, body_size: int) -> None:
    """Count a member of a group. The total of its batch increases with each one."""
    with _lock:
        counted = _groups.pop(group, None)
        if counted is None:
            kind = "celery.chord" if body_size else "celery.group"
            counted = [_tracer.batch(name, id=group, type=kind), body_size]
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
        if link.get("subtask_type") is not None:
            break
        count += 1
    return count


def _is_next_link(request: Any, task_id: str) -> bool:
    """Return True if a task is the next link of the chain of a request."""
    chain = request.chain
    return bool(chain) and (chain[-1].get("options") or {}).get("task_id") == task_id


# --- the process that executes a task ---


@guard
def _start_task(task_id: str, task: Any, kwargs: Any = None, **_: Any) -> None:
    """Start the operation of a task, and make it the current level."""
    is_early = _is_before_other(signals.task_prerun, _start_task)
    request = task.request
    headers = request.headers or {}
    earlier = _executions.get(task_id)
    if earlier:
        earlier[-1].end_attempt("next attempt")
    delivery = request.delivery_info or {}
    batch = get_batch_id(headers) or request.group
    name = _get_inner_name(task, kwargs)
    metadata = {"queue": delivery.get("routing_key")} if delivery.get("routing_key") else {}
    level = _build_operation(task_id, task.name, batch, metadata, name)
    execution = _Execution(request, level, is_repeated=bool(delivery.get("redelivered")))
    eager = _eager_runs.pop(task_id, None)
    if eager is not None and request.is_eager:
        execution.continue_run(*eager, level)
    elif earlier and execution.run != earlier[-1].run:
        # Why: an eager retry has no message.
        execution.continue_run(earlier[-1].run, earlier[-1].attempt + 1, level)
    execution.batch = batch
    _executions.setdefault(task_id, []).append(execution)
    if is_early:
        # Why not current: its context would stay. This is the first task of the process only.
        execution.level.start()
    else:
        execution.start()
    if task.name in _CANVAS and isinstance(kwargs, dict) and isinstance(kwargs.get("it"), (list, tuple)):
        kwargs["it"] = _CountedElements(kwargs["it"], execution.level)


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


@guard
def _store_error(task_id: str, exception: Any = None, sender: Any = None, **_: Any) -> None:
    """Store the error of a task. In the main process of a worker, end a killed task."""
    executions = _executions.get(task_id)
    if executions:
        executions[-1].error = exception
    elif not isinstance(exception, (Reject, Ignore)):
        request = getattr(sender, "request", None)
        # Why: Celery passes no request after a time limit. The running attempt is the one then.
        attempt = _get_attempt(request) if getattr(request, "id", None) == task_id else None
        end_killed(task_id, attempt, Status.FAILED, "", exception)


@guard
def _store_reason(request: Any, reason: Any = None, **_: Any) -> None:
    """Store why a task is repeated."""
    executions = _executions.get(request.id)
    if executions:
        error = getattr(reason, "exc", None) or reason
        executions[-1].error = error if isinstance(error, BaseException) else None


@report_errors
def _end_task(task_id: str, state: Any = None, retval: Any = None, **_: Any) -> None:
    """End the operation of a task, and restore the context."""
    execution = _take_execution(task_id)
    if execution is None:
        return
    error = execution.error
    if state == "SUCCESS":
        execution.end()
    elif state == "FAILURE":
        if execution.is_continued and not execution.level.recording:
            _restart(execution).fail("failed" if error is None else error)
        execution.end(RuntimeError("failed") if error is None else error)
    elif state == "RETRY" or (state == "IGNORED" and execution.is_continued):
        reason = "replaced by another task" if state == "IGNORED" else _describe_retry(error)
        execution.end_attempt(reason)
        execution.leave()
        if state == "RETRY" and execution.request.is_eager and not execution.is_continued:
            _eager_runs[task_id] = (execution.run, execution.attempt + 1)
            while len(_eager_runs) > MAX_GROUPS:
                _eager_runs.popitem(last=False)
    elif state == "IGNORED":
        execution.skip("ignored")
        _end_followers(execution.request)
    elif state == "REJECTED":
        execution.cancel(f"rejected: {retval}")
    else:
        execution.cancel(TERMINATED)


@guard
def _end_followers(request: Any) -> None:
    """End the tasks that never run because of the end of another task.

    These are the next links of its chain, and the body of its chord. So their batches are complete.
    """
    chain, chord = getattr(request, "chain", None) or (), getattr(request, "chord", None)
    batch = get_batch_id(getattr(request, "headers", None) or {})
    links = _count_links(chain) if batch is not None and batch.startswith(_CHAIN) else 0
    for position, link in enumerate(reversed(chain)):
        options = link.get("options") or {}
        group = options.get("group_id")
        member_of = group or (batch if position < links else None)
        if member_of is not None and link.get("subtask_type") is None:
            _end_follower(link, member_of, "an earlier task of the chain did not complete")
        _end_bodies(options.get("chord"), group)
    _end_bodies(chord, getattr(request, "group", None))


def _end_bodies(chord: Any, group: Any) -> None:
    for body in _list_bodies(chord) if group is not None else ():
        _end_follower(body, group, "a task of the chord did not complete")


def _end_follower(signature: Any, batch: str, reason: str) -> None:
    task_id = (signature.get("options") or {}).get("task_id")
    if task_id is None:
        return
    # Why: several members of a chord may fail, and all of them end the same run.
    headers = {RUN_HEADER: format_run(uuid.uuid5(uuid.NAMESPACE_OID, str(task_id)).hex, 1)}
    end_queued(_build_operation(task_id, str(signature.get("task")), batch, {}), headers, reason)


def _wrap_mark_as_failure(mark_as_failure: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(mark_as_failure)
    def call(self: Any, task_id: Any, exc: Any, *args: Any, **kwargs: Any) -> Any:
        result = mark_as_failure(self, task_id, exc, *args, **kwargs)
        if _failure_patch.is_active:
            _end_followers(kwargs.get("request") or (args[1] if len(args) > 1 else None))
        return result

    return call


_failure_patch: Final = AttributePatch(Backend, "mark_as_failure")


def _describe_retry(error: BaseException | None) -> str:
    return "waits for a retry" if error is None else f"waits for a retry: {type(error).__name__}: {error}"


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


def _is_before_other(signal: Any, receiver: Callable[..., object]) -> bool:
    """Return True if opentelemetry-instrumentation-celery is called after a receiver.

    It is moved to the end then. Why: the other one replaces the current context.
    """
    receivers = [found for _, found in signal.receivers]
    if not receivers or receivers[-1] is receiver or receiver not in receivers:
        return False
    later = receivers[receivers.index(receiver) + 1 :]
    if not any(str(getattr(each, "__module__", "")).startswith(_OTHER) for each in later):
        return False
    signal.disconnect(receiver)
    signal.connect(receiver, weak=False)
    return True


def _wrap_update_state(update_state: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(update_state)
    def call(self: Any, task_id: Any = None, state: Any = None, meta: Any = None, **kwargs: Any) -> Any:
        result = update_state(self, task_id, state, meta, **kwargs)
        if _state_patch.is_active and isinstance(meta, Mapping):
            _read_state(self, task_id, meta)
        return result

    return call


@guard
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


# --- the main process of a worker ---


@guard
def _end_revoked(
    request: Any, terminated: bool = False, signum: Any = None, expired: bool = False, **_: Any
) -> None:
    """End the operation of a task that was revoked or has expired."""
    task_id = request.id
    if terminated:
        reason = f"revoked, stopped by {_describe_signal(signum)}"
        end_killed(task_id, _get_attempt(request), Status.CANCELLED, reason)
        _end_followers(request)
        return
    headers = request.headers or {}
    level = _build_operation(task_id, request.task, get_batch_id(headers) or request.group, {})
    end_queued(level, headers, "expired" if expired else "revoked")
    _end_followers(request)


def _get_attempt(request: Any) -> int:
    known = parse_run((getattr(request, "headers", None) or {}).get(RUN_HEADER))
    return known[1] if known else 1 + (getattr(request, "retries", None) or 0)


def _describe_signal(signum: Any) -> str:
    try:
        return signal_numbers.Signals(signum).name
    except ValueError:
        return str(signum)


# --- processes of a worker ---


def _prepare_process(**_: Any) -> None:
    """Drop the state of the parent process, and read the environment.

    Without a configuration, the recording starts if the environment names a store.
    """
    _executions.clear()
    _groups.clear()
    _eager_runs.clear()
    global _lock
    _lock = threading.Lock()
    _is_before_other(signals.task_prerun, _start_task)
    if relays.is_recording() or not os.environ.get(_STORE_VARIABLE):
        return
    try:
        configure(console=False)
    except Exception as error:
        report_internal_error("start", "Progress of this Celery worker is not recorded.", error=error)


@guard
def _leave_process(**_: Any) -> None:
    """Write everything before a process of the pool exits.

    It runs no exit functions.
    """
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
    _is_before_other(signals.task_prerun, _start_task)
    _state_patch.apply(_wrap_update_state)
    _failure_patch.apply(_wrap_mark_as_failure)


def uninstrument() -> None:
    """Undo :func:`instrument`. Running tasks end as if it was active. Idempotent."""
    if not _is_active[0]:
        return
    _is_active[0] = False
    for signal, receiver in _list_receivers():
        if signal is not signals.task_postrun or not _executions:
            signal.disconnect(receiver)
    _state_patch.remove()
    _failure_patch.remove()
