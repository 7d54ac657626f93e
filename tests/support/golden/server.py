"""Clients of the application and of a real server.

This is the only module here that imports the helpers of the server tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from otel_progress.previews.stores.base import Store
from otel_progress.protocols import Controller, Reader
from otel_progress.server import ServerSettings, create_app
from otel_progress.server.settings import Limits, StreamLimits
from otel_progress.server.uvicorn_server import Server
from tests.support.rest_client import Client
from tests.support.server_threads import threads_end

PATIENCE_S = 30.0
"""Read timeout of a client, reached only if no more data would arrive."""


@contextmanager
def asking(
    reader: Reader,
    *,
    controller: Controller | None = None,
    previews: Store | None = None,
    token: str | None = None,
) -> Iterator[Client]:
    """Return a client of an application over ``reader``."""
    limits = Limits(body_s=60.0, answer_s=60.0)
    settings = ServerSettings(token=token, limits=limits, allowed_origins=("https://board.example.org",))
    with threads_end():
        app = create_app(reader, settings=settings, controller=controller, previews=previews)
        yield Client(app)
        app.state.services.reader_pool.close()


@contextmanager
def serving(reader: Reader, controller: Controller, *, heartbeat_s: float = 10.0) -> Iterator[Server]:
    """Serve ``reader`` on a free port."""
    with threads_end():
        server = Server(reader, port=0, controller=controller, streams=StreamLimits(heartbeat_s=heartbeat_s))
        try:
            server.start()
            yield server
        finally:
            server.close(PATIENCE_S)


def openapi(client: Client) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = client.json("/openapi.json")
    return document
