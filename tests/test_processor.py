"""Tests of the span processor: progress of plain OpenTelemetry spans."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace import StatusCode, Tracer

import otel_progress as progress
from otel_progress import Status
from otel_progress.live.store import LiveStore
from otel_progress.processor import ProgressSpanProcessor
from otel_progress.testing import Recorder, wait_until


@pytest.fixture
def tracer(recorder: Recorder) -> Tracer:
    """Return a tracer of the application."""
    return recorder.provider.get_tracer("user")


def paths(recorder: Recorder) -> dict[str, list[str]]:
    """Return the paths of all levels by operation type."""
    operations = [*recorder.runtime.get_active_operations(), *recorder.runtime.get_history()]
    return {
        operation.operation_type: [level.path for level in recorder.operation(operation.operation_id).levels]
        for operation in operations
    }


def test_span_with_progress_becomes_an_operation(recorder: Recorder, tracer: Tracer) -> None:
    """Attributes are read at the next tick, and at the end of the span."""
    with tracer.start_as_current_span("import") as span:
        recorder.tick()
        assert recorder.runtime.get_active_operations() == []
        span.set_attributes({"progress.current": 3, "progress.total": 12, "progress.message": "rows"})
        span.set_attribute("progress.metadata.table", "users")
        recorder.tick()
        (live,) = recorder.runtime.get_active_operations()
        assert (live.operation_type, live.name, live.ratio, live.message) == (
            "import",
            "import",
            0.25,
            "rows",
        )
        assert dict(live.metadata) == {"table": "users"}
        context = span.get_span_context()
        assert (live.root.info.trace_id, live.root.info.span_id) == (
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
        )
        recorder.clock.advance(3.0)
        span.set_attribute("progress.current", 9)
    ended = recorder.operation(live.operation_id)
    assert (ended.status, ended.root.current, ended.elapsed_seconds) == (Status.COMPLETED, 9, 3.0)
    assert [span.name for span in recorder.spans()] == ["import"]
    assert dict(recorder.spans()[0].attributes) == {
        "progress.current": 9,
        "progress.total": 12,
        "progress.message": "rows",
        "progress.metadata.table": "users",
    }


def test_span_with_identity_attributes_sets_them(recorder: Recorder, tracer: Tracer) -> None:
    """Id, type, name and unit of a span are those of its operation."""
    attributes = {
        "operation.id": "i-1",
        "operation.type": "import",
        "operation.name": "Import",
        "unit": "row",
        "total": 1,
    }
    with tracer.start_as_current_span(
        "x", attributes={f"progress.{name}": value for name, value in attributes.items()}
    ):
        recorder.tick()
        operation = recorder.operation("i-1")
    assert (operation.operation_type, operation.name, operation.root.info.unit) == ("import", "Import", "row")


def test_span_between_two_ticks_is_recorded(recorder: Recorder, tracer: Tracer) -> None:
    """A span that starts and ends between two ticks is recorded with its final values."""
    with tracer.start_as_current_span("quick") as span:
        span.set_attributes({"progress.current": 2, "progress.total": 2})
    (operation,) = recorder.runtime.get_history("quick")
    assert (operation.status, operation.root.current, operation.ratio) == (Status.COMPLETED, 2, 1.0)


def test_nested_short_spans_become_levels(recorder: Recorder, tracer: Tracer) -> None:
    """Nested spans that ended before the first poll are levels of one operation."""
    with tracer.start_as_current_span("outer", attributes={"progress.total": 2}):
        for _ in range(2):
            with (
                tracer.start_as_current_span("without progress"),
                tracer.start_as_current_span("inner") as span,
            ):
                span.set_attribute("progress.current", 1)
    (operation,) = recorder.runtime.get_history()
    assert (operation.operation_type, operation.root.current) == ("outer", 2)
    levels = recorder.operation(operation.operation_id).levels
    assert [level.info.type for level in levels] == ["inner", "inner"]


def test_span_below_a_level_becomes_its_child(recorder: Recorder, tracer: Tracer) -> None:
    """A span in a level, also below a span without progress, is a child of the level."""
    with progress.operation("job", id="j"), progress.level("part", 1):
        with tracer.start_as_current_span("direct", attributes={"progress.total": 1}):
            recorder.tick()
        with tracer.start_as_current_span("silent"), tracer.start_as_current_span("deep") as span:
            span.set_attribute("progress.current", 1)
    assert [level.info.type for level in recorder.operation("j").levels] == ["part", "direct", "deep"]
    assert all(path.startswith("part:1") for path in paths(recorder)["job"])


def test_operation_below_a_span_is_separate(recorder: Recorder, tracer: Tracer) -> None:
    """An operation in a plain span with progress is separate and in the same trace."""
    with tracer.start_as_current_span("plain", attributes={"progress.total": 1}) as span:
        recorder.tick()
        with progress.operation("job") as op:
            assert op.span.get_span_context().trace_id == span.get_span_context().trace_id
    assert sorted(paths(recorder)) == ["job", "plain"]


def test_span_with_exception_fails_its_level(recorder: Recorder, tracer: Tracer) -> None:
    """The message of the failure is the description of the span's status."""
    with (
        pytest.raises(OSError, match="gone"),
        tracer.start_as_current_span("import", attributes={"progress.total": 1}),
    ):
        raise OSError("gone")
    (operation,) = recorder.runtime.get_history()
    assert operation.status is Status.FAILED
    assert operation.error is not None
    assert operation.error.message == "OSError: gone"


