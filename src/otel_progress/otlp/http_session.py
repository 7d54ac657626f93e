"""HTTP session of OTLP exporters that checks the answers of the collector.

The exporters accept every status below 400 and ignore the body. A login page of a proxy, or a
redirect, would then count as an accepted batch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import HTTPAdapter

from otel_progress.fork import ForkPhase, on_fork
from otel_progress.otlp.bounded import note_problem
from otel_progress.text import remove_credentials, truncate

if TYPE_CHECKING:
    from otel_progress.otlp.environment import Signal


_RESPONSES: Final[dict[Signal, Any]] = {
    "traces": ExportTraceServiceResponse,
    "logs": ExportLogsServiceResponse,
    "metrics": ExportMetricsServiceResponse,
}


_REJECTED: Final[dict[Signal, str]] = {
    "traces": "rejected_spans",
    "logs": "rejected_log_records",
    "metrics": "rejected_data_points",
}


class InvalidAnswerError(requests.RequestException):
    """Answer of a collector that is not a success of OTLP. It is not sent again."""


class CheckedSession(requests.Session):
    """Session of the exporter of one signal.

    ``request`` raises InvalidAnswerError for a redirect, for a body that is not an answer of OTLP,
    and for an answer that rejects a part of the batch.
    """

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal = signal
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=CheckedSession.drop_connections)

    def drop_connections(self) -> None:
        """Drop all connections, as a forked child does, which shares them with its parent."""
        for prefix in list(self.adapters):
            self.mount(prefix, HTTPAdapter())

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request without following redirects, and check the answer."""
        note_problem("")
        try:
            response = super().request(*args, **{**kwargs, "allow_redirects": False})
        except requests.RequestException as error:
            note_problem(str(error))
            raise
        if response.status_code >= 400:
            note_problem(f"HTTP {response.status_code} {response.reason}")
        if 300 <= response.status_code < 400:
            target = remove_credentials(response.headers.get("Location", "another address"))
            msg = f"HTTP {response.status_code}: the collector redirects to {truncate(target, 200)}"
            raise InvalidAnswerError(msg)
        if 200 <= response.status_code < 300:
            self._check_body(response)
        return response

    def _check_body(self, response: requests.Response) -> None:
        body, answer = response.content, _RESPONSES[self._signal]()
        if not body:
            return
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type == "application/json":
            self._check_json(response)
            return
        try:
            is_text = content_type.startswith("text/")
            if not is_text:
                answer.ParseFromString(body)
        except DecodeError:
            is_text = True
        if is_text:
            kind = truncate(content_type or "no type", 80)
            msg = f"HTTP {response.status_code} with an invalid body of {len(body)} bytes ({kind})"
            raise InvalidAnswerError(msg)
        rejected = getattr(answer.partial_success, _REJECTED[self._signal])
        if rejected:
            reason = truncate(answer.partial_success.error_message, 200)
            raise InvalidAnswerError(f"the collector rejected {rejected} entries: {reason}")

    def _check_json(self, response: requests.Response) -> None:
        try:
            is_object = isinstance(response.json(), dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise InvalidAnswerError(f"HTTP {response.status_code} with invalid JSON")


def make_session(signal: Signal) -> requests.Session | None:
    """Return a session for an exporter.

    None if the environment names a credential provider, whose session the exporter then uses.
    """
    for infix in ("", f"{signal.upper()}_"):
        if os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{infix}CREDENTIAL_PROVIDER", "").strip():
            return None
    return CheckedSession(signal)
