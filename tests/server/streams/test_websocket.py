"""The WebSocket over a real server: state at once, then updates; whatever a client says, the connection stays."""

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
    """Connect a client. It sends no pings of its own: how soon they are answered is a matter of how busy the machine is."""
    url = server.url.replace("http", "ws", 1) + "api/v1/ws"
    with connect(url, proxy=None, open_timeout=PATIENCE_S, ping_interval=None, **arguments) as client:
        yield client


def say(client: ClientConnection, **message: Any) -> None:
    """Send a message."""
    client.send(json.dumps(message))


def hear(client: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of a kind."""
    while True:
        message: dict[str, Any] = json.loads(client.recv(timeout=PATIENCE_S))
        if message["type"] == kind:
            return message


def test_state_at_once_then_updates(recorder: Recorder) -> None:
    """A subscription is confirmed, the current state comes, then what changes; and no more after unsubscribing."""
    with (
        progress.operation("survey", id="one", total=9) as one,
        serving(recorder) as server,
        connected(server) as client,
    ):
        say(client, type="subscribe", operations=["one"])
        assert hear(client, "subscribed")["operations"] == ["one"]
        assert hear(client, "progress.update")["operation"]["current"] == 0
        hear(client, "ready")
        one.increment()
        update = hear(client, "progress.update")
        assert update["operation"]["current"] == 1
        assert update["id"].startswith(server.hub.epoch)
        say(client, type="unsubscribe", operations="*")
        hear(client, "unsubscribed")
        one.increment()
        say(client, type="ping")
        assert json.loads(client.recv(timeout=PATIENCE_S)) == {"type": "pong"}


def test_everything(recorder: Recorder) -> None:
    """A star subscribes to all operations, those to come included."""
    with serving(recorder) as server, connected(server) as client:
        say(client, type="subscribe", operations="*")
        hear(client, "ready")
        with progress.operation("survey", id="later"):
            assert hear(client, "progress.update")["operation"]["operation_id"] == "later"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits, the same for all tests; each has a connection of its own."""
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
def test_a_bad_message_gets_an_error_and_the_connection_stays(small: Server, said: str | bytes) -> None:
    """The error says what was expected; the next message is followed as if nothing had been."""
    with connected(small) as client:
        client.send(said)
        error = hear(client, "error")
        assert error["title"]
        assert (
            "xpected" in error["detail"]
            or "Subscribe" in error["detail"]
            or "subscribe" in error["detail"]
            or "Name" in error["detail"]
        )
        say(client, type="ping")
        hear(client, "pong")


def test_a_client_that_talks_too_much_is_slowed(recorder: Recorder) -> None:
    """Beyond its allowance a message is answered by an error instead of being followed."""
    with serving(recorder) as server:
        server.hub.clock = (
            FakeClock().monotonic
        )  # the allowance grows with time, and how long sending takes is not known
        with connected(server) as client:
            for _ in range(101):
                say(client, type="ping")
            assert hear(client, "error")["title"] == "Too many messages"


def test_the_server_says_goodbye(recorder: Recorder) -> None:
    """A server that ends closes with 1001, going away."""
    with serving(recorder) as server, connected(server) as client:
        say(client, type="subscribe", operations="*")
        hear(client, "ready")
        server.close()
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=PATIENCE_S)
        assert client.protocol.close_code == 1001


def test_strangers_are_refused(recorder: Recorder) -> None:
    """Neither a page of another site nor somebody without the token gets through the handshake."""
    with serving(recorder, token="correct-horse-battery") as server:
        with pytest.raises(InvalidStatus, match=r"40[13]"), connected(server):
            pass
        with pytest.raises(InvalidStatus, match="403"), connected(server, origin="https://evil.example"):
            pass
        with connected(
            server, additional_headers={"Authorization": "Bearer correct-horse-battery"}
        ) as client:
            say(client, type="ping")
            hear(client, "pong")
