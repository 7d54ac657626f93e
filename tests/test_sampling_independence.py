"""Live state is complete and the same whatever a sampler, the SDK or its absence says; exporters get what the sampler says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

import otel_progress as progress
from otel_progress import config
from otel_progress.operations import OperationSnapshot
from otel_progress.runtime.components import ClockAndIds
from otel_progress.runtime.runtime import Runtime
from otel_progress.sampling import ProgressSampler
from otel_progress.testing import CountingIds, FakeClock, recording

SAMPLERS = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "ratio": TraceIdRatioBased(0.01),
    "parent_on": ParentBased(ALWAYS_ON),
    "parent_ratio": ParentBasedTraceIdRatio(0.01),
    "progress_off": ProgressSampler(ALWAYS_OFF),
    "progress_ratio": ProgressSampler(TraceIdRatioBased(0.01)),
}


def work() -> None:
    """Do everything that is seen live: stages, levels, items, a retry, a failure, what is forgotten and what runs on."""
    with progress.operation("job", "Job", id="job", total=3, stages={"load": 1, "run": 3}, who="me") as op:
        with op.stage("load") as load:
            load.update(current=5, total=10, message="loading")
        with op.stage("run") as run, run.level("file", "a", total=4) as file:
            file.increment(3)
            file.item("x", outcome="failed", error="bad")
        for _ in range(2):
            with pytest.raises(ValueError, match="flat"), op.level("song", 1):
                raise ValueError("flat")
    open_one = progress.operation("open", id="open", total=2).start()
    for number in open_one.track([1, 2]):
        if number == 2:
            break
    open_one.increment()
    KEPT.append(open_one)


KEPT: list[progress.Level] = []
"""Handles of operations that go on."""


def facts(runtime: Runtime) -> list[Any]:
    """Return all that is live, but for what a trace and a process are identified by."""
    found: list[Any] = []
    for operation_id in ("job", "open"):
        one = runtime.get_operation(operation_id)
        assert one is not None
        found.append(
            [one.condition, one.elapsed_seconds, [described(level) for level in (one.root, *one.levels)]]
        )
        found.append(
            [
                (event.name, event.path, event.outcome, event.number)
                for event in runtime.get_events(operation_id)
            ]
        )
    return found


def described(level: Any) -> dict[str, Any]:
    """Return a level's fields."""
    fields = {
        name: getattr(level, name)
        for name in type(level).__slots__
        if name not in ("info", "error", "metadata")
    }
    hidden = ("trace_id", "span_id", "instance")
    info = {name: getattr(level.info, name) for name in type(level.info).__slots__ if name not in hidden}
    error = None if level.error is None else (level.error.type, level.error.message)
    return {**fields, **info, "error": error, "metadata": dict(level.metadata)}


@pytest.fixture
def expected() -> Iterator[list[Any]]:
    """Return what is live under the SDK's default sampler."""
    with recording() as recorder:
        work()
        yield facts(recorder.runtime)
        KEPT.clear()


@contextmanager
def started(provider: Any, environ: dict[str, str] | None = None) -> Iterator[Runtime]:
    """Configure with a provider as applications do, but with a clock that stands still."""
    clock, ids = FakeClock(), CountingIds()
    settings = {"store": "memory:", "console": False, "otlp": False, "strict": True}
    sources = ClockAndIds(clock.monotonic, clock.wall, ids.run_id)
    with config.start(settings, provider, environ=environ or {}, sources=sources) as runtime:
        runtime._ticker.set_background(False)
        yield runtime
        KEPT.clear()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_live_state_does_not_depend_on_the_sampler(expected: list[Any], sampler: Sampler) -> None:
    """Every level, count, event and order is there however few spans are kept."""
    config.current_runtime().shutdown()  # type: ignore[union-attr]
    with recording(sampler=sampler) as recorder:
        work()
        assert facts(recorder.runtime) == expected
        KEPT.clear()


def test_live_state_without_the_sdk(expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider of the API only, and an SDK that is switched off, show the same."""
    config.current_runtime().shutdown()  # type: ignore[union-attr]
    with started(trace.NoOpTracerProvider()) as runtime:
        work()
        assert facts(runtime) == expected
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    disabled = TracerProvider(shutdown_on_exit=False)
    with started(disabled) as runtime:
        work()
        assert facts(runtime) == expected


def exported(provider: TracerProvider) -> InMemorySpanExporter:
    """Return an exporter that gets all that this provider exports."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("wrapped", [False, True])
def test_exporters_get_exactly_what_the_sampler_says(ratio: float, wrapped: bool) -> None:
    """Of 300 operations with a child each, those are exported, whole, whose trace the sampler keeps."""
    root = ParentBased(TraceIdRatioBased(ratio))
    with recording(sampler=ProgressSampler(root) if wrapped else root) as recorder:
        kept = []
        recorder.provider.id_generator.generate_trace_id = iter(range(1, 2**64, 2**64 // 400)).__next__  # type: ignore[method-assign]
        for number in range(300):
            with progress.operation("o", id=number) as op, op.level("a"):
                kept.append(op.span.get_span_context().trace_flags.sampled)
        assert len(recorder.spans()) == 2 * sum(kept)
        assert sum(kept) == pytest.approx(300 * ratio, abs=100 * ratio * (1 - ratio) * 3)
        assert len(recorder.runtime.get_history(limit=1000)) == 200


def test_a_second_provider_joined_late() -> None:
    """The first provider makes the helpers' spans; the plain spans of one that joins later are followed, each once."""
    first, late = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    early, later = exported(first), exported(late)
    with started(first) as runtime:
        with progress.operation("own", total=1) as op:
            assert config.configure(tracer_provider=late) is runtime
            assert config.configure(tracer_provider=late) is runtime
            with (
                op.level("child"),
                late.get_tracer("user").start_as_current_span("plain", attributes={"progress.total": 4}),
            ):
                runtime._ticker.tick()
                levels = found(runtime, op.operation_id).levels
                assert [(level.info.type, level.total) for level in levels] == [("child", None), ("plain", 4)]
        assert found(runtime, op.operation_id).root.current == 1
    names = [[span.name for span in exporter.get_finished_spans()] for exporter in (early, later)]
    assert names == [["child", "own"], ["plain"]]


def found(runtime: Runtime, operation_id: str) -> OperationSnapshot:
    """Return an operation that has to be there."""
    one = runtime.get_operation(operation_id)
    assert one is not None
    return one


def test_a_provider_that_shuts_down_leaves_others_alone() -> None:
    """When one of several providers is shut down, the plain spans of another are followed on."""
    first, second = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    with started(first) as runtime:
        runtime.join(second)
        with second.get_tracer("user").start_as_current_span("plain") as span:
            first.shutdown()
            span.set_attributes({"progress.current": 1, "progress.total": 2})
            runtime._ticker.tick()
            (one,) = runtime.get_active_operations()
            assert (one.operation_type, one.ratio) == ("plain", 0.5)


def test_a_runtime_that_ended_watches_no_spans() -> None:
    """After a shutdown the provider's spans are nobody's business, and a new configuration sees each once."""
    provider = TracerProvider(shutdown_on_exit=False)
    with started(provider) as before:
        pass
    with started(provider) as runtime, provider.get_tracer("user").start_as_current_span("plain") as span:
        span.set_attribute("progress.total", 2)
        runtime._ticker.tick()
        assert len(runtime.get_active_operations()) == 1
        assert list(before.reader.active()) == []
        assert not before._providers.processor.is_watching
    assert list(before.reader.history()) == []
