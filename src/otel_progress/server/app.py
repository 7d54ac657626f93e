"""create_app(): the application over any Reader, to serve by itself or to mount in another ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_progress.errors import JournalError
from otel_progress.metrics.collector import ProgressCollector
from otel_progress.metrics.counters import Totals
from otel_progress.metrics.sources import PublicUrl
from otel_progress.previews.stores.base import Store
from otel_progress.protocols import Controller, Reader, SizedStorage
from otel_progress.server import problems
from otel_progress.server.api import add_endpoints
from otel_progress.server.api.parameters import reject_unknown_parameters
from otel_progress.server.counters import ServerCounters
from otel_progress.server.middleware import SecurityMiddleware
from otel_progress.server.reader_pool import ReaderPool
from otel_progress.server.schemas import Exported
from otel_progress.server.settings import ServerSettings, StreamLimits
from otel_progress.server.state import AppState
from otel_progress.server.static import login_form, page_routes
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.sse import stream_routes

VERSION: Final = "1"
"""Version of the API, also in its paths."""


_DESCRIPTION: Final = (
    "Progress of long-running work: operations, their levels, events and logs, as they are now."
)


def create_app(
    reader: Reader,
    *,
    settings: ServerSettings | None = None,
    controller: Controller | None = None,
    streams: StreamLimits | None = None,
    totals: Totals | None = None,
    public_url: PublicUrl = None,
    previews: Store | None = None,
) -> FastAPI:
    """Return an ASGI application that answers for ``reader``: REST, streams, the page, ``/metrics``.

    It can be served by any ASGI server and mounted under any prefix; a parent application need not run its lifespan, as streams
    begin with their first client. Without ``controller`` it only reads. ``totals`` are a runtime's own counters, to be shown on
    ``/metrics`` as well, where ``public_url``, the base address under which people reach the application, is that of previews, whose
    content is in the store ``previews``. A mounted application is called by the parent's names: list them in ``allowed_hosts``.
    Closing the reader is left to the caller.
    """
    settings = settings or ServerSettings()
    counts = ServerCounters()
    size = reader.size_bytes if isinstance(reader, SizedStorage) else None
    collector = ProgressCollector(
        reader, totals=totals, more=counts.read, public_url=public_url, journal_size=size
    )
    hub = Hub(reader, counts, limits=streams)
    services = AppState(
        reader, controller, settings, counts, ReaderPool(settings.limits, counts), collector, hub, previews
    )
    app = _Application(services)
    app.state.services = services
    app.state.hub = hub
    for kind, handler in (
        (problems.Problem, problems.on_problem),
        (HTTPException, problems.on_http_error),
        (RequestValidationError, problems.on_invalid),
        (JournalError, problems.on_journal_error),
        (Exception, problems.on_failure),
    ):
        app.add_exception_handler(kind, handler)
    add_endpoints(app)
    app.router.routes += [*stream_routes(hub, settings), *page_routes()]
    return app


class _Application(FastAPI):
    """FastAPI with the guard around everything, errors of the framework's own middleware included."""

    def __init__(self, services: AppState) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            del app
            services.hub.open()
            try:
                yield
            finally:
                services.hub.close()
                services.asking.close()

        super().__init__(
            title="otel-progress",
            version=VERSION,
            description=_DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry={
                "tracing": False,
                "metrics": False,
                "logs": False,
            },  # requests for progress are no part of the work traced
            lifespan=lifespan,
            dependencies=[Depends(reject_unknown_parameters)],
        )
        self._services = services

    def build_middleware_stack(self) -> ASGIApp:
        """Return what every request passes through."""
        return SecurityMiddleware(
            super().build_middleware_stack(), self._services.settings, self._services.counts, _login
        )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            schemas["Problem"] = dict(problems.SCHEMA)
            schemas["Exported"] = Exported.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas["Exported"].pop("$defs", None)  # all of them are there from the other documents
            if self._services.settings.token is not None:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            self.openapi_schema = document
        return self.openapi_schema


async def _login(scope: Scope, receive: Receive, send: Send) -> None:
    await login_form(Request(scope))(scope, receive, send)
