"""Whatever raises around progress - processors, samplers, tracers, sinks, callbacks, the caller's own values - harms no work."""

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
    """What is raised on purpose; its own text raises as well."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")

    __repr__ = __str__


def work() -> str:
    """Use every part of a handle; return the operation's id."""
    with progress.operation("job", total=3) as op:
        op.increment()
        op.update(message="on", key="value")
        op.item("a", outcome="failed", error="bad")
        with op.level("part") as part, pytest.raises(KeyError), part.level("deep"):
            raise KeyError("x")
        assert list(op.track([1, 2])) == [1, 2]
        progress.get_active_operations()
    return op.operation_id


def check(recorder: Recorder, operation_id: str) -> None:
    """Fail unless everything of :func:`work` was recorded, and nothing runs on."""
    recorder.tick()
    one = recorder.operation(operation_id)
    assert (one.status, one.root.current, one.root.failed, len(one.levels)) == (Status.COMPLETED, 2, 1, 3)
    assert recorder.runtime.get_active_operations() == []


class Hooks(SpanProcessor):
    """Raises in one of the hooks of the SDK."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._fail)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise BrokenError


@pytest.mark.parametrize("hook", ["on_start", "on_end", "_on_ending"])
@pytest.mark.parametrize("before", [True, False])
def test_a_foreign_processor_that_raises(hook: str, before: bool) -> None:
    """Another vendor's processor that fails at the start or end of spans, before or after ours, fails nothing of ours."""
    provider = TracerProvider(shutdown_on_exit=False)
    if before:
        provider.add_span_processor(Hooks(hook))
    with recording(provider=provider, strict=False) as recorder:
        if not before:
            provider.add_span_processor(Hooks(hook))
        check(recorder, work())


class BadSampler(Sampler):
    """Raises when asked."""

    def should_sample(self, *_: Any, **__: Any) -> Any:
        """Fail."""
        raise BrokenError

    def get_description(self) -> str:
        """Fail."""
        raise BrokenError


def test_a_sampler_that_raises() -> None:
    """A sampler that fails costs the spans, not the progress."""
    with recording(sampler=BadSampler(), strict=False) as recorder:
        check(recorder, work())
        assert recorder.spans() == ()


class BadSpan(trace.NonRecordingSpan):
    """A span of some other SDK, every method of which raises but its context."""

    def __init__(self) -> None:
        super().__init__(trace.INVALID_SPAN_CONTEXT)

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise BrokenError

    is_recording = set_attributes = set_status = add_event = record_exception = end = _fail


class BadProvider(trace.TracerProvider):
    """A provider of some other SDK that raises at one of its three steps."""

    def __init__(self, step: str) -> None:
        self.step = step

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        """Fail, or return what does."""
        if self.step == "get_tracer":
            raise BrokenError
        return self

    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        """Fail, or return what does."""
        if self.step == "start_span":
            raise BrokenError
        return BadSpan()


@pytest.mark.parametrize("step", ["get_tracer", "start_span", "span"])
def test_a_foreign_sdk_that_raises(step: str) -> None:
    """A tracer provider, tracer or span that fails leaves live state whole, and no level running."""
    from otel_progress import config

    settings = {"store": "memory:", "console": False, "otlp": False}
    provider: Any = BadProvider(step)
    with config.start(settings, provider, environ={}) as runtime:
        runtime._ticker.set_background(False)
        operation_id = work()
        one = runtime.get_operation(operation_id)
        assert one is not None
        assert (one.status, one.root.current, len(one.levels)) == (Status.COMPLETED, 2, 3)
        assert runtime.get_active_operations() == []


