"""RQ: each job is an operation, from the queue to its end, with its attempts.

Call :func:`instrument` in the processes that enqueue jobs and in those of the workers. All of them
call ``configure()``, with one journal for all. The type of an operation is the name of the
function, and its id is that of the job. The headers of :mod:`otel_progress.integrations.tasks` are
in ``job.meta``. The worker ends jobs whose work horse was killed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

try:
    from rq.job import Job
    from rq.queue import Queue
    from rq.worker import Worker
except ImportError as error:
    text = "The integration with RQ requires rq 1.16 or newer. Install it: pip install rq"
    raise ImportError(text) from error

from otel_progress.attribute_patch import AttributePatch
from otel_progress.instrument import relays
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer
from otel_progress.integrations.tasks import (
    RUN_HEADER,
    TaskExecution,
    add_headers,
    end_killed,
    end_queued,
    format_run,
    get_batch_id,
    guard,
    parse_run,
)
from otel_progress.model import Status
from otel_progress.queries import flush

FLUSH_S: Final = 2.0
"""Time that a work horse waits at its exit until its progress is written, in seconds."""


_tracer: Final = ProgressTracer("otel_progress.rq")


_executions: dict[str, TaskExecution] = {}


def _build_operation(job: Any) -> Level:
    name = job.func_name or "job"
    return _tracer.operation(name, id=job.id, batch=get_batch_id(job.meta), queue=job.origin)


@guard
def _prepare_job(job: Any) -> None:
    """Add the headers of a job that is enqueued the first time."""
    if parse_run(job.meta.get(RUN_HEADER)) is None:
        run = add_headers(job.meta)
        relays.announce_operation(_build_operation(job), run)


@guard
def _repeat_job(job: Any) -> None:
    """Count the next attempt of a job."""
    run, attempt = parse_run(job.meta.get(RUN_HEADER)) or ("", 0)
    if run:
        job.meta[RUN_HEADER] = format_run(run, attempt + 1)
        relays.announce_operation(_build_operation(job), run, attempt + 1, "waits for a retry")


@guard
def _start_job(job: Any) -> None:
    execution = TaskExecution(_build_operation(job), job.meta, is_repeated=True)
    _executions[job.id] = execution
    execution.start()


@guard
def _store_error(worker: Any, job: Any, *exc_info: Any) -> None:  # noqa: ARG001
    execution = _executions.get(job.id)
    if execution is not None:
        execution.error = next((each for each in exc_info if isinstance(each, BaseException)), None)


@guard
def _end_job(worker: Any, job: Any, is_success: object) -> None:
    execution = _executions.pop(job.id, None)
    if execution is not None:
        is_failed = not is_success or execution.error is not None
        execution.end((execution.error or RuntimeError("failed")) if is_failed else None)
    if getattr(worker, "_is_horse", False):
        # Why: the horse exits at once, without exit functions.
        flush(FLUSH_S)


@guard
def _end_killed_job(worker: Any, job: Any, *_: Any) -> None:
    run = parse_run(job.meta.get(RUN_HEADER))
    is_stopped = getattr(worker, "_stopped_job_id", None) == job.id
    status, reason = (Status.CANCELLED, "stopped") if is_stopped else (Status.FAILED, "")
    end_killed(
        job.id, run[1] if run else 1, status, reason, None if is_stopped else "the work horse was killed"
    )


@guard
def _cancel_job(job: Any) -> None:
    if job.id not in _executions and not job.is_finished and not job.is_started:
        end_queued(_build_operation(job), job.meta, "cancelled")


def _call_before(hook: Callable[..., object], index: int) -> Callable[[Any], Any]:
    """Return a patch that calls a hook before the method.

    Its argument is the job, which is the argument ``index`` of the method.
    """

    def patch(function: Any) -> Any:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            hook(kwargs["job"] if index >= len(args) else args[index])
            return function(*args, **kwargs)

        return call

    return patch


def _call_first(hook: Callable[..., object]) -> Callable[[Any], Any]:
    """Return a patch that calls a hook with all arguments before the call."""

    def patch(function: Any) -> Any:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            hook(*args)
            return function(*args, **kwargs)

        return call

    return patch


def _perform(function: Any) -> Any:
    @wraps(function)
    def perform_job(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
        _start_job(job)
        is_success: Any = False
        try:
            is_success = function(self, job, *args, **kwargs)
            return is_success
        finally:
            _end_job(self, job, is_success)

    return perform_job


def _find_owner(name: str) -> type:
    """Return the class of RQ that defines a method of workers, in any version."""
    return next((each for each in Worker.__mro__ if name in vars(each)), Worker)


_PATCHES: Final = (
    (AttributePatch(Queue, "enqueue_job"), _call_before(_prepare_job, 1)),
    (AttributePatch(Queue, "schedule_job"), _call_before(_prepare_job, 1)),
    (AttributePatch(Job, "retry"), _call_before(_repeat_job, 0)),
    (AttributePatch(Job, "cancel"), _call_before(_cancel_job, 0)),
    (AttributePatch(_find_owner("perform_job"), "perform_job"), _perform),
    (AttributePatch(_find_owner("handle_exception"), "handle_exception"), _call_first(_store_error)),
    (
        AttributePatch(_find_owner("handle_work_horse_killed"), "handle_work_horse_killed"),
        _call_first(_end_killed_job),
    ),
    (AttributePatch(_find_owner("_handle_stopped_job"), "_handle_stopped_job"), _call_first(_end_killed_job)),
)


def instrument() -> None:
    """Follow the jobs that this process enqueues and executes. Idempotent."""
    for patch, make in _PATCHES:
        if not patch.is_active:
            patch.apply(make)


def uninstrument() -> None:
    """Undo :func:`instrument`. Idempotent."""
    for patch, _ in reversed(_PATCHES):
        patch.remove()
