"""The application's global tracer provider, set before or after ``configure()``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.processor import ProgressSpanProcessor
from otel_progress.runtime import global_provider, providers
from otel_progress.runtime.runtime import Runtime
from tests.support.configuration import remove_variables, shut_down_active_runtime

PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""


@pytest.fixture(autouse=True)
def _no_global_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the global provider and the variables of OpenTelemetry for the test."""
    remove_variables(monkeypatch)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(providers, "_own_providers", [])
    monkeypatch.setattr(providers, "_exporting_providers", [])
    yield
    shut_down_active_runtime()


class Application:
    """Tracer provider of an application, with an exporter in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def set_global(self) -> None:
        """Set the provider as the global one, as the application does."""
        trace.set_tracer_provider(self.provider)

    def spans(self) -> dict[str, ReadableSpan]:
        """Return the exported spans by name. Each name is unique."""
        finished = self.exporter.get_finished_spans()
        by_name = {span.name: span for span in finished}
        assert len(by_name) == len(finished)
        return by_name


def configure(**settings: Any) -> Runtime:
    """Configure without a provider, files, terminal and network."""
    return progress.configure(
        **{"store": "memory:", "console": False, "otlp": False, "resources": False, **settings}
    )


def read_ids(span: ReadableSpan) -> tuple[int, int, int | None]:
    """Return the ids of the trace, of the span and of its parent."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id, None if span.parent is None else span.parent.span_id


@pytest.fixture
def application() -> Application:
    """Return an application whose provider is not yet the global one."""
    return Application()


@pytest.mark.usefixtures("sdk_silence")
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
def test_provider_set_in_any_order_receives_all_spans_in_one_trace(
    application: Application, is_late: bool
) -> None:
    """OpenTelemetry logs no warning."""
    if not is_late:
        application.set_global()
    configure()
    if is_late:
        application.set_global()
    assert trace.get_tracer_provider() is application.provider
    with (
        trace.get_tracer("app").start_as_current_span("outer"),
        progress.operation("job"),
        trace.get_tracer("app").start_as_current_span("inner"),
    ):
        pass
    spans = application.spans()
    outer, job, inner = (read_ids(spans[name]) for name in ("outer", "job", "inner"))
    assert outer[0] == job[0] == inner[0]
    assert (outer[2], job[2], inner[2]) == (None, outer[1], job[1])


def test_configure_leaves_the_global_provider_unset() -> None:
    """Code that checks for a provider before it sets its own one finds none."""
    before = trace.get_tracer_provider()
    configure()
    assert trace.get_tracer_provider() is before
    assert isinstance(before, trace.ProxyTracerProvider)
    assert trace._TRACER_PROVIDER is None


def test_tracers_from_before_use_the_own_provider_until_one_is_set(application: Application) -> None:
    """It does not matter whether a tracer was created before ``configure()``."""
    earlier = trace.get_tracer("earlier")
    runtime = configure()
    later = trace.get_tracer("later")
    for tracer in (earlier, later):
        with tracer.start_as_current_span("rows", attributes={"progress.total": 10}) as span:
            span.set_attribute("progress.current", 5)
            assert runtime.force_flush(PATIENCE_S)
            assert [operation.ratio for operation in runtime.get_active_operations()] == [0.5]
    application.set_global()
    for name, tracer in (("one", earlier), ("two", later), ("three", trace.get_tracer("latest"))):
        with tracer.start_as_current_span(name):
            pass
    assert list(application.spans()) == ["one", "two", "three"]


def test_provider_set_during_an_operation_continues_its_trace(application: Application) -> None:
    """Spans that run already end in the own provider. No span is in both."""
    configure()
    own = InMemorySpanExporter()
    providers._own_providers[0].add_span_processor(SimpleSpanProcessor(own))
    with progress.operation("job") as job:
        with job.level("first"):
            pass
        application.set_global()
        with job.level("second"), trace.get_tracer("app").start_as_current_span("inner"):
            pass
    assert [span.name for span in own.get_finished_spans()] == ["first", "job"]
    spans = application.spans()
    assert set(spans) == {"second", "inner"}
    trace_id, job_id, _ = read_ids(own.get_finished_spans()[1])
    second = read_ids(spans["second"])
    assert (second[0], second[2]) == (trace_id, job_id)
    assert read_ids(spans["inner"])[2] == second[1]


def test_plain_span_of_a_late_provider_becomes_an_operation(application: Application) -> None:
    """No level has to start first."""
    runtime = configure()
    application.set_global()
    tracer = trace.get_tracer("app")
    with tracer.start_as_current_span("rows", attributes={"progress.total": 4, "progress.current": 1}):
        assert runtime.force_flush(PATIENCE_S)
        assert [operation.ratio for operation in runtime.get_active_operations()] == [0.25]


