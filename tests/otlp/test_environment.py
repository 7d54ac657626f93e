"""Standard environment variables of OTLP, and the exporters built from them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.metrics.counters import Totals
from otel_progress.otlp.bounded import ExportMonitor
from otel_progress.otlp.environment import SIGNALS, select_protocol, select_signals
from otel_progress.otlp.exporters import build_resource, build_tracer_provider
from otel_progress.otlp.metrics import build_otlp_metrics
from otel_progress.otlp.sdk_compat import build_event_log
from otel_progress.sampling import ProgressSampler
from tests.support.metrics_operations import Shelf

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, ()),
        ({ENDPOINT: "http://collector:4317"}, SIGNALS),
        ({ENDPOINT: " "}, ()),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://collector:4317"}, ("logs",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("traces",)),
        ({"OTEL_TRACES_EXPORTER": "console, OTLP"}, ("traces",)),
        ({"OTEL_TRACES_EXPORTER": "console", ENDPOINT: "http://c:4317"}, ("logs", "metrics")),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://c:4317"}, ("logs", "metrics")),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: "http://c:4317"}, ()),
        ({"OTEL_SDK_DISABLED": "yes", ENDPOINT: "http://c:4317"}, SIGNALS),
    ],
)
def test_select_signals_follows_the_environment(environ: dict[str, str], signals: tuple[str, ...]) -> None:
    """``none`` and a disabled SDK take precedence over endpoints."""
    assert select_signals(environ) == signals


def test_otlp_argument_overrides_the_environment_except_none() -> None:
    """A signal that is disabled by name stays disabled."""
    assert select_signals({}, otlp=True) == SIGNALS
    assert select_signals({ENDPOINT: "http://c:4317"}, otlp=False) == ()
    assert select_signals({"OTEL_METRICS_EXPORTER": "none"}, otlp=True) == ("traces", "logs")
    assert select_signals({"OTEL_SDK_DISABLED": "true"}, otlp=True) == ()


def test_protocol_of_a_signal_overrides_the_common_one() -> None:
    """The default is that of OpenTelemetry Python."""
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"}
    assert [select_protocol(signal, environ) for signal in SIGNALS] == ["grpc", "http/protobuf", "grpc"]
    assert select_protocol("traces", {}) == "grpc"


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_unknown_protocol_is_rejected_with_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the supported protocols."""
    monkeypatch.setenv(name, "http/json")
    with pytest.raises(
        ConfigurationError, match=rf"Invalid {name} 'http/json': expected 'grpc' or 'http/protobuf'"
    ):
        build_tracer_provider("nightly", otlp=True, instance_id="i")


@pytest.mark.parametrize(
    ("chosen", "name", "value"),
    [
        ("grpc", "OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("grpc", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000"),
        ("http/protobuf", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000"),
    ],
)
def test_setting_that_the_sdk_rejects_raises_a_configuration_error(
    chosen: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the signal and the variables."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", chosen)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"OTLP export of traces cannot be set up.*OTEL_"):
        build_tracer_provider("nightly", otlp=True, instance_id="i")


def _spans() -> object:
    return build_tracer_provider(None, otlp=True, instance_id="i")


def _metrics() -> object:
    return build_otlp_metrics(Shelf([]), Totals(), build_resource(None, "i"))


def _logs() -> object:
    return build_event_log(build_resource(None, "i"))


@pytest.mark.parametrize("chosen", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    ("build", "name", "value"),
    [
        (_spans, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000"),
        (_metrics, "OTEL_METRIC_EXPORT_INTERVAL", "-5"),
        (_logs, "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "100000"),
    ],
)
def test_rejected_setting_leaves_no_thread_and_no_open_exporter(
    chosen: str, build: Callable[[], object], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error message is one sentence."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", chosen)
    monkeypatch.setenv(name, value)
    closed: list[ExportMonitor[Any]] = []
    stop = ExportMonitor.stop

    def noted(monitor: ExportMonitor[Any]) -> None:
        closed.append(monitor)
        stop(monitor)

    monkeypatch.setattr(ExportMonitor, "stop", noted)
    before = set(threading.enumerate())
    with pytest.raises(ConfigurationError, match=r"cannot be set up: \S+( \S+)*[^.]\. Correct"):
        build()
    assert len(closed) == 1
    assert [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith(("otel-", "Otel"))
    ] == []


def test_resource_has_service_name_and_instance_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument overrides both variables. Other attributes are kept."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment.name=test")
    assert build_resource(None, "i").attributes[semconv.SERVICE_NAME] == "a"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "b")
    assert build_resource(None, "i").attributes[semconv.SERVICE_NAME] == "b"
    resource = build_resource("c", "i")
    assert resource.attributes[semconv.SERVICE_NAME] == "c"
    assert resource.attributes["deployment.environment.name"] == "test"
    assert resource.attributes[semconv.SERVICE_INSTANCE_ID] == "i"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7")
    assert build_resource("c", "i").attributes[semconv.SERVICE_INSTANCE_ID] == "pod-7"


def test_sampler_of_the_environment_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress spans record even if they are not exported."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    provider = build_tracer_provider("nightly", otlp=False, instance_id="i")
    assert isinstance(provider.sampler, ProgressSampler)
    assert provider.sampler.get_description() == "ProgressSampler{AlwaysOffSampler}"
    span = provider.get_tracer("t").start_span("op", attributes={semconv.OPERATION_ID: "x"})
    assert span.is_recording()
    span.end()
    provider.shutdown()


def test_disabled_sdk_builds_a_provider_without_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exporter is created."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "nonsense that would be refused")
    provider = build_tracer_provider("nightly", otlp=True, instance_id="i")
    assert isinstance(provider, TracerProvider)
    assert (
        not provider.get_tracer("t").start_span("op", attributes={semconv.OPERATION_ID: "x"}).is_recording()
    )
    provider.shutdown()


@pytest.mark.process
def test_exporters_are_imported_only_when_created() -> None:
    """A provider without export loads no gRPC and no HTTP client."""
    code = (
        "import sys; from otel_progress.otlp.exporters import build_tracer_provider; "
        "import otel_progress.otlp.events, otel_progress.otlp.metrics; "
        "build_tracer_provider('n', otlp=False, instance_id='i').shutdown(); "
        "print([m for m in ('grpc', 'requests', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
