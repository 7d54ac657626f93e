"""Plain OpenTelemetry spans that tell of progress: code that knows nothing of this package is seen live, too."""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace import StatusCode, Tracer

import otel_progress as progress
from otel_progress import Status
from otel_progress.testing import Recorder, wait_until


@pytest.fixture
def tracer(recorder: Recorder) -> Tracer:
    """Return a tracer of the application."""
    return recorder.provider.get_tracer("user")


def paths(recorder: Recorder) -> dict[str, list[str]]:
    """Return the paths of all levels, of running and ended operations, by operation type."""
    known = [*recorder.runtime.get_active_operations(), *recorder.runtime.get_history()]
    return {
        one.operation_type: [level.path for level in recorder.operation(one.operation_id).levels]
        for one in known
    }


def test_a_span_with_progress_is_an_operation(recorder: Recorder, tracer: Tracer) -> None:
    """What a span says of itself in mid-life is seen at the next tick, and its end at once."""
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
    assert [one.name for one in recorder.spans()] == ["import"]
    assert dict(recorder.spans()[0].attributes) == {
        "progress.current": 9,
        "progress.total": 12,
        "progress.message": "rows",
        "progress.metadata.table": "users",
    }


def test_names_of_the_vocabulary_are_taken_over(recorder: Recorder, tracer: Tracer) -> None:
    """Id, type, name and unit that a span carries are those of its operation."""
    given = {
        "operation.id": "i-1",
        "operation.type": "import",
        "operation.name": "Import",
        "unit": "row",
        "total": 1,
    }
    with tracer.start_as_current_span(
        "x", attributes={f"progress.{name}": value for name, value in given.items()}
    ):
        recorder.tick()
        one = recorder.operation("i-1")
    assert (one.operation_type, one.name, one.root.info.unit) == ("import", "Import", "row")


def test_a_very_short_span(recorder: Recorder, tracer: Tracer) -> None:
    """A span that begins and ends between two ticks is there with its last values."""
    with tracer.start_as_current_span("quick") as span:
        span.set_attributes({"progress.current": 2, "progress.total": 2})
    (one,) = recorder.runtime.get_history("quick")
    assert (one.status, one.root.current, one.ratio) == (Status.COMPLETED, 2, 1.0)


def test_short_spans_nest(recorder: Recorder, tracer: Tracer) -> None:
    """Nested spans that nobody looked at before their end are levels of one operation."""
    with tracer.start_as_current_span("outer", attributes={"progress.total": 2}):
        for _ in range(2):
            with tracer.start_as_current_span("quiet"), tracer.start_as_current_span("inner") as span:
                span.set_attribute("progress.current", 1)
    (one,) = recorder.runtime.get_history()
    assert (one.operation_type, one.root.current) == ("outer", 2)
    assert [level.info.type for level in recorder.operation(one.operation_id).levels] == ["inner", "inner"]


def test_spans_below_a_helpers_level(recorder: Recorder, tracer: Tracer) -> None:
    """A plain span inside of a level, directly or below an untold span, is a level below it."""
    with progress.operation("job", id="j"), progress.level("part", 1):
        with tracer.start_as_current_span("direct", attributes={"progress.total": 1}):
            recorder.tick()
        with tracer.start_as_current_span("silent"), tracer.start_as_current_span("deep") as span:
            span.set_attribute("progress.current", 1)
    assert [level.info.type for level in recorder.operation("j").levels] == ["part", "direct", "deep"]
    assert all(path.startswith("part:1") for path in paths(recorder)["job"])


def test_helpers_below_a_plain_span(recorder: Recorder, tracer: Tracer) -> None:
    """An operation inside of a plain span with progress is one of its own, inside its trace."""
    with tracer.start_as_current_span("plain", attributes={"progress.total": 1}) as span:
        recorder.tick()
        with progress.operation("job") as op:
            assert op.span.get_span_context().trace_id == span.get_span_context().trace_id
    assert sorted(paths(recorder)) == ["job", "plain"]


def test_a_failed_span(recorder: Recorder, tracer: Tracer) -> None:
    """An exception in a plain span fails its level, with the span's description."""
    with (
        pytest.raises(OSError, match="gone"),
        tracer.start_as_current_span("import", attributes={"progress.total": 1}),
    ):
        raise OSError("gone")
    (one,) = recorder.runtime.get_history()
    assert one.status is Status.FAILED
    assert one.error is not None
    assert one.error.message == "OSError: gone"


def test_the_error_type_a_span_names(recorder: Recorder, tracer: Tracer) -> None:
    """A span's own error.type is the failure's."""
    with tracer.start_as_current_span(
        "import", attributes={"progress.total": 1, "error.type": "timeout"}
    ) as span:
        span.set_status(SpanStatus(StatusCode.ERROR))
    (one,) = recorder.runtime.get_history()
    assert one.error is not None
    assert (one.error.type, one.error.message) == ("timeout", "")


