"""configure(): what counts when, what is refused, and what begins and ends with it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress import ConfigurationError, Status, config
from otel_progress.settings.fields import Settings
from otel_progress.testing import Recorder, recording, wait_until

PATIENCE_S = 60.0
"""How long what has to happen may take; on a busy machine a thread can wait for its turn for seconds."""
QUIET: dict[str, Any] = {"store": "memory:", "console": False, "otlp": False}


@pytest.fixture
def provider() -> TracerProvider:
    """A provider of the application."""
    return TracerProvider(shutdown_on_exit=False)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without any variable of ours or of OpenTelemetry."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def ended() -> Iterator[None]:
    """Shut down whatever a test configured."""
    yield
    running = config.current_runtime()
    if running is not None:
        running.shutdown()


@pytest.mark.usefixtures("ended")
def test_arguments_come_before_the_environment_and_defaults(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument counts, else its variable, else the default; an empty variable counts as none."""
    monkeypatch.setenv("OTEL_PROGRESS_TICK", "250ms")
    monkeypatch.setenv("OTEL_PROGRESS_STALL_AFTER", "5m")
    monkeypatch.setenv("OTEL_PROGRESS_RETENTION", "")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    settings = progress.configure(**QUIET, tick=0.5, tracer_provider=provider).settings
    assert (settings.tick, settings.stall_after, settings.retention) == (0.5, 300.0, 86_400.0)
    assert (settings.service_name, settings.strict) == ("nightly", False)
    assert config.current_runtime()._store.instance.service == "nightly"  # type: ignore[union-attr]


@pytest.mark.usefixtures("monkeypatch")
def test_own_variables_come_before_the_standard_ones() -> None:
    """A variable of the project beats OpenTelemetry's of the same meaning."""
    environ = {"OTEL_SERVICE_NAME": "standard", "OTEL_PROGRESS_SERVICE_NAME": "own"}
    assert Settings.from_environ(environ).service_name == "own"


@pytest.mark.usefixtures("monkeypatch")
def test_the_resource_names_the_service() -> None:
    """The service's name in OTEL_RESOURCE_ATTRIBUTES counts where no other says it."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=nightly%20run"}
    with config.start(QUIET, TracerProvider(shutdown_on_exit=False), environ=environ) as runtime:
        assert runtime._store.instance.service == "nightly run"


BAD: list[tuple[str, Any, str]] = [
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
    BAD,
    ids=lambda value: str(value)[:16] if not isinstance(value, int) else "n",
)
def test_a_bad_argument(name: str, value: Any, expected: str) -> None:
    """A value that cannot be used is refused with its name and what was expected, and nothing is configured."""
    with pytest.raises(ConfigurationError, match=expected) as error:
        progress.configure(**{**QUIET, name: value})
    assert name == "store" or name in str(error.value)
    assert config.current_runtime() is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [bad for bad in BAD if isinstance(bad[1], str) and bad[1].strip()],
    ids=lambda value: str(value)[:16],
)
def test_a_bad_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    """The same holds for variables, which are named."""
    monkeypatch.setenv(f"OTEL_PROGRESS_{name.upper()}", value)
    quiet = {key: given for key, given in QUIET.items() if key != name}
    with pytest.raises(ConfigurationError, match=expected) as error:
        progress.configure(**quiet)
    assert name == "store" or f"OTEL_PROGRESS_{name.upper()}" in str(error.value)
    assert config.current_runtime() is None


@pytest.mark.parametrize("given", ["a provider", 5, object()])
def test_what_is_no_provider(given: Any) -> None:
    """Something without tracers is refused."""
    with pytest.raises(ConfigurationError, match="tracer_provider"):
        progress.configure(**QUIET, tracer_provider=given)
    assert config.current_runtime() is None


@pytest.mark.usefixtures("ended")
def test_configuring_again(provider: TracerProvider) -> None:
    """The same again is the same runtime; what is not said again does not contradict."""
    runtime = progress.configure(**QUIET, tick=0.2, tracer_provider=provider)
    assert progress.configure() is runtime
    assert progress.configure(tick="200ms", store="memory:") is runtime
    assert progress.configure(tracer_provider=provider) is runtime


@pytest.mark.usefixtures("ended")
def test_contradicting_what_runs(provider: TracerProvider) -> None:
    """Another value is refused, and the message has both; what runs goes on."""
    runtime = progress.configure(**QUIET, tick=0.2, tracer_provider=provider)
    with pytest.raises(
        ConfigurationError, match=r"tick: 0\.2 and 0\.5; strict: False and True|strict.*tick"
    ) as error:
        progress.configure(tick=0.5, strict=True)
    assert "shutdown()" in str(error.value)
    assert config.current_runtime() is runtime
    with progress.operation("o", id="o"):
        assert runtime.get_operation("o") is not None


def test_configuring_after_a_shutdown(provider: TracerProvider) -> None:
    """After a shutdown anything can be configured, handles of before are deaf, and new ones work."""
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


def test_shutting_down(
    provider: TracerProvider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs ends as cancelled with its reason; doing it again, and from several threads, does nothing more."""
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
    assert (op.snapshot().status, op.snapshot().message) == (Status.CANCELLED, "the process ended first")
    assert level.snapshot().status is Status.CANCELLED
    assert runtime.is_shut_down
    assert len(closed) == 1
    assert [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith(("otel_progress", "opentelemetry"))
    ] == []


