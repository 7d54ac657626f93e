"""Answers of an HTTP collector: real exporters against a real server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import semconv
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.exporters import build_tracer_provider
from otel_progress.otlp.http_session import make_session

PROTOBUF = "application/x-protobuf"


def _reject_spans() -> bytes:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "too large"
    return bytes(answer.SerializeToString())


ACCEPTED: dict[str, tuple[int, str, bytes]] = {
    "empty": (200, PROTOBUF, b""),
    "empty without a type": (204, "", b""),
    "protobuf": (200, PROTOBUF, ExportTraceServiceResponse().SerializeToString()),
    "unknown field": (200, PROTOBUF, b"\x9a\x06\x01x"),
    "JSON": (200, "application/json; charset=utf-8", b'{"partialSuccess": {}}'),
}
REFUSED: dict[str, tuple[int, str, bytes, str]] = {
    "login page": (200, "text/html", b"<html>login</html>", "HTTP 200 with an invalid body of 18 bytes"),
    "no protobuf": (200, PROTOBUF, b"\xff\xff\xff", "HTTP 200 with an invalid body of 3 bytes"),
    "no JSON": (200, "application/json", b"oops", "HTTP 200 with invalid JSON"),
    "JSON list": (200, "application/json", b"[]", "HTTP 200 with invalid JSON"),
    "rejected spans": (200, PROTOBUF, _reject_spans(), "the collector rejected 2 entries: too large"),
    "redirect": (307, "", b"", "HTTP 307: the collector redirects to http://elsewhere.test/"),
    "permanent redirect": (308, "", b"", "HTTP 308: the collector redirects to http://elsewhere.test/"),
    "not authorised": (401, "", b"", "HTTP 401"),
}


@contextmanager
def collector(status: int, content_type: str, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """Run a collector with one answer. Yields its address and the requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            paths.append(self.path)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://user:secret@elsewhere.test/")
            if content_type:
                self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", paths
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def make_provider(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[int]], TracerProvider]:
    """Return a function that builds a provider for a collector."""

    def make(endpoint: str, errors: list[int]) -> TracerProvider:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("no_proxy", "*")
        return build_tracer_provider(
            "nightly",
            otlp=True,
            instance_id="i",
            budget=ShutdownBudget(0.5),
            on_error=lambda: errors.append(1),
        )

    return make


def export_span(provider: TracerProvider) -> bool:
    """Export one span and close the provider. Returns whether the flush succeeded."""
    provider.get_tracer("t").start_span("op", attributes={semconv.OPERATION_ID: "x"}).end()
    is_flushed = provider.force_flush(60_000)
    provider.shutdown()
    return is_flushed


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED)
def test_valid_answer_is_a_success(answer: tuple[int, str, bytes], make_provider: Any) -> None:
    errors: list[int] = []
    with collector(*answer) as (endpoint, paths):
        assert export_span(make_provider(endpoint, errors))
    assert (errors, paths) == ([], ["/v1/traces"])


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
def test_invalid_answer_is_a_failure_with_its_cause(
    answer: tuple[int, str, bytes, str], make_provider: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted once, logged in one line, and not sent again."""
    *parts, expected = answer
    errors: list[int] = []
    with caplog.at_level(logging.WARNING), collector(*parts) as (endpoint, paths):
        assert not export_span(make_provider(endpoint, errors))
    assert (errors, paths) == ([1], ["/v1/traces"])
    lines = [record.getMessage() for record in caplog.records if "OTLP" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith(f"OTLP export of spans to {endpoint} failed: {expected}")
    assert "secret" not in caplog.text


def test_credential_provider_of_the_environment_keeps_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_session("traces") is not None
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "mine")
    assert make_session("traces") is None
    assert make_session("logs") is not None


@pytest.mark.parametrize("timeout", ["1", "30"])
def test_retried_failures_have_their_cause(
    timeout: str, make_provider: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Within the timeout of the exporter there may be no time for a second attempt."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", timeout)
    with collector(503, PROTOBUF, b"") as (endpoint, _):
        end_span_at_shutdown(make_provider(endpoint, []))
    end_span_at_shutdown(make_provider(endpoint, []))  # its server was closed
    lines = [record.getMessage() for record in caplog.records if "OTLP" in record.getMessage()]
    start = f"OTLP export of spans to {endpoint} failed"
    assert [line[: len(start) + 10] for line in lines] == [f"{start}: HTTP 503", f"{start}: connecti"]


def end_span_at_shutdown(provider: TracerProvider) -> None:
    """Export one span within the time for shutdown."""
    provider.get_tracer("t").start_span("op", attributes={semconv.OPERATION_ID: "x"}).end()
    provider.shutdown()
