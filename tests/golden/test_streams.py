"""Messages of the streams, of every kind, over both transports.

Sequence numbers are omitted because they depend on timing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import httpx
from websockets.sync.client import ClientConnection, connect

from otel_progress.journal import SqliteJournal
from otel_progress.server.uvicorn_server import Server
from tests.support.golden import server as web
from tests.support.golden.files import Golden
from tests.support.golden.sample_journal import late_changes, open_scene_journal, write_scene

READY = "event: ready\nid: EPOCH-NUMBER\ndata: {}\n\n"
PLACE = re.compile(r"\b[0-9a-f]{12}-\d+\b")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """The journal of the state."""
    write_scene(tmp_path / "progress.db")
    with open_scene_journal(tmp_path / "progress.db") as journal:
        yield journal


def test_server_sent_events_equal_golden_file(golden: Golden, journal: SqliteJournal) -> None:
    """Each event on the wire: all operations, one with levels, a batch, a reset."""
    with web.serving(journal, journal, heartbeat_s=0.05) as server:
        found = _frames(server, "", "event: batch", count=4)
        golden.text("streams/snapshot.sse", _joined(found, "event: snapshot"))
        golden.text("streams/batch.sse", _joined(found, "event: batch"))
        golden.text("streams/ready.sse", _joined(found, "event: ready"))
        golden.text("streams/retry.sse", _joined(found, "retry: "))
        found = _frames(server, "", "event: ready", last_event_id="nonsense")
        golden.text("streams/reset.sse", _joined(found, "event: reset"))
        golden.text(
            "streams/heartbeat.sse", _joined(_frames(server, "?type=none", ": heartbeat"), ": heartbeat")
        )
        found = _frames(server, "?operation=friday-42&levels=true", "event: preview", journal=journal)
        golden.text("streams/tree.sse", _joined(found[: found.index(READY)], "event: snapshot"))
        golden.text("streams/item.sse", _joined(found, "event: item"))
        golden.text("streams/preview.sse", _joined(found, "event: preview"))
        found = _frames(server, "?operation=done-1", "event: gone", delete="done-1")
        golden.text("streams/gone.sse", _joined(found, "event: gone"))


def test_websocket_messages_equal_golden_file(golden: Golden, journal: SqliteJournal) -> None:
    """The same messages over a WebSocket, and the responses to a client."""
    with web.serving(journal, journal) as server:
        with _connected(server) as client:
            client.send('{"type":"subscribe","operations":"*"}')
            found = _received(client, "progress.batch", count=4)
        golden.text("streams/update.ws", _of_type(found, "progress.update"))
        golden.text("streams/batch.ws", _of_type(found, "progress.batch"))
        golden.text("streams/ready.ws", _of_type(found, "ready"))
        with _connected(server) as client:
            client.send('{"type":"subscribe","operations":["friday-42"],"levels":true}')
            found = _received(client, "ready")
            golden.text("streams/tree.ws", _of_type(found, "progress.update"))
            golden.text("streams/subscribed.ws", _of_type(found, "subscribed"))
            journal.write(late_changes())
            found = _received(client, "progress.preview")
            golden.text("streams/item.ws", _of_type(found, "progress.item"))
            golden.text("streams/preview.ws", _of_type(found, "progress.preview"))
            client.send('{"type":"unsubscribe","operations":"*"}')
            golden.text(
                "streams/unsubscribed.ws", _of_type(_received(client, "unsubscribed"), "unsubscribed")
            )
            client.send('{"type":"ping"}')
            golden.text("streams/pong.ws", _of_type(_received(client, "pong"), "pong"))
            errors = [_error(client, said) for said in ERRORS]
            golden.lines("streams/error.ws", errors)
        with _connected(server) as client:
            client.send('{"type":"subscribe","operations":["done-1"]}')
            _received(client, "progress.update")
            _delete(server, "done-1")
            golden.text("streams/gone.ws", _of_type(_received(client, "progress.gone"), "progress.gone"))


ERRORS = (
    "{",
    "[]",
    '{"type":"shout"}',
    '{"type":"subscribe"}',
    '{"type":"subscribe","operations":[1]}',
    '{"type":"subscribe","operations":["a"],"levels":1}',
    '{"type":"subscribe","operations":"*","levels":true}',
    '{"type":"ping","x":"' + "x" * 70_000 + '"}',
)
"""Messages that are not subscriptions."""


def _frames(
    server: Server,
    query: str,
    last: str,
    *,
    count: int = 1,
    journal: SqliteJournal | None = None,
    delete: str = "",
    last_event_id: str = "",
) -> list[str]:
    """Return the frames of a stream, in order of arrival.

    They end with the ``count``-th one that starts with ``last``.
    """
    found: list[str] = []
    end = time.monotonic() + web.PATIENCE_S
    url, lines = f"{server.url}api/v1/stream{query}", list[str]()
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with (
        httpx.Client(timeout=web.PATIENCE_S, trust_env=False, verify=False) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        for line in answer.iter_lines():
            if line:
                lines.append(PLACE.sub("EPOCH-NUMBER", line))
                continue
            found.append("\n".join(lines) + "\n\n")
            lines.clear()
            if found[-1].startswith("event: ready"):
                if journal is not None:
                    journal.write(late_changes())
                if delete:
                    _delete(server, delete)
            if len({one for one in found if one.startswith(last)}) >= count and _is_ready(found, last):
                return found
            assert time.monotonic() < end, found
    raise AssertionError(found)


def _is_ready(found: list[str], last: str) -> bool:
    return last == ": heartbeat" or any(one.startswith("event: ready") for one in found)


def _joined(frames: list[str], start: str) -> str:
    """Return the distinct frames with this start, sorted.

    Their order depends on timing.
    """
    found = sorted({one for one in frames if one.startswith(start)})
    assert found, frames
    return "".join(found)


def _delete(server: Server, operation_id: str) -> None:
    answer = httpx.delete(
        f"{server.url}api/v1/operations/{operation_id}", timeout=web.PATIENCE_S, trust_env=False, verify=False
    )
    assert answer.status_code == 204


@contextmanager
def _connected(server: Server) -> Iterator[ClientConnection]:
    url = server.url.replace("http", "ws", 1) + "api/v1/ws"
    with connect(url, proxy=None, open_timeout=web.PATIENCE_S, ping_interval=None) as client:
        yield client


def _received(client: ClientConnection, last: str, *, count: int = 1) -> list[str]:
    """Return the messages up to the ``count``-th of a type.

    They continue at least to ``ready``.
    """
    found: list[str] = []
    while sum(_type_of(one) == last for one in found) < count or (
        count > 1 and not any(_type_of(one) == "ready" for one in found)
    ):
        found.append(str(client.recv(timeout=web.PATIENCE_S)))
    return found


def _type_of(message: str) -> str:
    return str(json.loads(message)["type"])


def _of_type(messages: list[str], type_: str) -> str:
    found = sorted({PLACE.sub("EPOCH-NUMBER", one) for one in messages if _type_of(one) == type_})
    assert found, messages
    return "".join(f"{one}\n" for one in found)


def _error(client: ClientConnection, said: str) -> str:
    client.send(said)
    return _of_type(_received(client, "error"), "error").rstrip("\n")
