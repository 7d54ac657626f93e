"""Tests of ProgressSampler with processors, exporters and parent-based samplers."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from otel_progress import semconv
from otel_progress.sampling import ProgressSampler

PROGRESS = {semconv.OPERATION_ID: "friday-42", "user": "kept"}
SAMPLERS = [
    ALWAYS_ON,
    ALWAYS_OFF,
    DEFAULT_ON,
    DEFAULT_OFF,
    TraceIdRatioBased(0.3),
    ParentBasedTraceIdRatio(0.3),
]


class CollectingProcessor(SpanProcessor):
    """Span processor that stores all ended spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Store an ended span."""
        self.spans.append(span)


class Traced:
    """Tracer provider with a sampler, a processor, an exporter and repeatable ids."""

    def __init__(self, sampler: Sampler) -> None:
        self.processor = CollectingProcessor()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, id_generator=RepeatableIds(), shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def get_exported_names(self) -> list[str]:
        """Return the names of the exported spans."""
        return [span.name for span in self.exporter.get_finished_spans()]


class RepeatableIds(IdGenerator):
    """Generator of repeatable ids that are spread over the whole range."""

    def __init__(self) -> None:
        self._last = 1

    def _generate(self, bits: int) -> int:
        self._last = self._last * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        return (self._last << 64 | self._last) & (1 << bits) - 1 or 1

    def generate_trace_id(self) -> int:
        """Return the next trace id."""
        return self._generate(128)

    def generate_span_id(self) -> int:
        """Return the next span id."""
        return self._generate(64)

    def is_trace_id_random(self) -> bool:
        """Return False: the ids are not random."""
        return False


def run_span_trees(traced: Traced, count: int = 40) -> None:
    """Run span trees of progress spans and other spans."""
    for number in range(count):
        with traced.tracer.start_as_current_span(f"operation {number}", attributes=PROGRESS):
            with traced.tracer.start_as_current_span(f"plain {number}", attributes={"http.route": "/"}):
                traced.tracer.start_span(f"level {number}", attributes=PROGRESS).end()
            with traced.tracer.start_as_current_span(f"bare {number}"):
                pass


@pytest.mark.parametrize("root", SAMPLERS, ids=lambda sampler: sampler.get_description()[:40])
def test_sampler_exports_the_same_spans_as_its_root(root: Sampler) -> None:
    """The same span trees export the same spans with and without ProgressSampler."""
    expected, actual = Traced(root), Traced(ProgressSampler(root))
    run_span_trees(expected)
    run_span_trees(actual)
    assert actual.get_exported_names() == expected.get_exported_names()


@pytest.mark.parametrize("root", SAMPLERS, ids=lambda sampler: sampler.get_description()[:40])
def test_sampler_passes_every_progress_span_to_processors(root: Sampler) -> None:
    """Spans that are not sampled have the attributes of their start."""
    traced = Traced(ProgressSampler(root))
    run_span_trees(traced)
    progress = [span for span in traced.processor.spans if span.name.startswith(("operation", "level"))]
    assert len(progress) == 80
    assert all(dict(span.attributes or {}) == PROGRESS for span in progress)


def test_ratio_sampler_decides_both_ways() -> None:
    """A ratio sampler keeps some of the ids of these tests, and drops others."""
    traced = Traced(ProgressSampler(TraceIdRatioBased(0.3)))
    run_span_trees(traced)
    assert 0 < len(traced.get_exported_names()) < 160


def test_sampler_returns_result_of_root_for_other_spans() -> None:
    """Spans without a progress attribute have the result object of the root."""

    class ConstantSampler(Sampler):
        result = ALWAYS_OFF.should_sample(None, 1, "x")

        def should_sample(self, *_: object, **__: object) -> SamplingResult:
            return self.result

        def get_description(self) -> str:
            return "ConstantSampler"

    sampler = ProgressSampler(ConstantSampler())
    for attributes in (None, {}, {"progressive": 1}, {"my.progress.current": 1}):
        assert sampler.should_sample(None, 1, "x", attributes=attributes) is ConstantSampler.result


def test_children_of_record_only_span_are_dropped() -> None:
    """A parent-based sampler drops children of a recorded span that is not sampled."""
    traced = Traced(ProgressSampler(DEFAULT_OFF))
    with traced.tracer.start_as_current_span("operation", attributes=PROGRESS) as operation:
        assert operation.is_recording()
        assert not operation.get_span_context().trace_flags.sampled
        with traced.tracer.start_as_current_span("plain") as plain:
            assert not plain.is_recording()
            assert plain.get_span_context().trace_id == operation.get_span_context().trace_id
    assert traced.get_exported_names() == []


def test_remote_parent_decides_about_children() -> None:
    """Children of a sampled remote parent are sampled, the others are only recorded."""
    for flags, names in ((1, ["level"]), (0, [])):
        traced = Traced(ProgressSampler(DEFAULT_ON))
        parent = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(flags))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        traced.tracer.start_span("level", context=context, attributes=PROGRESS).end()
        assert traced.get_exported_names() == names
        assert [span.name for span in traced.processor.spans] == ["level"]


def test_trace_state_of_dropped_span_is_kept() -> None:
    """The trace state of the root's decision is part of the recorded span."""
    state = trace.TraceState([("vendor", "x")])
    parent = trace.SpanContext(7, 8, is_remote=True, trace_state=state)
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    traced = Traced(ProgressSampler(DEFAULT_ON))
    span = traced.tracer.start_span("level", context=context, attributes=PROGRESS)
    assert span.get_span_context().trace_state == state


def test_attributes_of_dropping_root_are_added() -> None:
    """Attributes that the root adds are recorded in addition to those of the span."""

    class MarkingSampler(Sampler):
        def should_sample(self, *_: object, **__: object) -> SamplingResult:
            return SamplingResult(Decision.DROP, {"sampling.rule": "night"})

        def get_description(self) -> str:
            return "MarkingSampler"

    traced = Traced(ProgressSampler(MarkingSampler()))
    traced.tracer.start_span("level", attributes=PROGRESS).end()
    assert dict(traced.processor.spans[0].attributes or {}) == {**PROGRESS, "sampling.rule": "night"}


def test_explicit_trace_state_is_passed_to_root() -> None:
    """A sampler around ProgressSampler can pass a trace state."""

    class StoringSampler(Sampler):
        state: object = None

        def should_sample(self, *arguments: object, **__: object) -> SamplingResult:
            self.state = arguments[6]
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "StoringSampler"

    root, state = StoringSampler(), trace.TraceState([("vendor", "x")])
    ProgressSampler(root).should_sample(None, 1, "x", trace_state=state)
    assert root.state is state


def test_root_without_trace_state_parameter_is_supported() -> None:
    """An old root without the parameter ``trace_state`` is called as by the SDK."""

    class OldSampler(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None):  # type: ignore[no-untyped-def, override]
            return ALWAYS_OFF.should_sample(parent_context, trace_id, name, kind, attributes, links)

        def get_description(self) -> str:
            return "OldSampler"

    traced = Traced(ProgressSampler(OldSampler()))
    traced.tracer.start_span("level", attributes=PROGRESS).end()
    assert len(traced.processor.spans) == 1


def test_description_contains_that_of_root() -> None:
    """The description has the form ``ProgressSampler{…}``."""
    assert ProgressSampler(ALWAYS_OFF).get_description() == "ProgressSampler{AlwaysOffSampler}"
    assert ProgressSampler(ALWAYS_OFF).root is ALWAYS_OFF
