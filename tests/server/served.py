"""A real server for tests, and clients that read its streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from otel_progress.server.serve import Server
from otel_progress.testing import Recorder


@dataclass(frozen=True, slots=True)
class Told:
    """One server-sent event."""

    kind: str
    id: str
    document: dict[str, Any]


@contextmanager
def serving(recorder: Recorder, **arguments: Any) -> Iterator[Server]:
    """Serve the operations of a recorder on a free port."""
    server = Server(recorder.runtime.store, port=0, **arguments)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextmanager
def stream(server: Server, query: str = "", **headers: str) -> Iterator[Iterator[Told]]:
    """Follow the stream; each event comes as it arrives, and a silence of ten seconds fails the test."""
    with (
        httpx.Client(timeout=10.0, trust_env=False) as client,
        client.stream("GET", f"{server.url}api/v1/stream{query}", headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        yield events(answer.iter_lines())


def events(lines: Iterator[str]) -> Iterator[Told]:
    """Yield the events of a stream; comments and ``retry`` are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Told(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


def until(told: Iterator[Told], kind: str) -> list[Told]:
    """Return all events up to the first one of a kind, that one included."""
    found = []
    for one in told:
        found.append(one)
        if one.kind == kind:
            return found
    raise AssertionError(f"the stream ended without {kind}: {found}")
