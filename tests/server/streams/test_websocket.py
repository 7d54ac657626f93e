"""The WebSocket over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import otel_progress as progress
from otel_progress.server.settings import StreamLimits
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import FakeClock, Recorder
from tests.support.api_server import PATIENCE_S, serving, serving_nothing


@contextmanager
def connected(server: Server, **arguments: Any) -> Iterator[ClientConnection]:
    """Connect a client that sends no pings: a busy machine may answer them late."""
    url = server.url.replace("http", "ws", 1) + "api/v1/ws"
    with connect(url, proxy=None, open_timeout=PATIENCE_S, ping_interval=None, **arguments) as client:
        yield client


def send_message(client: ClientConnection, **message: Any) -> None:
    """Send a JSON message."""
    client.send(json.dumps(message))


def receive_message(client: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a kind, and skip others."""
    while True:
        message: dict[str, Any] = json.loads(client.recv(timeout=PATIENCE_S))
        if message["type"] == kind:
            return message


def test_subscriber_receives_current_state_then_updates(recorder: Recorder) -> None:
    """After unsubscribing it receives no more."""
    with (
        progress.operation("survey", id="one", total=9) as one,
        serving(recorder) as server,
        connected(server) as client,
    ):
        send_message(client, type="subscribe", operations=["one"])
        assert receive_message(client, "subscribed")["operations"] == ["one"]
        assert receive_message(client, "progress.update")["operation"]["current"] == 0
        receive_message(client, "ready")
        one.increment()
        update = receive_message(client, "progress.update")
        assert update["operation"]["current"] == 1
        assert update["id"].startswith(server.hub.epoch)
        send_message(client, type="unsubscribe", operations="*")
        receive_message(client, "unsubscribed")
        one.increment()
        send_message(client, type="ping")
        assert json.loads(client.recv(timeout=PATIENCE_S)) == {"type": "pong"}


def test_star_subscribes_to_all_operations(recorder: Recorder) -> None:
    """Operations that start later are included."""
    with serving(recorder) as server, connected(server) as client:
        send_message(client, type="subscribe", operations="*")
        receive_message(client, "ready")
        with progress.operation("survey", id="later"):
            assert receive_message(client, "progress.update")["operation"]["operation_id"] == "later"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits for all tests. Each test has its own connection."""
    with serving_nothing(
        tmp_path_factory.mktemp("small"), streams=StreamLimits(subscriptions=2, trees=1)
    ) as server:
        yield server


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 50_000,
        '{"type":"fly"}',
        '{"type":["subscribe"]}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","operations":[]}',
        '{"type":"subscribe","operations":[1]}',
        '{"type":"subscribe","operations":"one"}',
        '{"type":"subscribe","operations":["a","b","c"]}',
        '{"type":"subscribe","operations":["a"],"levels":1}',
        '{"type":"subscribe","operations":"*","levels":true}',
        '{"type":"subscribe","operations":["a","b"],"levels":true}',
        '{"type":"subscribe","operations":["' + "x" * 300 + '"]}',
        '{"type":"subscribe","operations":["\\ud800\\u001b[2J"' + ",7]}",
        '{"type":"ping","x":"' + "x" * 70_000 + '"}',
        b"\x00\xff",
    ],
)
def test_invalid_message_gets_an_error_and_the_connection_stays(small: Server, said: str | bytes) -> None:
    """The error says what was expected."""
    with connected(small) as client:
        client.send(said)
        error = receive_message(client, "error")
        assert error["title"]
        assert any(word in error["detail"] for word in ("Expected", "Subscribe", "Name"))
        send_message(client, type="ping")
        receive_message(client, "pong")


def test_client_beyond_the_rate_limit_gets_an_error(recorder: Recorder) -> None:
    """The message is ignored."""
    with serving(recorder) as server:
        # With a stopped clock the token bucket is not refilled.
        server.hub.clock = FakeClock().monotonic
        with connected(server) as client:
            for _ in range(101):
                send_message(client, type="ping")
            assert receive_message(client, "error")["title"] == "Too many messages"


def test_stopping_server_closes_with_code_1001(recorder: Recorder) -> None:
    """The code means "going away"."""
    with serving(recorder) as server, connected(server) as client:
        send_message(client, type="subscribe", operations="*")
        receive_message(client, "ready")
        server.close()
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=PATIENCE_S)
        assert client.protocol.close_code == 1001


def test_handshake_without_access_is_refused(recorder: Recorder) -> None:
    """The origin or the token is wrong."""
    with serving(recorder, token="correct-horse-battery") as server:
        with pytest.raises(InvalidStatus, match=r"40[13]"), connected(server):
            pass
        with pytest.raises(InvalidStatus, match="403"), connected(server, origin="https://evil.example"):
            pass
        with connected(
            server, additional_headers={"Authorization": "Bearer correct-horse-battery"}
        ) as client:
            send_message(client, type="ping")
            receive_message(client, "pong")
