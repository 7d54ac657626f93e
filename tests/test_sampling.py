"""ProgressSampler: what processors see, what exporters get, and what parent-based samplers decide below it."""

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


class Seen(SpanProcessor):
    """Keeps what the SDK shows to processors."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep an ended span."""
        self.spans.append(span)


class Traced:
    """A real provider with one sampler, a processor and an in-memory exporter; spans get repeatable trace ids."""

    def __init__(self, sampler: Sampler) -> None:
        self.seen = Seen()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, id_generator=Numbered(), shutdown_on_exit=False)
        self.provider.add_span_processor(self.seen)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def exported(self) -> list[str]:
        """Names of what was exported."""
        return [span.name for span in self.exporter.get_finished_spans()]


class Numbered(IdGenerator):
    """Ids that spread over the whole range and repeat from run to run."""

    def __init__(self) -> None:
        self._last = 1

    def _next(self, bits: int) -> int:
        self._last = self._last * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        return (self._last << 64 | self._last) & (1 << bits) - 1 or 1

    def generate_trace_id(self) -> int:
        """Return the next trace id."""
        return self._next(128)

    def generate_span_id(self) -> int:
        """Return the next span id."""
        return self._next(64)

    def is_trace_id_random(self) -> bool:
        """These are not."""
        return False


def trees(traced: Traced, count: int = 40) -> None:
    """Run span trees that mix progress spans and others."""
    for number in range(count):
        with traced.tracer.start_as_current_span(f"operation {number}", attributes=PROGRESS):
            with traced.tracer.start_as_current_span(f"plain {number}", attributes={"http.route": "/"}):
                traced.tracer.start_span(f"level {number}", attributes=PROGRESS).end()
            with traced.tracer.start_as_current_span(f"bare {number}"):
                pass


@pytest.mark.parametrize("root", SAMPLERS, ids=lambda sampler: sampler.get_description()[:40])
def test_exporters_get_exactly_what_the_root_sampler_says(root: Sampler) -> None:
    """The same trees under the bare root and under ours export the same spans, whatever the root is."""
    bare, ours = Traced(root), Traced(ProgressSampler(root))
    trees(bare)
    trees(ours)
    assert ours.exported() == bare.exported()


@pytest.mark.parametrize("root", SAMPLERS, ids=lambda sampler: sampler.get_description()[:40])
def test_processors_see_every_progress_span_with_its_attributes(root: Sampler) -> None:
    """All progress spans reach processors, and those that are not sampled have the attributes they were started with."""
    traced = Traced(ProgressSampler(root))
    trees(traced)
    progress = [span for span in traced.seen.spans if span.name.startswith(("operation", "level"))]
    assert len(progress) == 80
    assert all(dict(span.attributes or {}) == PROGRESS for span in progress)


def test_ratio_keeps_some_and_not_all() -> None:
    """The ids of these tests really make a ratio sampler decide both ways, so that the comparison above means something."""
    traced = Traced(ProgressSampler(TraceIdRatioBased(0.3)))
    trees(traced)
    assert 0 < len(traced.exported()) < 160


def test_other_spans_are_untouched() -> None:
    """For a span without a progress attribute the root's own result object comes back, dropped or not."""

    class Same(Sampler):
        result = ALWAYS_OFF.should_sample(None, 1, "x")

        def should_sample(self, *_: object, **__: object) -> SamplingResult:
            return self.result

        def get_description(self) -> str:
            return "Same"

    sampler = ProgressSampler(Same())
    for attributes in (None, {}, {"progressive": 1}, {"my.progress.current": 1}):
        assert sampler.should_sample(None, 1, "x", attributes=attributes) is Same.result


def test_record_only_parent_leaves_the_decision_for_children_to_the_root() -> None:
    """Below a recorded, not sampled progress span a parent-based sampler drops, as below a dropped one."""
    traced = Traced(ProgressSampler(DEFAULT_OFF))
    with traced.tracer.start_as_current_span("operation", attributes=PROGRESS) as operation:
        assert operation.is_recording()
        assert not operation.get_span_context().trace_flags.sampled
        with traced.tracer.start_as_current_span("plain") as plain:
            assert not plain.is_recording()
            assert plain.get_span_context().trace_id == operation.get_span_context().trace_id
    assert traced.exported() == []


def test_remote_parent_decides_as_without_us() -> None:
    """A sampled remote parent samples, one that is not sampled leaves its children recorded only."""
    for flags, names in ((1, ["level"]), (0, [])):
        traced = Traced(ProgressSampler(DEFAULT_ON))
        parent = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(flags))
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        traced.tracer.start_span("level", context=context, attributes=PROGRESS).end()
        assert traced.exported() == names
        assert [span.name for span in traced.seen.spans] == ["level"]


def test_trace_state_of_the_root_is_kept() -> None:
    """What a dropping root puts into the trace state is still there when the span is recorded."""
    state = trace.TraceState([("vendor", "x")])
    parent = trace.SpanContext(7, 8, is_remote=True, trace_state=state)
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    traced = Traced(ProgressSampler(DEFAULT_ON))
    span = traced.tracer.start_span("level", context=context, attributes=PROGRESS)
    assert span.get_span_context().trace_state == state


def test_attributes_that_a_dropping_root_adds_are_kept() -> None:
    """What the root says about its decision is recorded beside the span's own attributes, as it would be when sampled."""

    class Marking(Sampler):
        def should_sample(self, *_: object, **__: object) -> SamplingResult:
            return SamplingResult(Decision.DROP, {"sampling.rule": "night"})

        def get_description(self) -> str:
            return "Marking"

    traced = Traced(ProgressSampler(Marking()))
    traced.tracer.start_span("level", attributes=PROGRESS).end()
    assert dict(traced.seen.spans[0].attributes or {}) == {**PROGRESS, "sampling.rule": "night"}


def test_explicit_trace_state_reaches_the_root() -> None:
    """A caller that passes a trace state, as a sampler around ours may, has it handed on."""

    class Heard(Sampler):
        state: object = None

        def should_sample(self, *arguments: object, **__: object) -> SamplingResult:
            self.state = arguments[6]
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "Heard"

    root, state = Heard(), trace.TraceState([("vendor", "x")])
    ProgressSampler(root).should_sample(None, 1, "x", trace_state=state)
    assert root.state is state


def test_sampler_without_trace_state_parameter_works() -> None:
    """A root written before samplers took a trace state is called as the SDK calls it."""

    class Old(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None):  # type: ignore[no-untyped-def, override]
            return ALWAYS_OFF.should_sample(parent_context, trace_id, name, kind, attributes, links)

        def get_description(self) -> str:
            return "Old"

    traced = Traced(ProgressSampler(Old()))
    traced.tracer.start_span("level", attributes=PROGRESS).end()
    assert len(traced.seen.spans) == 1


def test_description_names_the_root() -> None:
    """The description says what it is and what decides."""
    assert ProgressSampler(ALWAYS_OFF).get_description() == "ProgressSampler{AlwaysOffSampler}"
    assert ProgressSampler(ALWAYS_OFF).root is ALWAYS_OFF
