"""Segment spans of levels that run longer than the limit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan

import otel_progress as progress
from otel_progress import semconv
from otel_progress.instrument import segments
from otel_progress.sampling import ProgressSampler
from otel_progress.testing import Recorder, recording

LIMIT_S = 100.0


def pass_time(recorder: Recorder, seconds: float) -> None:
    """Advance the clock and tick."""
    recorder.clock.advance(seconds)
    recorder.tick()


def fail_after(recorder: Recorder, seconds: float) -> None:
    """Fail after some time."""
    pass_time(recorder, seconds)
    raise OSError("gone")


def find_spans(recorder: Recorder, name: str) -> list[ReadableSpan]:
    """Return the exported spans of a name, in the order of their ends."""
    return [span for span in recorder.spans() if span.name == name]


def get_id(span: ReadableSpan) -> int:
    """Return the span id."""
    context: Any = span.get_span_context()
    return int(context.span_id)


def get_attribute(span: ReadableSpan, name: str) -> object:
    """Return an attribute, or None."""
    return (span.attributes or {}).get(name)


def describe_links(span: ReadableSpan) -> list[tuple[int, object]]:
    """Return span id and segment number of each link."""
    return [(link.context.span_id, (link.attributes or {}).get(semconv.SEGMENT)) for link in span.links]


def test_long_operation_continues_in_linked_segments() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j", total=3, customer="a") as op:
            for _ in range(3):
                op.increment()
                pass_time(recorder, 60.0)
                pass_time(recorder, 60.0)
            run = recorder.operation("j").run
        first, second, third, last = find_spans(recorder, "job")
    for number, span in enumerate((first, second, third, last), 1):
        assert get_attribute(span, semconv.SEGMENT) == number
        assert get_attribute(span, semconv.RUN) == run
        assert get_attribute(span, semconv.OPERATION_ID) == "j"
        assert get_attribute(span, "progress.metadata.customer") == "a"
        assert get_attribute(span, semconv.CURRENT) == min(number, 3)
    assert [get_attribute(span, semconv.STATUS) for span in (first, second, third, last)] == [
        *["running"] * 3,
        "completed",
    ]
    assert describe_links(first) == []
    assert describe_links(second) == [(get_id(first), 1)]
    assert describe_links(third) == [(get_id(first), 1), (get_id(second), 2)]
    assert describe_links(last) == [(get_id(first), 1), (get_id(third), 3)]
    assert (first.end_time, second.end_time) == (second.start_time, third.start_time)
    assert len({span.get_span_context().trace_id for span in (first, second, third, last)}) == 1  # type: ignore[union-attr]


def test_operation_below_the_limit_has_one_span_without_segment() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j"):
            pass_time(recorder, LIMIT_S - 1.0)
        (span,) = recorder.spans()
    assert get_attribute(span, semconv.SEGMENT) is None
    assert not span.links


def test_children_started_later_are_below_the_current_segment() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        tracer = recorder.provider.get_tracer("app")
        with progress.operation("job", id="j") as op:
            pass_time(recorder, LIMIT_S)
            with op.level("inside", "1"), progress.level("nested", "1"):
                pass
            thread = threading.Thread(target=lambda: op.level("thread", "1").start().complete())
            thread.start()
            thread.join()
            with tracer.start_as_current_span("plain"):
                pass
        parents = {span.name: span.parent.span_id for span in recorder.spans() if span.parent is not None}
        current = find_spans(recorder, "job")[-1]
    assert parents["inside"] == parents["thread"] == parents["plain"] == get_id(current)
    assert parents["nested"] != get_id(current)


def test_long_child_continues_below_the_current_segment_of_its_parent() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j") as op:
            pass_time(recorder, 50.0)
            child = op.level("child", "c").start()
            pass_time(recorder, 60.0)
            pass_time(recorder, 60.0)
            child.complete()
        first, last = find_spans(recorder, "child")
        jobs = find_spans(recorder, "job")
    assert first.parent is not None
    assert last.parent is not None
    assert [first.parent.span_id, last.parent.span_id] == [get_id(jobs[0]), get_id(jobs[1])]
    assert describe_links(last) == [(get_id(first), 1)]


def test_segments_stay_below_the_span_of_the_caller() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        tracer = recorder.provider.get_tracer("app")
        with tracer.start_as_current_span("request") as request, progress.operation("job", id="j"):
            pass_time(recorder, LIMIT_S)
        parents = [span.parent.span_id for span in find_spans(recorder, "job") if span.parent is not None]
    assert parents == [request.get_span_context().span_id] * 2


def test_current_span_of_the_caller_acts_on_the_current_segment(caplog: pytest.LogCaptureFixture) -> None:
    """The object in the context is the first one, also after several segments."""
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j") as op:
            before = trace.get_current_span()
            before.set_attribute("early", 1)
            pass_time(recorder, LIMIT_S)
            pass_time(recorder, LIMIT_S)
            current = trace.get_current_span()
            assert current is before
            assert current.is_recording()
            assert current.get_span_context() == op.span.get_span_context()
            current.set_attribute("late", 2)
            current.add_event("checked")
            current.record_exception(ValueError("handled"))
        first, second, third = find_spans(recorder, "job")
    assert [get_attribute(span, "early") for span in (first, second, third)] == [1, 1, 1]
    assert [get_attribute(span, "late") for span in (first, second, third)] == [None, None, 2]
    assert [event.name for event in third.events] == ["checked", "exception"]
    assert not first.events
    assert not caplog.records


def test_span_of_the_handle_is_valid_after_the_end() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j") as op:
            pass_time(recorder, LIMIT_S)
        assert op.span.get_span_context().span_id == get_id(find_spans(recorder, "job")[-1])
        assert not op.span.is_recording()


def test_live_state_and_events_are_independent_of_segments() -> None:
    """A control without segments has the same state."""
    states = []
    for limit in (LIMIT_S, 1e6):
        with recording(segment_after=limit) as recorder, progress.operation("job", id="j", total=9) as op:
            for number in range(6):
                op.item(f"file {number}")
                pass_time(recorder, 40.0)
            found = recorder.operation("j")
            events = recorder.runtime.get_events("j")
            root = replace(found.root, info=replace(found.root.info, instance=""))
            states.append((root, found.eta, [(each.name, each.at) for each in events]))
    assert states[0] == states[1]


def test_each_segment_has_its_own_limit_of_events() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        with progress.operation("job", id="j", total=100) as op:
            for number in range(20):
                op.item(f"a{number}", outcome="failed")
            pass_time(recorder, LIMIT_S)
            op.item("b", outcome="failed")
        first, last = find_spans(recorder, "job")
    assert len([event for event in first.events if event.name == semconv.EVENT_ITEM]) == 4
    assert (last.events[0].attributes or {}).get(semconv.ITEM_NAME) == "b"


def test_failed_operation_records_its_exception_on_the_last_segment() -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        operation = progress.operation("job", id="j")
        with pytest.raises(OSError, match="gone"), operation:
            fail_after(recorder, LIMIT_S)
        first, last = find_spans(recorder, "job")
    assert first.status.is_unset
    assert not last.status.is_ok
    assert [event.name for event in last.events] == ["exception"]


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ProgressSampler(ALWAYS_OFF)], ids=["dropped", "recorded"])
def test_span_that_is_not_sampled_is_not_exported_in_segments(sampler: Any) -> None:
    with recording(segment_after=LIMIT_S, sampler=sampler) as recorder:
        with progress.operation("job", id="j") as op:
            for _ in range(3):
                pass_time(recorder, LIMIT_S)
            assert not op.span.get_span_context().trace_flags.sampled
        assert recorder.spans() == ()


def test_segments_beyond_the_limit_of_a_tick_start_in_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_SEGMENTS_PER_TICK", 3)
    with recording(segment_after=LIMIT_S) as recorder:
        levels: list[progress.Level] = []
        with progress.operation("job", id="j") as op:
            levels += (op.level("part", number).start() for number in range(5))
            ended = []
            for seconds in (LIMIT_S, 0.0, 0.0):
                pass_time(recorder, seconds)
                ended.append(len(recorder.spans()))
    assert ended == [3, 6, 6]


class EndingProcessor(SpanProcessor):
    """Ends a level, as another thread may do it, while its next segment starts."""

    level: progress.Level | None = None

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """End the level."""
        if self.level is not None:
            self.level.complete()


def test_level_that_ends_while_its_segment_starts_is_exported_as_completed() -> None:
    provider, processor = TracerProvider(shutdown_on_exit=False), EndingProcessor()
    provider.add_span_processor(processor)
    with recording(segment_after=LIMIT_S, provider=provider) as recorder:
        processor.level = None
        op = progress.operation("job", id="j").start()
        processor.level = op
        pass_time(recorder, LIMIT_S)
        processor.level = None
        found = find_spans(recorder, "job")
        assert recorder.operation("j").status is progress.Status.COMPLETED
    assert [get_attribute(span, semconv.STATUS) for span in found] == ["completed", "completed"]


class FailingTracer:
    """Tracer provider whose tracers fail after the first span."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.is_failing = False

    def __call__(self, scope: str) -> trace.Tracer:
        """Return a tracer, or raise."""
        if self.is_failing:
            raise RuntimeError("no tracer")
        return self.provider.get_tracer(scope)