def test_span_with_error_type_sets_that_of_the_failure(recorder: Recorder, tracer: Tracer) -> None:
    """The attribute ``error.type`` of a span is the type of the failure."""
    with tracer.start_as_current_span(
        "import", attributes={"progress.total": 1, "error.type": "timeout"}
    ) as span:
        span.set_status(SpanStatus(StatusCode.ERROR))
    (operation,) = recorder.runtime.get_history()
    assert operation.error is not None
    assert (operation.error.type, operation.error.message) == ("timeout", "")


def test_span_after_end_of_parent_becomes_an_operation(recorder: Recorder, tracer: Tracer) -> None:
    """A span whose progress starts after the end of its parent is an operation."""
    outer = tracer.start_span("outer", attributes={"progress.total": 1})
    from opentelemetry.trace import set_span_in_context

    inner = tracer.start_span("inner", context=set_span_in_context(outer))
    recorder.tick()
    outer.end()
    inner.set_attribute("progress.current", 1)
    recorder.tick()
    inner.end()
    assert sorted(operation.operation_type for operation in recorder.runtime.get_history()) == [
        "inner",
        "outer",
    ]


@pytest.mark.parametrize("value", ["many", float("nan"), -1, True, [1, 2]])
def test_span_with_invalid_values_keeps_valid_ones(recorder: Recorder, tracer: Tracer, value: object) -> None:
    """Invalid values are ignored and do not raise."""
    with tracer.start_as_current_span("odd", attributes={"progress.total": 5}) as span:
        span.set_attribute("progress.current", value)  # type: ignore[arg-type]
        recorder.tick()
        (operation,) = recorder.runtime.get_active_operations()
        assert (operation.root.current, operation.root.total) == (0, 5)


def test_processor_with_ordinary_spans_stays_bounded(recorder: Recorder, tracer: Tracer) -> None:
    """Spans without progress leave no state, and the watched spans are limited."""
    for _ in range(5_000):
        with tracer.start_as_current_span("ordinary"):
            pass
    processor = recorder.runtime._providers.processor
    assert not processor.is_watching
    assert not processor._nodes
    bounded, bounded_tracer = add_processor(recorder.runtime._store, max_watched=20)
    spans = [bounded_tracer.start_span("ordinary") for _ in range(30)]
    assert len(bounded._watched) == 20
    for span in spans:
        span.end()
    assert not bounded.is_watching