def test_a_parent_that_ends_first(recorder: Recorder, tracer: Tracer) -> None:
    """A span whose parent ended before it goes on, as an operation of its own when it tells only later."""
    outer = tracer.start_span("outer", attributes={"progress.total": 1})
    from opentelemetry.trace import set_span_in_context

    inner = tracer.start_span("inner", context=set_span_in_context(outer))
    recorder.tick()
    outer.end()
    inner.set_attribute("progress.current", 1)
    recorder.tick()
    inner.end()
    assert sorted(one.operation_type for one in recorder.runtime.get_history()) == ["inner", "outer"]


@pytest.mark.parametrize("value", ["many", float("nan"), -1, True, [1, 2]])
def test_values_that_are_no_progress(recorder: Recorder, tracer: Tracer, value: object) -> None:
    """A span with odd values shows what is sound and raises nothing."""
    with tracer.start_as_current_span("odd", attributes={"progress.total": 5}) as span:
        span.set_attribute("progress.current", value)  # type: ignore[arg-type]
        recorder.tick()
        (one,) = recorder.runtime.get_active_operations()
        assert (one.root.current, one.root.total) == (0, 5)


def test_nothing_is_kept_of_ordinary_spans(recorder: Recorder, tracer: Tracer) -> None:
    """Spans that tell of no progress leave nothing behind, however many."""
    for _ in range(5_000):
        with tracer.start_as_current_span("ordinary"):
            pass
    processor = recorder.runtime._providers.processor
    assert not processor.watching
    assert not processor._nodes
    spans = [tracer.start_span("ordinary") for _ in range(3_000)]
    assert len(processor._watched) == 2_000
    for span in spans:
        span.end()
    assert not processor.watching


def test_ending_while_being_looked_at(recorder: Recorder, tracer: Tracer) -> None:
    """Spans that end in one thread while a tick looks at them in another end once, and none runs on."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            recorder.runtime._providers.processor.look()

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    try:
        for number in range(600):
            with tracer.start_as_current_span(
                "quick", attributes={"progress.operation.id": str(number), "progress.total": 1}
            ):
                pass
    finally:
        stop.set()
        for thread in looking:
            thread.join()
    assert recorder.runtime.get_active_operations() == []
    operations = [one.operation_id for one in recorder.runtime.get_history(limit=10_000)]
    assert operations == [str(number) for number in range(599, 399, -1)]


def test_a_span_with_the_id_of_its_parent(recorder: Recorder, tracer: Tracer) -> None:
    """Ids from a generator that repeats itself, as in tests, lead in no circle, and what follows is seen as ever."""
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    context = trace.set_span_in_context(
        trace.NonRecordingSpan(trace.SpanContext(1, 3, is_remote=False, trace_flags=flags))
    )
    for number in range(6):  # the third one has the id of the span they all say they are in
        given = {"progress.operation.id": str(number), "progress.total": 1}
        with tracer.start_as_current_span("quick", context, attributes=given):
            recorder.runtime._providers.processor.look()
    assert [one.operation_id for one in recorder.runtime.get_history()] == ["5", "4", "3", "2", "1", "0"]
    assert not recorder.runtime._providers.processor.watching


def test_force_flush_of_the_provider_looks(recorder: Recorder, tracer: Tracer) -> None:
    """Flushing the application's provider takes over what its spans say now."""
    with tracer.start_as_current_span("import", attributes={"progress.total": 1}):
        recorder.provider.force_flush()
        assert len(recorder.runtime.get_active_operations()) == 1


def test_the_ticker_wakes_for_plain_spans(lenient: Recorder) -> None:
    """A plain span is found by the background ticks alone, without a helper running."""
    lenient.runtime._ticker.set_background(True)
    with lenient.provider.get_tracer("user").start_as_current_span("import") as span:
        span.set_attribute("progress.total", 4)
        wait_until(lenient.runtime.get_active_operations, 60.0)


class Unreadable:
    """A span of a foreign kind whose attributes cannot be read after its first moments."""

    def __init__(self, span: object, reads: int) -> None:
        self._span = span
        self._reads = reads

    @property
    def attributes(self) -> object:
        """Return the attributes, a few times."""
        self._reads -= 1
        if self._reads < 0:
            raise OSError("unreadable")
        return {"progress.total": 1}

    def __getattr__(self, name: str) -> object:
        return getattr(self._span, name)


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_spans_that_cannot_be_read(lenient: Recorder, reads: int) -> None:
    """What goes wrong while a span is looked at reaches neither the ticks nor the code that ends it."""
    processor = lenient.runtime._providers.processor
    span = Unreadable(lenient.provider.get_tracer("user").start_span("x"), reads)
    processor.on_start(span)  # type: ignore[arg-type]
    processor.look()
    processor.look()
    processor.on_end(span)  # type: ignore[arg-type]
    assert lenient.runtime.get_active_operations() == []
    assert not processor.watching
    processor.on_start(None)  # type: ignore[arg-type]
    processor.on_end(None)  # type: ignore[arg-type]
    with progress.operation("o") as op:
        assert op.recording