class BadSink:
    """A sink that raises whatever it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def write(self, batch: ChangeSet) -> None:  # noqa: ARG002 - the protocol's signature
        """Fail."""
        self.calls += 1
        raise BrokenError

    def close(self) -> None:
        """Fail."""
        self.calls += 1
        raise BrokenError


def test_a_sink_that_raises(lenient: Recorder) -> None:
    """A sink that fails at every write and at the end is counted and logged once, and other sinks get everything."""
    sink, runtime = BadSink(), lenient.runtime
    runtime._sink_workers.append(SinkWorker("bad", sink, on_error=runtime._totals.count_sink_error))
    for _ in range(3):
        check(lenient, work())
        assert runtime.force_flush(60.0) is False
    errors = {
        labels: value for one in runtime._totals.read().counters.values() for labels, value in one.items()
    }
    assert errors["bad",] >= 3
    assert runtime.shutdown(60.0) is False
    assert sink.calls >= 4


def test_a_callback_that_raises(lenient: Recorder) -> None:
    """A callback that fails, even in its own name, is called on, and does not keep others from being told."""

    class Bad:
        calls = 0

        def __call__(self, *_: Any) -> None:
            self.calls += 1
            raise BrokenError

        def __repr__(self) -> str:
            raise BrokenError

    bad, told = Bad(), []
    lenient.runtime.add_callback(bad)
    lenient.runtime.add_callback(lambda event, one: told.append(event))
    check(lenient, work())
    check(lenient, work())
    assert lenient.runtime.force_flush(60.0)
    assert bad.calls == len(told) == 4


class Evil:
    """A value every special method of which raises."""

    def _fail(self, *_: Any) -> Any:
        raise BrokenError

    __str__ = __repr__ = __index__ = __float__ = __len__ = __eq__ = __bool__ = __iter__ = __lt__ = (
        __format__
    ) = _fail
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise BrokenError


class EvilList(list[Any]):
    """A list that cannot be read."""

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
def test_values_that_raise(lenient: Recorder, value: Any) -> None:
    """No value of the caller's, wherever it is passed, makes any method raise."""
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


def test_an_exception_without_a_text(lenient: Recorder) -> None:
    """An exception whose text raises goes on all the same, and its level failed."""
    with pytest.raises(BrokenError), progress.operation("job") as op:
        raise BrokenError
    error = op.snapshot().error
    assert error is not None
    assert error.type.endswith("BrokenError")
    assert lenient.runtime.get_history()[0].status is Status.FAILED


class BadHandler(logging.Handler):
    """A log handler that raises, as a filter or a formatter may."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the protocol's signature
        """Fail."""
        raise BrokenError


@pytest.fixture
def bad_logging() -> Iterator[None]:
    """Make every log line of this package raise."""
    handler, logger = BadHandler(), logging.getLogger("otel_progress")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.mark.usefixtures("bad_logging")
def test_logging_that_raises(lenient: Recorder) -> None:
    """Warnings about bad values and troubles are not worth an exception in the caller's work."""
    op = progress.operation("job", total=-1).start()
    op.update(current="many")  # type: ignore[arg-type]
    internal_error_counts.pop("test", None)  # so that it is the first one there, which is logged
    report_internal_error("test", "something", error=ValueError("x"))
    op.complete()
    assert lenient.runtime.get_history()[0].status is Status.COMPLETED


def test_threads_that_cannot_be_started(lenient: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no thread for the ticks, work goes on, and a later beginning tries again."""
    import threading

    start: Callable[[threading.Thread], None] = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("otel-progress"):  # whose it is, it has nothing to do with this test
            return start(thread)
        raise RuntimeError("can't start new thread")

    lenient.runtime._ticker.set_background(True)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    operation_id = work()
    one = lenient.operation(operation_id)
    assert (one.status, len(one.levels)) == (Status.COMPLETED, 3)
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
    """Is interrupted by Ctrl-C while it starts a span."""

    def start_span(self, *_: Any, **__: Any) -> Any:
        """Fail as Python does when the signal has come."""
        raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["in the store", "in the tracer"])
@pytest.mark.parametrize("below", [False, True], ids=["operation", "level"])
def test_an_interrupt_while_a_level_begins(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, place: str, below: bool
) -> None:
    """It reaches the caller, and the level that had begun by then, which nobody holds, is cancelled and not left running."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with progress.operation("outer", id="outer") as outer:
        with monkeypatch.context() as patched:
            if place == "in the store":
                patched.setattr(recorder.runtime._store, "notify_change", interrupted)
            else:
                patched.setattr(recorder.runtime._recording, "tracer", lambda scope: Interrupted())
            with (
                pytest.raises(KeyboardInterrupt),
                outer.level("inner") if below else progress.operation("inner", id="inner"),
            ):
                pytest.fail("it began")
        running = [one.operation_id for one in recorder.runtime.get_active_operations()]
        assert running == ["outer"]
        inner = recorder.operation("outer").levels[0] if below else recorder.operation("inner").root
        assert (inner.status, inner.message) == (Status.CANCELLED, "KeyboardInterrupt")
    assert recorder.operation("outer").status is Status.COMPLETED


def test_a_span_that_cannot_be_asked(lenient: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer whose spans have no context costs the level its span, and nothing else."""

    class Odd(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise BrokenError

    class OddTracer(trace.NoOpTracer):
        def start_span(self, *_: Any, **__: Any) -> Any:
            return Odd(trace.INVALID_SPAN_CONTEXT)

    monkeypatch.setattr(lenient.runtime._recording, "tracer", lambda scope: OddTracer())
    check(lenient, work())
