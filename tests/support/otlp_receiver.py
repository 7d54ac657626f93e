"""An OTLP/HTTP receiver on a free loopback port that stores all requests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}


class Receiver:
    """Received spans, log records and metrics, each as (resource attributes, message)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._got: dict[str, list[Any]] = {path: [] for path in REQUESTS}
        self.port = 0

    def store_request(self, path: str, body: bytes) -> None:
        """Parse and store one request."""
        request = REQUESTS[path]()
        request.ParseFromString(body)
        with self._lock:
            self._got[path].append(request)

    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """Return every received span."""
        return [
            (attributes(resource.resource), span)
            for request in self._copy("/v1/traces")
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def records(self) -> list[tuple[dict[str, Any], Any]]:
        """Return every received log record."""
        return [
            (attributes(resource.resource), record)
            for request in self._copy("/v1/logs")
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def scoped_records(self) -> list[tuple[dict[str, Any], str, Any]]:
        """Return every received log record with its resource attributes and its scope."""
        return [
            (attributes(resource.resource), scope.scope.name, record)
            for request in self._copy("/v1/logs")
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> list[tuple[dict[str, Any], Any]]:
        """Return every received metric."""
        return [
            (attributes(resource.resource), metric)
            for request in self._copy("/v1/metrics")
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def _copy(self, path: str) -> list[Any]:
        with self._lock:
            return list(self._got[path])


def attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes of a message as plain values."""
    return {pair.key: value(pair.value) for pair in holder.attributes}


def value(any_value: Any) -> Any:
    """Return an AnyValue as a plain value."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(each) for each in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for the length of the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # do not wait indefinitely for a silent connection

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.store_request(self.path, body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # Server_close() waits for the request threads, so that none remains for the next test.
        daemon_threads = False

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
