"""Tests that live state does not depend on samplers or the SDK, and exports do."""

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


def run_operations() -> None:
    """Run operations with stages, levels, items, a retry and a failure."""
    with progress.operation("job", "Job", id="job", total=3, stages={"load": 1, "run": 3}, who="me") as op:
        with op.stage("load") as load:
            load.update(current=5, total=10, message="loading")
        with op.stage("run") as run, run.level("file", "a", total=4) as file:
            file.increment(3)
            file.item("x", outcome="failed", error="bad")
        for _ in range(2):
            with pytest.raises(ValueError, match="flat"), op.level("song", 1):
                raise ValueError("flat")
    running = progress.operation("open", id="open", total=2).start()
    for number in running.track([1, 2]):
        if number == 2:
            break
    running.increment()
    RUNNING.append(running)


RUNNING: list[progress.Level] = []
"""Handles of running operations."""


def describe_operations(runtime: Runtime) -> list[Any]:
    """Return the live state without the identity of traces and processes."""
    state: list[Any] = []
    for operation_id in ("job", "open"):
        operation = get_operation(runtime, operation_id)
        levels = [describe_level(level) for level in (operation.root, *operation.levels)]
        state.append([operation.condition, operation.elapsed_seconds, levels])
        state.append(
            [
                (event.name, event.path, event.outcome, event.number)
                for event in runtime.get_events(operation_id)
            ]
        )
    return state


def describe_level(level: Any) -> dict[str, Any]:
    """Return the fields of a level."""
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
    """Return the live state with the default sampler of the SDK."""
    with recording() as recorder:
        run_operations()
        yield describe_operations(recorder.runtime)
        RUNNING.clear()


@contextmanager
def configure(provider: Any, environ: dict[str, str] | None = None) -> Iterator[Runtime]:
    """Configure with a provider as applications do, but with a constant clock."""
    clock, ids = FakeClock(), CountingIds()
    settings = {"store": "memory:", "console": False, "otlp": False, "strict": True}
    sources = ClockAndIds(clock.monotonic, clock.wall, ids.run_id)
    with config.start(settings, provider, environ=environ or {}, sources=sources) as runtime:
        runtime._ticker.set_background(False)
        yield runtime
        RUNNING.clear()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_live_state_does_not_depend_on_the_sampler(expected: list[Any], sampler: Sampler) -> None:
    """Levels, counts, events and their order are complete if few spans are sampled."""
    config.current_runtime().shutdown()  # type: ignore[union-attr]
    with recording(sampler=sampler) as recorder:
        run_operations()
        assert describe_operations(recorder.runtime) == expected
        RUNNING.clear()


def test_live_state_without_sdk_is_complete(expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider of the API only, and a disabled SDK, have the same live state."""
    config.current_runtime().shutdown()  # type: ignore[union-attr]
    with configure(trace.NoOpTracerProvider()) as runtime:
        run_operations()
        assert describe_operations(runtime) == expected
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    disabled = TracerProvider(shutdown_on_exit=False)
    with configure(disabled) as runtime:
        run_operations()
        assert describe_operations(runtime) == expected


def add_exporter(provider: TracerProvider) -> InMemorySpanExporter:
    """Return a new exporter of all spans of the provider."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("wrapped", [False, True])
def test_sampler_decides_which_operations_are_exported(ratio: float, wrapped: bool) -> None:
    """Of 300 operations with a child each, sampled traces are exported completely."""
    root = ParentBased(TraceIdRatioBased(ratio))
    with recording(sampler=ProgressSampler(root) if wrapped else root) as recorder:
        is_sampled = []
        recorder.provider.id_generator.generate_trace_id = iter(range(1, 2**64, 2**64 // 400)).__next__  # type: ignore[method-assign]
        for number in range(300):
            with progress.operation("o", id=number) as op, op.level("a"):
                is_sampled.append(op.span.get_span_context().trace_flags.sampled)
        assert len(recorder.spans()) == 2 * sum(is_sampled)
        assert sum(is_sampled) == pytest.approx(300 * ratio, abs=100 * ratio * (1 - ratio) * 3)
        assert len(recorder.runtime.get_history(limit=1000)) == 200


def test_second_provider_that_joins_late_is_watched() -> None:
    """The first provider creates the spans of helpers. Plain spans are watched once."""
    first, late = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    early, later = add_exporter(first), add_exporter(late)
    with configure(first) as runtime:
        with progress.operation("own", total=1) as op:
            assert config.configure(tracer_provider=late) is runtime
            assert config.configure(tracer_provider=late) is runtime
            with (
                op.level("child"),
                late.get_tracer("user").start_as_current_span("plain", attributes={"progress.total": 4}),
            ):
                runtime._ticker.tick()
                levels = get_operation(runtime, op.operation_id).levels
                assert [(level.info.type, level.total) for level in levels] == [("child", None), ("plain", 4)]
        assert get_operation(runtime, op.operation_id).root.current == 1
    names = [[span.name for span in exporter.get_finished_spans()] for exporter in (early, later)]
    assert names == [["child", "own"], ["plain"]]


def get_operation(runtime: Runtime, operation_id: str) -> OperationSnapshot:
    """Return an existing operation."""
    operation = runtime.get_operation(operation_id)
    assert operation is not None
    return operation


def test_shutdown_of_one_provider_keeps_others() -> None:
    """After the shutdown of a provider the plain spans of another are still watched."""
    first, second = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    with configure(first) as runtime:
        runtime.join(second)
        with second.get_tracer("user").start_as_current_span("plain") as span:
            first.shutdown()
            span.set_attributes({"progress.current": 1, "progress.total": 2})
            runtime._ticker.tick()
            (operation,) = runtime.get_active_operations()
            assert (operation.operation_type, operation.ratio) == ("plain", 0.5)


def test_runtime_after_shutdown_watches_no_spans() -> None:
    """After a shutdown and a new configuration each span is recorded once."""
    provider = TracerProvider(shutdown_on_exit=False)
    with configure(provider) as previous:
        pass
    with configure(provider) as runtime, provider.get_tracer("user").start_as_current_span("plain") as span:
        span.set_attribute("progress.total", 2)
        runtime._ticker.tick()
        assert len(runtime.get_active_operations()) == 1
        assert previous._store.reader.active() == []
        assert not previous._providers.processor.is_watching
    assert previous._store.reader.history() == []
