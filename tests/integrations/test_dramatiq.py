"""Dramatiq messages as operations, with the real library and its broker for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dramatiq", reason="dramatiq is not installed: these tests run the real one")

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.integrations.dramatiq import OPTION, ProgressMiddleware
from otel_progress.operations import OperationSnapshot
from tests.support.servers import poll

PATIENCE_S = 30.0


@pytest.fixture
def middleware() -> ProgressMiddleware:
    return ProgressMiddleware()


@pytest.fixture
def broker(middleware: ProgressMiddleware) -> Iterator[Any]:
    """Broker in the memory of the test."""
    made = StubBroker()
    made.add_middleware(middleware, before=Retries)
    made.emit_after("process_boot")
    yield made
    made.close()
    assert middleware._executions == {}
    assert internal_error_counts == {}


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[progress.Runtime]:
    """The configuration, with a journal."""
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    with progress.configure(service_name="dramatiq", store=store, console=False) as made:
        yield made


def _get(runtime: progress.Runtime, operation_id: str) -> OperationSnapshot:
    assert runtime.force_flush()
    found = runtime.reader.get(operation_id)
    assert found is not None
    return found


def _execute(broker: Any) -> None:
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=2)
    worker.start()
    try:
        broker.join("default", timeout=30_000, fail_fast=False)
        worker.join()
    finally:
        worker.stop()


def _wait_for_end(runtime: progress.Runtime, message: Any) -> OperationSnapshot:
    def find() -> OperationSnapshot | None:
        found = _get(runtime, message.message_id)
        return found if found.status.finished else None

    return poll(find, PATIENCE_S, "the end")


def test_message_is_pending_and_then_the_current_level(runtime: progress.Runtime, broker: Any) -> None:
    """It is part of the level that sent it, with its trace."""
    seen = []

    @dramatiq.actor(broker=broker)
    def resize(number: int) -> None:
        for _ in progress.track(range(number), "files"):
            pass
        seen.append(progress.current_level().operation_id)

    with progress.operation("import", id="import-7") as op:
        message = resize.send(3)
        trace_id = f"{op.span.get_span_context().trace_id:032x}"
    assert _get(runtime, message.message_id).status is progress.Status.PENDING
    _execute(broker)
    found = _wait_for_end(runtime, message)
    assert (found.status, found.operation_type) == (progress.Status.COMPLETED, "resize")
    assert [(level.info.name, level.current) for level in found.levels] == [("files", 3)]
    assert seen == [message.message_id]
    assert found.root.info.parent is not None
    assert (found.root.info.parent.operation_id, found.root.info.trace_id) == ("import-7", trace_id)


def test_retries_are_attempts_of_one_run(runtime: progress.Runtime, broker: Any) -> None:
    numbers = iter([False, False, True])

    @dramatiq.actor(broker=broker, max_retries=3, min_backoff=1, max_backoff=2)
    def retry() -> None:
        progress.current_level().increment()
        if not next(numbers):
            raise ValueError("again")

    message = retry.send()
    _execute(broker)
    found = poll(
        lambda: (each := _get(runtime, message.message_id)).status is progress.Status.COMPLETED and each,
        PATIENCE_S,
        "the last attempt",
    )
    assert (found.root.info.attempt, found.root.current) == (3, 1)
    assert len(runtime.reader.history(operation_type="retry")) == 1


def test_next_attempt_may_start_before_the_hook_after_the_earlier_one(
    runtime: progress.Runtime, broker: Any, middleware: ProgressMiddleware
) -> None:
    """Another thread of the worker can receive the retry at once."""

    @dramatiq.actor(broker=broker, max_retries=3)
    def retry() -> None: ...

    message = retry.send()
    middleware.before_process_message(broker, message)
    error = ValueError("again")
    try:
        raise error
    except ValueError:
        message.options["retries"] = 1
        middleware.before_enqueue(broker, message, 1)
        failed = _get(runtime, message.message_id)
        again = threading.Thread(target=_process, args=(middleware, broker, message))
        again.start()
        again.join()
        middleware.after_process_message(broker, message, exception=error)
    found = _get(runtime, message.message_id)
    assert (failed.status, failed.message) == (progress.Status.PENDING, "waits for a retry")
    assert (found.status, found.root.info.attempt) == (progress.Status.COMPLETED, 2)
    assert len(runtime.reader.history(operation_type="retry")) == 1


def _process(middleware: ProgressMiddleware, broker: Any, message: Any) -> None:
    middleware.before_process_message(broker, message)
    middleware.after_process_message(broker, message)


def test_message_that_fails_has_its_error(runtime: progress.Runtime, broker: Any) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def fail() -> None:
        raise ValueError("no space left")

    message = fail.send()
    _execute(broker)
    found = _wait_for_end(runtime, message)
    assert found.status is progress.Status.FAILED
    assert found.error is not None
    assert found.error.message == "no space left"


def test_message_beyond_its_age_limit_is_cancelled(runtime: progress.Runtime, broker: Any) -> None:
    @dramatiq.actor(broker=broker, max_retries=0)
    def late() -> None: ...

    message = late.send_with_options(max_age=-1)
    _execute(broker)
    found = _wait_for_end(runtime, message)
    assert (found.status, found.message) == (progress.Status.CANCELLED, "skipped")


def test_messages_are_as_before_without_a_configuration(broker: Any) -> None:
    seen = []

    @dramatiq.actor(broker=broker)
    def plain() -> None:
        seen.append(progress.current_level().recording)

    message = plain.send()
    assert OPTION not in message.options
    _execute(broker)
    assert seen == [False]
