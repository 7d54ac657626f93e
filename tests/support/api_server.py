"""A real server for tests, and clients for its requests and streams."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from otel_progress.journal import SqliteJournal
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import Recorder
from tests.support.server_threads import threads_end

PATIENCE_S = 60.0
"""Read timeout of a client, reached only if no more data would arrive."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event."""

    kind: str
    id: str
    document: dict[str, Any]


@contextmanager
def serving(recorder: Recorder, **arguments: Any) -> Iterator[Server]:
    """Serve the operations of a recorder on a free port for the length of the block."""
    with threads_end():
        server = Server(recorder.runtime.reader, port=0, **arguments)
        try:
            server.start()
            yield server
        finally:
            server.close(PATIENCE_S)


@contextmanager
def serving_nothing(folder: Path, **arguments: Any) -> Iterator[Server]:
    """Serve an empty journal, for tests that need no operations."""
    with (
        threads_end(),
        closing(SqliteJournal(folder / "progress.db")) as journal,
        Server(journal, port=0, **arguments) as server,
    ):
        yield server


def get(url: str, **options: Any) -> httpx.Response:
    """Return the response of a loopback server.

    Certificates are not read, because that is slow.
    """
    return httpx.get(url, timeout=PATIENCE_S, trust_env=False, verify=False, **options)


def answers(url: str) -> bool:
    """Return whether an ordinary request succeeds.

    It fails when the server is at its limit.
    """
    try:
        return get(url).status_code == 200
    except httpx.TransportError:
        return False


def is_free(port: int) -> bool:
    """Return whether a loopback port is free.

    Poll it, because any process may use the port in between.
    """
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


@contextmanager
def stream(server: Server, query: str = "", **headers: str) -> Iterator[Iterator[StreamEvent]]:
    """Follow the stream and yield each event on arrival.

    A silence of ``PATIENCE_S`` fails the test.
    """
    with (
        httpx.Client(timeout=PATIENCE_S, trust_env=False, verify=False) as client,
        client.stream("GET", f"{server.url}api/v1/stream{query}", headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        yield events(answer.iter_lines())


def events(lines: Iterator[str]) -> Iterator[StreamEvent]:
    """Yield the events of a stream, without comments and ``retry`` lines."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield StreamEvent(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


def until(told: Iterator[StreamEvent], kind: str) -> list[StreamEvent]:
    """Return all events up to and including the first one of a kind."""
    found = []
    for one in told:
        found.append(one)
        if one.kind == kind:
            return found
    raise AssertionError(f"the stream ended without {kind}: {found}")
