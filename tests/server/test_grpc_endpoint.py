"""OTLP over gRPC: token, partial success, errors that senders understand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc", reason="the extra 'grpc' is not installed")
pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from otel_progress import semconv
from otel_progress.errors import JournalError, UnavailableError
from otel_progress.journal import SqliteJournal
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.exporters import build_resource
from otel_progress.otlp.sdk_compat import LogEvent, build_event_log
from otel_progress.receivers.receiver import Receiver
from otel_progress.server.counters import ServerCounters
from otel_progress.server.grpc_endpoint import GrpcEndpoint
from otel_progress.server.settings import Limits
from otel_progress.server.uvicorn_server import Server
from tests.support.otlp_records import WALL, level
from tests.support.otlp_requests import build_protobuf_request
from tests.support.server_threads import threads_end

pytestmark = pytest.mark.server

TOKEN = "correct-horse-battery"
PATIENCE_S = 60.0
EVENT = build_level_event(semconv.EVENT_UPDATED, level(current=3), WALL)
INVALID = LogEvent(semconv.EVENT_UPDATED, "", WALL, None, None, {})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """An empty journal."""
    with closing(SqliteJournal(tmp_path / "progress.db")) as journal:
        yield journal


def export(endpoint: GrpcEndpoint, *events: LogEvent, **metadata: str) -> ExportLogsServiceResponse:
    """Send events in one request. Raises RpcError."""
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.port}") as channel:
        request = ExportLogsServiceRequest.FromString(build_protobuf_request(events))
        stub: Any = LogsServiceStub(channel)
        response: ExportLogsServiceResponse = stub.Export(
            request, timeout=PATIENCE_S, metadata=tuple(metadata.items())
        )
        return response


def test_records_over_grpc_are_stored_and_rejected_ones_reported(journal: SqliteJournal) -> None:
    """The response has the number of rejected records."""
    counts = ServerCounters()
    endpoint = GrpcEndpoint(Receiver(journal, wall=lambda: WALL), counts, host="127.0.0.1", port=0)
    endpoint.start()
    try:
        success = export(endpoint, EVENT, INVALID).partial_success
    finally:
        endpoint.close()
    assert (success.rejected_log_records, success.error_message) == (
        1,
        "the attribute progress.operation.id is missing",
    )
    operation = journal.get("friday-42")
    assert operation is not None
    assert operation.root.current == 3
    assert dict(counts.read()[semconv.RECEIVER_RECORDS]) == {("logs", "accepted"): 1, ("logs", "rejected"): 1}


def test_errors_over_grpc_have_the_codes_of_otlp() -> None:
    """A sender repeats a request after UNAVAILABLE only."""

    class BrokenReceiver:
        def receive(self, *_: object) -> object:
            msg = "the disk is full"
            raise JournalError(msg)

    broken: Any = BrokenReceiver()
    limits = Limits(otlp_body_bytes=1_000)
    endpoint = GrpcEndpoint(broken, ServerCounters(), host="127.0.0.1", port=0, token=TOKEN, limits=limits)
    endpoint.start()
    try:
        for events, metadata, code in (
            ([EVENT], {}, grpc.StatusCode.UNAUTHENTICATED),
            ([EVENT], {"authorization": "Bearer wrong"}, grpc.StatusCode.UNAUTHENTICATED),
            ([EVENT], {"authorization": f"Bearer {TOKEN}"}, grpc.StatusCode.UNAVAILABLE),
            ([EVENT] * 9, {"authorization": f"Bearer {TOKEN}"}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                export(endpoint, *events, **metadata)
            error: Any = caught.value
            assert error.code() is code
        with pytest.raises(UnavailableError, match=f"Port {endpoint.port} of 127.0.0.1 cannot be opened"):
            GrpcEndpoint(broken, ServerCounters(), host="127.0.0.1", port=endpoint.port)
    finally:
        endpoint.close()


def test_exporter_over_grpc_with_the_token_reaches_the_server(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port for gRPC is a part of the server."""
    with (
        threads_end(),
        Server(journal, port=0, token=TOKEN, receiver=Receiver(journal), otlp_grpc_port=0) as server,
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", str(server.otlp_grpc_url))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{TOKEN}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        monkeypatch.setenv("no_proxy", "*")
        log = build_event_log(build_resource("nightly", "worker-1"))
        log.emit(EVENT)
        assert log.force_flush(PATIENCE_S)
        log.close()
    operation = journal.get("friday-42")
    assert operation is not None
    assert operation.root.current == 3
