"""``configure()``: precedence, validation, repetition and shutdown."""

from __future__ import annotations

import logging
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest

import otel_progress as progress
from otel_progress import ConfigurationError, Status, config
from otel_progress.settings.fields import Settings
from otel_progress.testing import Recorder, recording, wait_until
from tests.support.configuration import occupy_port, remove_variables, shut_down_active_runtime

PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""
QUIET: dict[str, Any] = {"store": "memory:", "console": False, "otlp": False}


@pytest.fixture
def provider() -> TracerProvider:
    """Tracer provider of the application."""
    return TracerProvider(shutdown_on_exit=False)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all variables of this package and of OpenTelemetry."""
    remove_variables(monkeypatch)


@pytest.fixture
def shut_down() -> Iterator[None]:
    """Shut down the runtime of the test."""
    yield
    shut_down_active_runtime()


@pytest.mark.usefixtures("shut_down")
def test_argument_takes_precedence_over_variable_and_default(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as not set."""
    monkeypatch.setenv("OTEL_PROGRESS_TICK", "250ms")
    monkeypatch.setenv("OTEL_PROGRESS_STALL_AFTER", "5m")
    monkeypatch.setenv("OTEL_PROGRESS_RETENTION", "")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    settings = progress.configure(**QUIET, tick=0.5, tracer_provider=provider).settings
    assert (settings.tick, settings.stall_after, settings.retention) == (0.5, 300.0, 86_400.0)
    assert (settings.service_name, settings.strict) == ("nightly", False)
    assert config.current_runtime()._store.instance.service == "nightly"  # type: ignore[union-attr]


@pytest.mark.usefixtures("monkeypatch")
def test_own_variable_takes_precedence_over_standard_variable() -> None:
    """Both set the name of the service."""
    environ = {"OTEL_SERVICE_NAME": "standard", "OTEL_PROGRESS_SERVICE_NAME": "own"}
    assert Settings.from_environ(environ).service_name == "own"