def test_failing_tracer_leaves_the_span_and_is_tried_at_the_next_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with recording(segment_after=LIMIT_S) as recorder:
        tracer = FailingTracer(recorder.provider)
        recorder.runtime._components._segmenter._tracer = tracer
        with progress.operation("job", id="j"):
            tracer.is_failing = True
            pass_time(recorder, LIMIT_S)
            pass_time(recorder, 1.0)
            assert recorder.spans() == ()
            tracer.is_failing = False
            pass_time(recorder, LIMIT_S)
        assert [get_attribute(span, semconv.SEGMENT) for span in recorder.spans()] == [1, 2]
    assert len([record for record in caplog.records if "segment" in record.getMessage()]) == 1


class ForeignSpan(NonRecordingSpan):
    """Recording span of another tracer, without any attribute that can be set."""

    __slots__ = ("ended",)

    def is_recording(self) -> bool:
        """Return True until its end."""
        return not getattr(self, "ended", False)

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002
        """Store that it has ended."""
        self.ended = True


class ForeignTracer(trace.NoOpTracer):
    """Tracer that returns foreign spans and stores the links of each."""

    def __init__(self) -> None:
        self.spans: list[tuple[ForeignSpan, Sequence[trace.Link]]] = []

    def start_span(self, *_: Any, links: Any = (), **__: Any) -> trace.Span:
        """Return a span."""
        context = trace.SpanContext(7, len(self.spans) + 1, is_remote=False)
        self.spans.append((ForeignSpan(context), links))
        return self.spans[-1][0]


class ForeignProvider(trace.NoOpTracerProvider):
    """Provider of another implementation of the API."""

    def __init__(self) -> None:
        self.tracer = ForeignTracer()

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        """Return the tracer."""
        return self.tracer


def test_spans_of_another_implementation_are_segmented() -> None:
    """Only the methods of the API are used."""
    provider = ForeignProvider()
    with recording(segment_after=LIMIT_S) as recorder:
        backend = recorder.runtime._recording
        backend.tracer = recorder.runtime._components._segmenter._tracer = provider.get_tracer
        with progress.operation("job", id="j") as op:
            pass_time(recorder, LIMIT_S)
            assert op.span is provider.tracer.spans[1][0]
    (first, _), (second, links) = provider.tracer.spans
    assert [link.context.span_id for link in links] == [1]
    assert not first.is_recording() or first.get_span_context() == second.get_span_context()