@pytest.mark.parametrize("name", ["_TRACER_PROVIDER", "_set_tracer_provider", "_tracer"])
def test_api_without_a_private_name_is_followed_at_the_next_level(
    application: Application, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Other versions of the API may have other private names."""
    with monkeypatch.context() as patch:
        if name == "_TRACER_PROVIDER":
            # Only this package does without the name, because the API needs it.
            unset = trace.get_tracer_provider
            patch.setattr(global_provider, "trace", ApiWithoutProviderVariable(unset))
        else:
            owner: Any = trace.ProxyTracer if name == "_tracer" else trace
            patch.setattr(global_provider.AttributePatch, "apply", make_apply_without(owner, name))
        configure()
        application.set_global()
        with progress.operation("job"), trace.get_tracer("app").start_as_current_span("inner"):
            pass
    assert list(application.spans()) == ["inner", "job"]


class ApiWithoutProviderVariable:
    """The API with its public names only."""

    ProxyTracer = trace.ProxyTracer
    ProxyTracerProvider = trace.ProxyTracerProvider

    def __init__(self, get_tracer_provider: Any) -> None:
        self.get_tracer_provider = get_tracer_provider


def make_apply_without(owner: Any, name: str) -> Any:
    """Return ``AttributePatch.apply`` that does not find one attribute."""
    original = global_provider.AttributePatch.apply

    def apply(patch: Any, make: Any) -> bool:
        return False if (patch._owner, patch._name) == (owner, name) else original(patch, make)

    return apply


def test_noop_provider_of_the_application_is_respected() -> None:
    """Tracing is off then, and operations are still recorded."""
    runtime = configure()
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    with trace.get_tracer("app").start_as_current_span("plain") as span, progress.operation("job", id="o"):
        assert not span.is_recording()
    operation = runtime.get_operation("o")
    assert operation is not None
    assert operation.status.value == "completed"


def test_shutdown_restores_the_api(application: Application) -> None:
    """Tracers do nothing again, and a provider can still be set."""
    before = (vars(trace.ProxyTracer)["_tracer"], trace._set_tracer_provider)
    for _ in range(2):
        with configure(), trace.get_tracer("app").start_as_current_span("recorded") as span:
            assert span.is_recording()
        assert (vars(trace.ProxyTracer)["_tracer"], trace._set_tracer_provider) == before
        with trace.get_tracer("app").start_as_current_span("ignored") as span:
            assert not span.is_recording()
    application.set_global()
    with trace.get_tracer("app").start_as_current_span("exported"):
        pass
    assert list(application.spans()) == ["exported"]


def test_shutdown_keeps_the_patch_of_another_package(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our replacement below it does nothing from then on."""
    calls: list[Any] = []
    monkeypatch.setattr(trace, "_set_tracer_provider", trace._set_tracer_provider)
    runtime = configure()
    ours = trace._set_tracer_provider

    def theirs(provider: Any, log: bool) -> None:
        calls.append(provider)
        ours(provider, log)

    trace._set_tracer_provider = theirs
    runtime.shutdown()
    assert trace._set_tracer_provider is theirs
    application.set_global()
    assert calls == [application.provider]
    assert not any(
        isinstance(processor, ProgressSpanProcessor)
        for processor in application.provider._active_span_processor._span_processors
    )


def test_explicit_provider_leaves_the_api_unchanged(application: Application) -> None:
    """Tracers of the API do nothing, and the global provider is not followed."""
    before = (vars(trace.ProxyTracer)["_tracer"], trace._set_tracer_provider)
    configure(tracer_provider=application.provider)
    assert (vars(trace.ProxyTracer)["_tracer"], trace._set_tracer_provider) == before
    other = Application()
    other.set_global()
    with progress.operation("job"):
        pass
    assert (list(application.spans()), list(other.spans())) == (["job"], [])


def test_joined_provider_creates_spans_after_a_global_one_is_set(application: Application) -> None:
    """The global provider is only watched for progress then."""
    runtime = configure()
    runtime.join(application.provider)
    other = Application()
    other.set_global()
    plain = trace.get_tracer("app").start_as_current_span("plain", attributes={"progress.total": 1})
    with progress.operation("job"), plain:
        assert runtime.force_flush(PATIENCE_S)
        (operation,) = runtime.get_active_operations()
        assert [level.info.name for level in operation.levels] == ["plain"]
    assert (list(application.spans()), list(other.spans())) == (["job"], ["plain"])


def test_concurrent_starts_add_the_processor_once(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level would otherwise be read twice."""
    configure()
    start = threading.Barrier(9)

    def work() -> None:
        start.wait(PATIENCE_S)
        for _ in range(20):
            with progress.operation("job"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    # Why not set_tracer_provider(): only the threads find the provider.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", application.provider)
    start.wait(PATIENCE_S)
    for thread in threads:
        thread.join(PATIENCE_S)
    processors = application.provider._active_span_processor._span_processors
    assert sum(isinstance(processor, ProgressSpanProcessor) for processor in processors) == 1
    assert len(application.exporter.get_finished_spans()) == 160


def test_failing_substitute_does_not_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span of the application does nothing then."""
    configure()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no tracer")

    monkeypatch.setattr(providers._own_providers[0], "get_tracer", fail)
    before = internal_error_counts["span"]
    with trace.get_tracer("app").start_as_current_span("plain") as span:
        assert not span.is_recording()
    assert internal_error_counts["span"] > before
