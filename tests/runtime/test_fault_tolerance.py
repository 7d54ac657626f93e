"""Failures of processors, samplers, tracers, sinks, callbacks and caller values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

import otel_progress as progress
from otel_progress import Status
from otel_progress.diagnostics import internal_error_counts, report_internal_error
from otel_progress.protocols import ChangeSet
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.testing import Recorder, recording, wait_until


class BrokenError(Exception):
    """Error of a failing component. Its text raises as well."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")

    __repr__ = __str__


def run_operation() -> str:
    """Use each method of a handle. Return the id of the operation."""
    with progress.operation("job", total=3) as op:
        op.increment()
        op.update(message="on", key="value")
        op.item("a", outcome="failed", error="bad")
        with op.level("part") as part, pytest.raises(KeyError), part.level("deep"):
            raise KeyError("x")
        assert list(op.track([1, 2])) == [1, 2]
        progress.get_active_operations()
    return op.operation_id


def assert_recorded(recorder: Recorder, operation_id: str) -> None:
    """Fail unless :func:`run_operation` was recorded completely and has ended."""
    recorder.tick()
    root, levels = recorder.operation(operation_id).root, recorder.operation(operation_id).levels
    assert (root.status, root.current, root.failed, len(levels)) == (Status.COMPLETED, 2, 1, 3)
    assert recorder.runtime.get_active_operations() == []


class FailingProcessor(SpanProcessor):
    """Span processor that raises in one of its methods."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._fail)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise BrokenError


@pytest.mark.parametrize("hook", ["on_start", "on_end", "_on_ending"])
@pytest.mark.parametrize("before", [True, False])
def test_failing_span_processor_of_the_application_changes_no_progress(hook: str, before: bool) -> None:
    """It may be added before or after the processor of this package."""
    provider = TracerProvider(shutdown_on_exit=False)
    if before:
        provider.add_span_processor(FailingProcessor(hook))
    with recording(provider=provider, strict=False) as recorder:
        if not before:
            provider.add_span_processor(FailingProcessor(hook))
        assert_recorded(recorder, run_operation())


class BadSampler(Sampler):
    """Sampler that raises."""

    def should_sample(self, *_: Any, **__: Any) -> Any:
        """Fail."""
        raise BrokenError

    def get_description(self) -> str:
        """Fail."""
        raise BrokenError


def test_failing_sampler_costs_spans_only() -> None:
    """The progress is complete."""
    with recording(sampler=BadSampler(), strict=False) as recorder:
        assert_recorded(recorder, run_operation())
        assert recorder.spans() == ()


class BadSpan(trace.NonRecordingSpan):
    """Span of another SDK. Each method but its context raises."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise BrokenError

    is_recording = set_attributes = set_status = add_event = record_exception = end = _fail


class BadProvider(trace.TracerProvider):
    """Provider of another SDK that raises at one of three steps."""

    def __init__(self, step: str) -> None:
        self.step = step

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        """Fail, or return an object that fails."""
        if self.step == "get_tracer":
            raise BrokenError
        return self

    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        """Fail, or return an object that fails."""
        if self.step == "start_span":
            raise BrokenError
        return BadSpan()


@pytest.mark.parametrize("step", ["get_tracer", "start_span", "span"])
def test_failing_foreign_sdk_leaves_live_state_complete(step: str) -> None:
    """No level stays active."""
    from otel_progress import config

    settings = {"store": "memory:", "console": False, "otlp": False}
    provider: Any = BadProvider(step)
    with config.start(settings, provider, environ={}) as runtime:
        runtime._ticker.set_background(False)
        operation_id = run_operation()
        operation = runtime.get_operation(operation_id)
        assert operation is not None
        assert (operation.status, operation.root.current, len(operation.levels)) == (Status.COMPLETED, 2, 3)
        assert runtime.get_active_operations() == []