def test_after_a_shutdown_everything_is_inert(lenient: Recorder) -> None:
    """Every use after the end is allowed and does nothing."""
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


def test_switched_off(monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> None:
    """Switched off, every helper is inert, no provider is touched, and a second configure agrees."""
    monkeypatch.setenv("OTEL_PROGRESS_ENABLED", "false")
    with progress.configure(**QUIET, tracer_provider=provider) as runtime:
        assert progress.configure(tracer_provider=provider) is runtime
        with progress.operation("o") as op:
            assert not op.recording
        with provider.get_tracer("user").start_as_current_span("plain", attributes={"progress.total": 1}):
            assert runtime.force_flush(PATIENCE_S)
        assert runtime.get_active_operations() == runtime.get_history() == []
        assert progress.configure(enabled=False) is runtime


def test_a_port_in_use(provider: TracerProvider, tmp_path: Path) -> None:
    """When the metrics cannot be served nothing is left half done: the journal is closed, and configuring works after."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = {**QUIET, "store": f"sqlite:///{tmp_path}/p.db", "prometheus_port": port}
        with pytest.raises(ConfigurationError, match=f"Port {port}"):
            progress.configure(**settings, tracer_provider=provider)
        assert config.current_runtime() is None
        with progress.operation("o") as op:
            assert not op.recording
    with progress.configure(**{**settings, "prometheus_port": 0}, tracer_provider=provider) as runtime:
        assert runtime.metrics_url is not None
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says
        with (
            progress.operation("o", id="served"),
            direct.open(runtime.metrics_url, timeout=PATIENCE_S) as answer,
        ):
            assert 'operation_id="served"' in answer.read().decode()


@pytest.mark.usefixtures("recorder")
def test_the_kit_refuses_to_mix() -> None:
    """A recorder does not join a configuration that runs already."""
    with pytest.raises(ConfigurationError, match="recorded already"), recording():
        pass


@pytest.mark.usefixtures("ended")
def test_a_disabled_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED leaves progress live, without a trace."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    runtime = progress.configure(**QUIET, tracer_provider=TracerProvider(shutdown_on_exit=False))
    with progress.operation("o", id="o", total=2) as op:
        op.increment()
        one = runtime.get_operation("o")
        assert one is not None
        assert (one.ratio, one.root.info.trace_id) == (0.5, None)


@pytest.mark.usefixtures("provider")
def test_the_runtime_is_let_go() -> None:
    """Configuring over and over keeps nothing of the runtimes before but an idle processor."""
    import gc
    import weakref

    runtimes = []
    for _ in range(3):
        with config.start(QUIET, TracerProvider(shutdown_on_exit=False)) as runtime:
            runtimes.append(weakref.ref(runtime))
    del runtime
    config._current.clear()

    def gone() -> bool:
        gc.collect()  # does nothing while another thread is at it
        return all(one() is None for one in runtimes)

    wait_until(gone, 60.0)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_configure_in_child_forked_during_configure_of_another_thread_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, provider: TracerProvider
) -> None:
    """The child replaces the lock, because the thread that holds it does not exist there."""
    is_building, may_finish = threading.Event(), threading.Event()
    build_runtime = config.build_runtime

    def build_slowly(*arguments: Any) -> Any:
        is_building.set()
        may_finish.wait(PATIENCE_S)
        return build_runtime(*arguments)

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