def test_span_that_ends_during_a_poll_ends_once(recorder: Recorder, tracer: Tracer) -> None:
    """Spans that end in one thread while another thread polls them end exactly once."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            recorder.runtime._providers.processor.read_spans()

    pollers = [threading.Thread(target=poll) for _ in range(2)]
    for thread in pollers:
        thread.start()
    try:
        for number in range(600):
            with tracer.start_as_current_span(
                "quick", attributes={"progress.operation.id": str(number), "progress.total": 1}
            ):
                pass
    finally:
        stop.set()
        for thread in pollers:
            thread.join()
    assert recorder.runtime.get_active_operations() == []
    operations = [operation.operation_id for operation in recorder.runtime.get_history(limit=10_000)]
    assert operations == [str(number) for number in range(599, 399, -1)]


def test_span_with_id_of_its_parent_does_not_loop(recorder: Recorder, tracer: Tracer) -> None:
    """Repeated ids, as in tests, cause no endless loop, and later spans are recorded."""
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    context = trace.set_span_in_context(
        trace.NonRecordingSpan(trace.SpanContext(1, 3, is_remote=False, trace_flags=flags))
    )
    for number in range(6):  # the third one has the id of the common parent
        attributes = {"progress.operation.id": str(number), "progress.total": 1}
        with tracer.start_as_current_span("quick", context, attributes=attributes):
            recorder.runtime._providers.processor.read_spans()
    operations = [operation.operation_id for operation in recorder.runtime.get_history()]
    assert operations == ["5", "4", "3", "2", "1", "0"]
    assert not recorder.runtime._providers.processor.is_watching


def test_force_flush_reads_running_spans(recorder: Recorder, tracer: Tracer) -> None:
    """Flushing the application's provider reads the attributes of its running spans."""
    with tracer.start_as_current_span("import", attributes={"progress.total": 1}):
        recorder.provider.force_flush()
        assert len(recorder.runtime.get_active_operations()) == 1


def test_the_ticker_wakes_for_plain_spans(lenient: Recorder) -> None:
    """A plain span is found by the background ticks alone, without a helper running."""
    lenient.runtime._ticker.set_background(True)
    with lenient.provider.get_tracer("user").start_as_current_span("import") as span:
        span.set_attribute("progress.total", 4)
        wait_until(lenient.runtime.get_active_operations, 60.0)


def add_processor(store: LiveStore, max_watched: int) -> tuple[ProgressSpanProcessor, Tracer]:
    """Return a processor with its own provider, and a tracer of this provider."""
    processor = ProgressSpanProcessor(store, max_watched=max_watched)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return processor, provider.get_tracer("user")


def test_locked_methods_run_with_the_lock(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread owns the lock in each method whose name ends in ``_locked``."""
    processor, tracer = add_processor(recorder.runtime._store, max_watched=1)
    names = {name for name in vars(ProgressSpanProcessor) if name.endswith("_locked")}
    called = set()

    def check_lock(name: str) -> None:
        method = getattr(processor, name)

        def call(*arguments: object) -> object:
            assert processor._lock.is_owned()
            called.add(name)
            return method(*arguments)

        monkeypatch.setattr(processor, name, call)

    for name in names:
        check_lock(name)
    for _ in range(2):
        span = tracer.start_span("import", attributes={"progress.total": 1})
        processor.read_spans()
    span.end()
    assert called == names
    assert len(names) == 6


class Unreadable:
    """A foreign span whose attributes raise after some reads."""

    def __init__(self, span: object, reads: int) -> None:
        self._span = span
        self._reads = reads

    @property
    def attributes(self) -> object:
        """Return the attributes, or raise after ``reads`` reads."""
        self._reads -= 1
        if self._reads < 0:
            raise OSError("unreadable")
        return {"progress.total": 1}

    def __getattr__(self, name: str) -> object:
        return getattr(self._span, name)


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_span_with_unreadable_attributes_is_dropped(lenient: Recorder, reads: int) -> None:
    """Errors of reading a span reach neither the ticker nor the caller of ``end``."""
    processor = lenient.runtime._providers.processor
    span = Unreadable(lenient.provider.get_tracer("user").start_span("x"), reads)
    processor.on_start(span)  # type: ignore[arg-type]
    processor.read_spans()
    processor.read_spans()
    processor.on_end(span)  # type: ignore[arg-type]
    assert lenient.runtime.get_active_operations() == []
    assert not processor.is_watching
    processor.on_start(None)  # type: ignore[arg-type]
    processor.on_end(None)  # type: ignore[arg-type]
    with progress.operation("o") as op:
        assert op.recording