@pytest.mark.usefixtures("monkeypatch")
def test_service_name_falls_back_to_resource_attributes() -> None:
    """The variable is OTEL_RESOURCE_ATTRIBUTES."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=nightly%20run"}
    with config.start(QUIET, TracerProvider(shutdown_on_exit=False), environ=environ) as runtime:
        assert runtime._store.instance.service == "nightly run"


INVALID: list[tuple[str, Any, str]] = [
    ("store", "", "text that is not empty"),
    ("store", 5, "text that is not empty"),
    ("store", "oracle://x", "oracle"),
    ("prometheus_port", 70_000, "0 .* to 65535"),
    ("prometheus_port", "http", "0 .* to 65535"),
    ("prometheus_port", True, "0 .* to 65535"),
    ("otlp", "maybe", "true or false"),
    ("console", "loud", "auto, true or false"),
    ("strict", 2, "true or false"),
    ("tick", 0, "duration"),
    ("tick", "1h", "1ms to 60s"),
    ("tick", float("nan"), "duration"),
    ("retention", "-1", "duration"),
    ("retention", "9" * 400, "duration"),
    ("retention", 10**400, "duration"),
    ("retention", 10**5000, "duration"),
    ("metrics_retention", "soon", "duration"),
    ("stall_after", [], "duration"),
    ("enabled", "perhaps", "true or false"),
    ("service_name", " ", "text that is not empty"),
]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    INVALID,
    ids=lambda value: str(value)[:16] if not isinstance(value, int) else "n",
)
def test_invalid_argument_is_rejected_with_its_name(name: str, value: Any, expected: str) -> None:
    """Nothing is configured then."""
    with pytest.raises(ConfigurationError, match=expected) as error:
        progress.configure(**{**QUIET, name: value})
    assert name == "store" or name in str(error.value)
    assert config.current_runtime() is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [case for case in INVALID if isinstance(case[1], str) and case[1].strip()],
    ids=lambda value: str(value)[:16],
)
def test_invalid_variable_is_rejected_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    """Nothing is configured then."""
    monkeypatch.setenv(f"OTEL_PROGRESS_{name.upper()}", value)
    quiet = {key: given for key, given in QUIET.items() if key != name}
    with pytest.raises(ConfigurationError, match=expected) as error:
        progress.configure(**quiet)
    assert name == "store" or f"OTEL_PROGRESS_{name.upper()}" in str(error.value)
    assert config.current_runtime() is None


@pytest.mark.parametrize("value", ["a provider", 5, object()])
def test_invalid_tracer_provider_is_rejected(value: Any) -> None:
    """It has no ``get_tracer``."""
    with pytest.raises(ConfigurationError, match="tracer_provider"):
        progress.configure(**QUIET, tracer_provider=value)
    assert config.current_runtime() is None


@pytest.mark.usefixtures("shut_down")
def test_configure_again_with_same_values_returns_the_same_runtime(provider: TracerProvider) -> None:
    """Arguments that are not given do not contradict."""
    runtime = progress.configure(**QUIET, tick=0.2, tracer_provider=provider)
    assert progress.configure() is runtime
    assert progress.configure(tick="200ms", store="memory:") is runtime
    assert progress.configure(tracer_provider=provider) is runtime


@pytest.mark.usefixtures("shut_down")
def test_configure_again_with_other_values_is_rejected(provider: TracerProvider) -> None:
    """The error contains both values. The active runtime continues."""
    runtime = progress.configure(**QUIET, tick=0.2, tracer_provider=provider)
    with pytest.raises(
        ConfigurationError, match=r"tick: 0\.2 and 0\.5; strict: False and True|strict.*tick"
    ) as error:
        progress.configure(tick=0.5, strict=True)
    assert "shutdown()" in str(error.value)
    assert config.current_runtime() is runtime
    with progress.operation("o", id="o"):
        assert runtime.get_operation("o") is not None


@pytest.mark.usefixtures("shut_down")
def test_configure_with_replace_starts_a_new_runtime(provider: TracerProvider) -> None:
    first = progress.configure(service_name="a", tick=0.5, tracer_provider=provider, **QUIET)
    handle = progress.operation("job", id="job").start()
    second = progress.configure(service_name="b", tracer_provider=provider, reconfigure="replace", **QUIET)
    assert second is not first
    assert first.is_shut_down
    assert not second.is_shut_down
    assert (second.settings.service_name, second.settings.tick) == ("b", Settings().tick)
    handle.increment()  # has no effect any more
    with progress.operation("job", id="other"):
        assert [each.operation_id for each in second.get_active_operations()] == ["other"]


@pytest.mark.usefixtures("shut_down")
def test_configure_with_replace_and_same_values_keeps_the_runtime(provider: TracerProvider) -> None:
    first = progress.configure(service_name="a", tracer_provider=provider, **QUIET)
    again = {"service_name": "a", "reconfigure": "replace", **QUIET}
    assert progress.configure(**again) is first
    assert progress.configure(reconfigure="replace") is first
    assert progress.configure(tracer_provider=provider, reconfigure="replace") is first


@pytest.mark.usefixtures("shut_down")
def test_configure_with_replace_and_removed_argument_uses_its_default(provider: TracerProvider) -> None:
    first = progress.configure(service_name="a", tick=0.5, tracer_provider=provider, **QUIET)
    second = progress.configure(service_name="a", reconfigure="replace", **QUIET)
    assert second is not first
    assert second.settings.tick == Settings().tick


@pytest.mark.usefixtures("shut_down")
def test_configure_with_replace_and_invalid_value_keeps_the_runtime(provider: TracerProvider) -> None:
    first = progress.configure(service_name="a", tracer_provider=provider, **QUIET)
    with pytest.raises(ConfigurationError, match="Invalid argument tick"):
        progress.configure(service_name="b", tick=-1.0, reconfigure="replace", **QUIET)
    assert not first.is_shut_down
    assert config.current_runtime() is first


@pytest.mark.parametrize("value", ["Replace", "", "keep", True, 1, ["replace"]])
def test_invalid_reconfigure_is_rejected_before_anything_starts(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid argument reconfigure .*: expected 'replace' or"):
        progress.configure(reconfigure=value, **QUIET)
    assert config.current_runtime() is None or config.current_runtime().is_shut_down  # type: ignore[union-attr]


@pytest.mark.usefixtures("shut_down")
def test_reconfigure_is_replace_in_an_interactive_shell(
    monkeypatch: pytest.MonkeyPatch, provider: TracerProvider
) -> None:
    first = progress.configure(service_name="a", tracer_provider=provider, **QUIET)
    monkeypatch.setattr(config, "find_shell", object)
    assert progress.configure(service_name="b", **QUIET) is not first
    with pytest.raises(ConfigurationError, match='reconfigure="replace"'):
        progress.configure(service_name="c", reconfigure="error", **QUIET)


def test_configure_after_shutdown_accepts_other_values(provider: TracerProvider) -> None:
    """Handles of the first runtime have no effect."""
    first = progress.configure(**QUIET, tracer_provider=provider)
    old = progress.operation("old", id="old").start()
    assert first.shutdown(PATIENCE_S)
    assert old.snapshot().status is Status.CANCELLED
    with progress.operation("between") as between:
        assert not between.recording
    with progress.configure(**QUIET, strict=True, tracer_provider=provider) as second:
        assert second is not first
        old.increment()
        with pytest.raises(ValueError, match="ended"):
            old.level("x").start()
        with progress.operation("new", id="new"):
            assert progress.get_operation("new") is not None
            assert progress.get_operation("old") is None


def test_shutdown_cancels_active_operations_once(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further calls, also of other threads, do nothing."""
    runtime = progress.configure(**QUIET, tracer_provider=provider)
    op = progress.operation("o", id="o").start()
    level = op.level("x").start()
    closed: list[float] = []
    close = runtime._providers.close
    monkeypatch.setattr(runtime._providers, "close", lambda timeout: (closed.append(timeout), close(timeout)))
    with caplog.at_level(logging.WARNING):
        threads = [threading.Thread(target=runtime.shutdown, args=(PATIENCE_S,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert runtime.shutdown()
    assert (op.snapshot().status, op.snapshot().message) == (
        Status.CANCELLED,
        "the recording was shut down",
    )
    assert level.snapshot().status is Status.CANCELLED
    assert runtime.is_shut_down
    assert len(closed) == 1
    assert [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith(("otel_progress", "opentelemetry"))
    ] == []


def test_instrumentation_after_shutdown_has_no_effect(lenient: Recorder) -> None:
    """Every method may still be called."""
    op = progress.operation("o").start()
    lenient.runtime.shutdown()
    op.increment()
    op.update(current=5, message="late")
    op.item("late")
    op.complete()
    assert list(op.track([1, 2])) == list(progress.track([1, 2])) == [1, 2]
    with op.level("x"), progress.operation("y"):
        pass
    assert progress.get_active_operations() == progress.get_history() == []
    assert lenient.runtime.force_flush(PATIENCE_S)
    assert op.snapshot().current == 0


def test_disabled_runtime_records_nothing(monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> None:
    """The provider is not joined, and a second configure agrees."""
    monkeypatch.setenv("OTEL_PROGRESS_ENABLED", "false")
    with progress.configure(**QUIET, tracer_provider=provider) as runtime:
        assert progress.configure(tracer_provider=provider) is runtime
        with progress.operation("o") as op:
            assert not op.recording
        with provider.get_tracer("user").start_as_current_span("plain", attributes={"progress.total": 1}):
            assert runtime.force_flush(PATIENCE_S)
        assert runtime.get_active_operations() == runtime.get_history() == []
        assert progress.configure(enabled=False) is runtime


@pytest.fixture
def used_port() -> Iterator[int]:
    """Port of this machine on which another program listens."""
    with occupy_port() as port:
        yield port


def test_strict_configure_with_used_port_is_rejected_and_closes_the_journal(
    provider: TracerProvider, tmp_path: Path, used_port: int
) -> None:
    """A later configure succeeds."""
    settings = {**QUIET, "store": f"sqlite:///{tmp_path}/p.db", "prometheus_port": used_port, "strict": True}
    with pytest.raises(ConfigurationError, match=f"Port {used_port}"):
        progress.configure(**settings, tracer_provider=provider)
    assert config.current_runtime() is None
    with progress.operation("o") as op:
        assert not op.recording
    with progress.configure(**{**settings, "prometheus_port": 0}, tracer_provider=provider) as runtime:
        assert runtime.metrics_url is not None
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with (
            progress.operation("o", id="served"),
            direct.open(runtime.metrics_url, timeout=PATIENCE_S) as response,
        ):
            assert 'operation_id="served"' in response.read().decode()


@pytest.mark.usefixtures("recorder")
def test_recording_during_another_recording_is_rejected() -> None:
    """The active runtime stays."""
    with pytest.raises(ConfigurationError, match="recorded already"), recording():
        pass


@pytest.mark.usefixtures("shut_down")
def test_disabled_sdk_keeps_live_progress_without_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is OTEL_SDK_DISABLED."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    runtime = progress.configure(**QUIET, tracer_provider=TracerProvider(shutdown_on_exit=False))
    with progress.operation("o", id="o", total=2) as op:
        op.increment()
        operation = runtime.get_operation("o")
        assert operation is not None
        assert (operation.ratio, operation.root.info.trace_id) == (0.5, None)


@pytest.mark.usefixtures("provider")
def test_runtime_is_garbage_collected_after_shutdown() -> None:
    """Only an idle processor remains."""
    import gc
    import weakref

    runtimes = []
    for _ in range(3):
        with config.start(QUIET, TracerProvider(shutdown_on_exit=False)) as runtime:
            runtimes.append(weakref.ref(runtime))
    del runtime
    config._current.clear()

    def are_collected() -> bool:
        gc.collect()  # does nothing while another thread collects
        return all(reference() is None for reference in runtimes)

    wait_until(are_collected, 60.0)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_configure_in_child_forked_during_configure_of_another_thread_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, provider: TracerProvider
) -> None:
    """The thread that holds the lock does not exist in the child."""
    is_building, may_finish = threading.Event(), threading.Event()
    build_runtime = config.build_runtime

    def build_slowly(*arguments: Any, **options: Any) -> Any:
        is_building.set()
        may_finish.wait(PATIENCE_S)
        return build_runtime(*arguments, **options)

    def configure() -> None:
        with progress.configure(**QUIET, tracer_provider=provider):
            pass

    monkeypatch.setattr(config, "build_runtime", build_slowly)
    thread = threading.Thread(target=configure)
    thread.start()
    assert is_building.wait(PATIENCE_S)
    pid = os.fork()
    if pid == 0:
        try:
            may_finish.set()
            child_thread = threading.Thread(target=configure, daemon=True)
            child_thread.start()
            child_thread.join(PATIENCE_S)
            os._exit(1 if child_thread.is_alive() else 0)
        finally:
            os._exit(2)
    may_finish.set()
    thread.join(PATIENCE_S)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_runtime_public_names_are_its_settings_reader_urls_and_verbs(recorder: Recorder) -> None:
    """Components such as the live store and the ticker are private."""
    values = {"is_shut_down", "metrics_url", "reader", "server_url", "settings"}
    queries = {"get_active_operations", "get_batch", "get_events", "get_history", "get_logs", "get_operation"}
    verbs = {"add_callback", "force_flush", "join", "remove_callback", "request_cancel", "shutdown"}
    public_names = {name for name in dir(recorder.runtime) if not name.startswith("_")}
    assert public_names == {*values, *queries, *verbs, "metrics_collector"}


@pytest.mark.parametrize("name", ["is_shut_down", "metrics_url", "reader", "server_url", "settings"])
def test_runtime_value_cannot_be_assigned(recorder: Recorder, name: str) -> None:
    """Only the builder decides about the components of a runtime."""
    with pytest.raises(AttributeError):
        setattr(recorder.runtime, name, None)


def test_metrics_collector_shows_operations_and_totals_in_an_own_registry(recorder: Recorder) -> None:
    """Each collector may be registered with another registry."""
    with progress.operation("o", id="x", total=2) as op:
        op.increment()
        recorder.tick()
        for _ in range(2):
            registry = CollectorRegistry()
            registry.register(recorder.runtime.metrics_collector())
            text = generate_latest(registry).decode()
            assert 'progress_operation_ratio{operation_id="x",operation_type="o"} 0.5' in text
            assert "progress_tick_duration_seconds_count 1.0" in text
