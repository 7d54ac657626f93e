"""OTLP endpoints: encodings, limits, partial success, errors for senders."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from otel_progress import semconv
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.receivers.receiver import Receipt, Receiver, ReceiverLimits
from otel_progress.server import ServerSettings, create_app
from otel_progress.server.settings import Limits
from tests.support.otlp_records import SPAN, TRACE, WALL, level
from tests.support.otlp_requests import build_json_request, build_protobuf_request
from tests.support.rest_client import Client, raw_request, refusals, scope_of
from tests.support.server_threads import threads_end

LOGS = "/v1/logs"
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
TOKEN = "correct-horse-battery"
EVENT = build_level_event(semconv.EVENT_UPDATED, level(current=3), WALL)
INVALID = LogEvent(semconv.EVENT_UPDATED, "", WALL, None, None, {})
BODY = build_protobuf_request([EVENT])
CHUNK = {"type": "http.request", "body": b"x" * 100_000, "more_body": True}


class BrokenReceiver:
    """A receiver whose journal fails, or that has an internal error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def receive(self, *_: object) -> Receipt:
        """Raise the error."""
        raise self._error


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[SqliteJournal]:
    """An empty journal."""
    journal = SqliteJournal(tmp_path / "received.db", now=lambda: WALL + 1.0, clock=lambda: 1.0)
    yield journal
    journal.close()


@pytest.fixture
def receive(empty: SqliteJournal) -> Iterator[Callable[..., Client]]:
    """Build clients of applications that receive OTLP."""
    apps = []

    def make(receiver: Any = None, **settings: Any) -> Client:
        limits = {"body_s": 60.0, "answer_s": 60.0, **settings.pop("limits", {})}
        app = create_app(
            empty,
            settings=ServerSettings(limits=Limits(**limits), **settings),
            receiver=receiver or Receiver(empty, wall=lambda: WALL + 1.0),
        )
        apps.append(app)
        return Client(app)

    with threads_end():
        yield make
        for app in apps:
            app.state.services.reader_pool.close()
            app.otlp.close()


def count_records(client: Client) -> dict[tuple[str, ...], Any]:
    """Return the number of received records by signal and outcome."""
    return dict(client.app.state.services.counts.read()[semconv.RECEIVER_RECORDS])


@pytest.mark.parametrize(
    ("body", "headers", "response"),
    [
        (BODY, PROTOBUF, b""),
        (gzip.compress(BODY), {**PROTOBUF, "content-encoding": "gzip"}, b""),
        (gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), {**PROTOBUF, "content-encoding": "GZIP"}, b""),
        (build_json_request([EVENT]), JSON, b"{}"),
        (build_json_request([EVENT]), {"content-type": "Application/JSON; charset=utf-8"}, b"{}"),
    ],
    ids=["protobuf", "gzip", "members", "json", "charset"],
)
def test_request_in_each_encoding_is_stored(
    receive: Callable[..., Client],
    empty: SqliteJournal,
    body: bytes,
    headers: dict[str, str],
    response: bytes,
) -> None:
    """The response has the encoding of the request."""
    client = receive()
    answer = client.post(LOGS, content=body, headers=headers)
    assert (answer.status_code, answer.content) == (200, response)
    assert answer.headers["content-type"] == headers["content-type"].partition(";")[0].lower()
    operation = empty.get("friday-42")
    assert operation is not None
    assert operation.root.current == 3
    assert count_records(client) == {("logs", "accepted"): 1}