class BadSink:
    """Sink whose methods raise."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, change_set: ChangeSet) -> None:  # noqa: ARG002 - the protocol's signature
        """Fail."""
        self.calls += 1
        raise BrokenError

    def close(self) -> None:
        """Fail."""
        self.calls += 1
        raise BrokenError


def test_failing_sink_is_counted_and_affects_no_other_component(lenient: Recorder) -> None:
    """It fails at each write and at its end."""
    sink, runtime = BadSink(), lenient.runtime
    runtime._sink_workers.append(SinkWorker("bad", sink, on_error=runtime._totals.count_sink_error))
    for _ in range(3):
        assert_recorded(lenient, run_operation())
        assert runtime.force_flush(60.0) is False
    errors = {
        labels: value
        for series in runtime._totals.read().counters.values()
        for labels, value in series.items()
    }
    assert errors["bad",] >= 3
    assert runtime.shutdown(60.0) is False
    assert sink.calls >= 4


def test_failing_callback_is_called_again_and_affects_no_other_callback(lenient: Recorder) -> None:
    """Even its name cannot be read."""

    class Bad:
        calls = 0

        def __call__(self, *_: Any) -> None:
            self.calls += 1
            raise BrokenError

        def __repr__(self) -> str:
            raise BrokenError

    bad, events = Bad(), []
    lenient.runtime.add_callback(bad)
    lenient.runtime.add_callback(lambda event, operation: events.append(event))
    assert_recorded(lenient, run_operation())
    assert_recorded(lenient, run_operation())
    assert lenient.runtime.force_flush(60.0)
    assert bad.calls == len(events) == 4


class Evil:
    """Value whose special methods raise."""

    def _fail(self, *_: Any) -> Any:
        raise BrokenError

    __str__ = __repr__ = __index__ = __float__ = __len__ = __eq__ = __bool__ = __iter__ = __lt__ = (
        __format__
    ) = _fail
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise BrokenError


class EvilList(list[Any]):
    """List whose elements cannot be read."""

    def __getitem__(self, index: Any) -> Any:
        raise BrokenError


EVIL: list[Any] = [
    Evil(),
    EvilList([1]),
    BrokenError(),
    10**5000,
    -(10**5000),
    b"\xff",
    object(),
    type,
    [Evil()],
    {"a": Evil()},
]


@pytest.mark.parametrize("value", EVIL, ids=lambda value: type(value).__name__)
def test_invalid_value_raises_in_no_method(lenient: Recorder, value: Any) -> None:
    """Each argument of each method receives the value."""
    with progress.operation(value, value, id=value, total=value, unit=value, deadline=value, key=value) as op:
        op.increment(value)
        op.increment(1, message=value)
        op.update(current=value, total=value, message=value, key=value, other=[value, value])
        op.set_total(value)
        op.item(value, outcome=value)
        op.item(value, error=value, key=value)
        with op.level(value, value, value, total=value, unit=value, weight=value, key=value) as level:
            level.fail(value)
        op.level("x", stages=value).complete()
        with op.stage(value):
            pass
        assert list(op.track([1], value, type=value, total=value, key=value)) == [1]
        op.level("y").start().cancel(value)
        op.level("z").start().skip(value)
        progress.level(value).complete()
    lenient.tick()
    assert lenient.runtime.get_active_operations() == []
    assert lenient.runtime.get_history()[0].status is Status.COMPLETED


def test_exception_without_a_text_is_raised_and_fails_its_level(lenient: Recorder) -> None:
    """``str()`` of the exception raises."""
    with pytest.raises(BrokenError), progress.operation("job") as op:
        raise BrokenError
    error = op.snapshot().error
    assert error is not None
    assert error.type.endswith("BrokenError")
    assert lenient.runtime.get_history()[0].status is Status.FAILED


class BadHandler(logging.Handler):
    """Log handler that raises, as a filter or formatter may."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the protocol's signature
        """Fail."""
        raise BrokenError


@pytest.fixture
def bad_logging() -> Iterator[None]:
    """Let each log line of this package raise."""
    handler, logger = BadHandler(), logging.getLogger("otel_progress")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.mark.usefixtures("bad_logging")
def test_failing_log_handler_raises_in_no_method(lenient: Recorder) -> None:
    """Warnings and internal errors are logged through it."""
    op = progress.operation("job", total=-1).start()
    op.update(current="many")  # type: ignore[arg-type]
    internal_error_counts.pop("test", None)  # only the first internal error of a place is logged
    report_internal_error("test", "something", error=ValueError("x"))
    op.complete()
    assert lenient.runtime.get_history()[0].status is Status.COMPLETED


def test_ticker_without_a_thread_starts_with_a_later_level(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system provides no thread at first."""
    import threading

    start: Callable[[threading.Thread], None] = threading.Thread.start

    def reject(thread: threading.Thread) -> None:
        if not thread.name.startswith("otel-progress"):
            return start(thread)
        raise RuntimeError("can't start new thread")

    lenient.runtime._ticker.set_background(True)
    monkeypatch.setattr(threading.Thread, "start", reject)
    operation_id = run_operation()
    operation = lenient.operation(operation_id)
    assert (operation.status, len(operation.levels)) == (Status.COMPLETED, 3)
    monkeypatch.setattr(threading.Thread, "start", start)
    with progress.operation("later"):
        wait_until(
            lambda: (
                lenient.runtime._ticker._thread is not None and lenient.runtime._ticker._thread.is_alive()
            ),
            60.0,
        )
    assert lenient.runtime.get_active_operations() == []


class Interrupted(trace.NoOpTracer):
    """Tracer that Ctrl-C interrupts while it starts a span."""

    def start_span(self, *_: Any, **__: Any) -> Any:
        """Raise as Python does after the signal."""
        raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["in the store", "in the tracer"])
@pytest.mark.parametrize("below", [False, True], ids=["operation", "level"])
def test_interrupt_during_the_start_of_a_level_cancels_the_level(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, place: str, below: bool
) -> None:
    """The caller receives the interrupt and never had the handle."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with progress.operation("outer", id="outer") as outer:
        with monkeypatch.context() as patched:
            if place == "in the store":
                patched.setattr(recorder.runtime._store._state, "notify_change", interrupted)
            else:
                patched.setattr(recorder.runtime._recording, "tracer", lambda scope: Interrupted())
            with (
                pytest.raises(KeyboardInterrupt),
                outer.level("inner") if below else progress.operation("inner", id="inner"),
            ):
                pytest.fail("the level started")
        active = [operation.operation_id for operation in recorder.runtime.get_active_operations()]
        assert active == ["outer"]
        inner = recorder.operation("outer").levels[0] if below else recorder.operation("inner").root
        assert (inner.status, inner.message) == (Status.CANCELLED, "KeyboardInterrupt")
    assert recorder.operation("outer").status is Status.COMPLETED


def test_span_without_context_costs_the_span_only(lenient: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its context raises."""

    class Odd(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise BrokenError

    class OddTracer(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> Any:
            return Odd(trace.INVALID_SPAN_CONTEXT)

    monkeypatch.setattr(lenient.runtime._recording, "tracer", lambda scope: OddTracer())
    assert_recorded(lenient, run_operation())


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_flush_and_shutdown_with_an_endless_timeout_are_complete(timeout: float) -> None:
    """Functions of Python reject timeouts of some centuries."""
    with recording(ticking=True, store="memory:") as recorder:
        with progress.operation("job"):
            pass
        assert recorder.runtime.force_flush(timeout)
        assert recorder.runtime.shutdown(timeout)
    assert sum(internal_error_counts.values()) == 0