def test_log_records_are_in_the_api_and_dropped_ones_are_counted(
    receive: Callable[..., Client], empty: SqliteJournal
) -> None:
    """Dropped records are valid, so the response does not mention them."""
    limits = ReceiverLimits(waiting_logs_per_sender=2)
    client = receive(Receiver(empty, wall=lambda: WALL + 1.0, limits=limits))
    logs = [LogEvent(None, f"text {number}", WALL, TRACE, SPAN, {}, severity=9) for number in range(5)]
    answer = client.post(LOGS, content=build_protobuf_request(logs), headers=PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")
    assert count_records(client) == {("logs", "dropped"): 3}
    client.post(LOGS, content=BODY, headers=PROTOBUF)
    assert count_records(client) == {("logs", "dropped"): 3, ("logs", "accepted"): 3}
    stored = client.get("/api/v1/operations/friday-42/logs").json()["logs"]
    assert [record["message"] for record in stored] == ["text 3", "text 4"]
    assert (
        'progress_receiver_records_total{outcome="dropped",signal="logs"} 3.0' in client.get("/metrics").text
    )


def test_chunked_body_without_a_length_is_stored(
    receive: Callable[..., Client], empty: SqliteJournal
) -> None:
    """The SDK of JavaScript sends such bodies."""
    parts = [BODY[:10], BODY[10:50], BODY[50:]]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    last = {"type": "http.request", "body": b"", "more_body": False}
    headers = {**PROTOBUF, "transfer-encoding": "chunked"}
    sent = asyncio.run(raw_request(receive().app, scope_of(LOGS, "POST", headers), *messages, last))
    assert sent[0]["status"] == 200
    assert empty.get("friday-42") is not None


def test_rejected_records_are_partial_success_in_the_encoding(receive: Callable[..., Client]) -> None:
    """The other records are stored."""
    client = receive()
    body = build_protobuf_request([EVENT, INVALID, INVALID])
    answer = client.post(LOGS, content=body, headers=PROTOBUF)
    success = ExportLogsServiceResponse.FromString(answer.content).partial_success
    assert (success.rejected_log_records, success.error_message) == (
        2,
        "the attribute progress.operation.id is missing",
    )
    document = client.post(LOGS, content=build_json_request([INVALID]), headers=JSON).json()
    assert document["partialSuccess"]["rejectedLogRecords"] == "1"
    assert count_records(client) == {("logs", "accepted"): 1, ("logs", "rejected"): 3}
    metrics = client.get("/metrics").text
    assert 'progress_receiver_records_total{outcome="rejected",signal="logs"} 3.0' in metrics


def test_metrics_are_accepted_and_ignored(receive: Callable[..., Client], empty: SqliteJournal) -> None:
    """An exporter of all signals reports no error."""
    client = receive()
    answer = client.post("/v1/metrics", content=b"anything", headers=PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.post("/v1/metrics", content=b"[", headers=JSON).json() == {}
    assert not empty.active()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff", PROTOBUF, 400),
        (b"[]", JSON, 400),
        (b'{"a":' * 100_000, JSON, 400),
        (b"no gzip", {**JSON, "content-encoding": "gzip"}, 400),
        (gzip.compress(b"{}")[:-9], {**JSON, "content-encoding": "gzip"}, 400),
        (b"{}", {**JSON, "content-encoding": "br"}, 415),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (gzip.compress(b" " * 200_000), {**JSON, "content-encoding": "gzip"}, 413),
        (b"{" * 100_001, JSON, 413),
    ],
    ids=["bytes", "list", "nested", "gzip", "cut", "br", "text", "none", "inflated", "long"],
)
def test_invalid_request_is_refused(
    receive: Callable[..., Client], body: bytes, headers: dict[str, str], status: int
) -> None:
    """A sender drops it, because it would be refused again."""
    client = receive(limits={"otlp_body_bytes": 100_000, "otlp_inflated_bytes": 100_000})
    if status != 413:
        client = receive()
    answer = client.post(LOGS, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    if answer.headers["content-type"] == PROTOBUF["content-type"]:
        assert "expected" in RpcStatus.FromString(answer.content).message
    else:
        assert "expected" in answer.json().get("message", answer.json().get("detail"))
    assert client.post(LOGS, content=b"{}", headers=JSON).status_code == 200


def test_error_in_protobuf_is_a_status(receive: Callable[..., Client]) -> None:
    """The specification requires it."""
    answer = receive().post(LOGS, content=b"\xff", headers=PROTOBUF)
    status = RpcStatus.FromString(answer.content)
    assert (status.code, "ExportLogsServiceRequest" in status.message) == (3, True)


@pytest.mark.parametrize("error", [JournalError("the disk is full"), RuntimeError("a bug")])
def test_request_that_cannot_be_stored_is_sent_again(
    receive: Callable[..., Client], error: Exception
) -> None:
    """Senders drop the records of a 500."""
    answer = receive(BrokenReceiver(error)).post(LOGS, content=b"{}", headers=JSON)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert ("the disk is full" in answer.text) == isinstance(error, JournalError)


def test_requests_beyond_the_limit_are_sent_again(receive: Callable[..., Client]) -> None:
    """The bodies in memory are limited."""
    client = receive(limits={"otlp_requests": 0})
    answer = client.post(LOGS, content=BODY, headers=PROTOBUF)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert refusals(client) == {"busy": 1}


def test_refused_body_is_read_to_its_end(receive: Callable[..., Client]) -> None:
    """A client that is still sending would not receive the response."""
    client = receive(token=TOKEN)
    last = {**CHUNK, "more_body": False}
    scope = scope_of(LOGS, "POST", PROTOBUF)
    sent = asyncio.run(raw_request(client.app, scope, *[CHUNK] * 20, last))
    assert sent[0]["status"] == 401
    assert not any(message.get("more_body") for message in sent)


def test_endless_body_is_refused(receive: Callable[..., Client]) -> None:
    """Its memory is limited, and so is what is read."""
    client = receive(limits={"otlp_body_bytes": 250_000})
    sent = asyncio.run(raw_request(client.app, scope_of(LOGS, "POST", PROTOBUF), *[CHUNK] * 11))
    assert sent[0]["status"] == 413


def test_token_and_rules_of_other_posts_apply(receive: Callable[..., Client]) -> None:
    """A page of another site cannot send records."""
    client = receive(token=TOKEN)
    assert client.post(LOGS, content=BODY, headers=PROTOBUF).status_code == 401
    bearer = {**PROTOBUF, "authorization": f"Bearer {TOKEN}"}
    assert client.post(LOGS, content=BODY, headers=bearer).status_code == 200
    foreign = {**PROTOBUF, "origin": "https://example.org"}
    assert receive().post(LOGS, content=BODY, headers=foreign).status_code == 403
    assert receive().post(LOGS, content=BODY, headers={**PROTOBUF, "host": "evil.example"}).status_code == 421


def test_application_without_a_receiver_has_no_endpoints(empty: SqliteJournal) -> None:
    """Its limits of bodies apply to these paths as well."""
    client = Client(create_app(empty))
    assert client.post(LOGS, content=BODY, headers=PROTOBUF).status_code == 404
    assert client.post(LOGS, content=b"x" * 70_000, headers=PROTOBUF).status_code == 413


def test_other_methods_are_refused(receive: Callable[..., Client]) -> None:
    """The problem names the method."""
    document = receive().problem(405, LOGS)
    assert "POST" in document["detail"]
    assert json.dumps(document)
