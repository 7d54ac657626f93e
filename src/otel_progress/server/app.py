"""ASGI application over any Reader, to serve or to mount."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

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
from otel_progress.server.access import AccessControl
from otel_progress.server.api import add_endpoints
from otel_progress.server.api.parameters import reject_unknown_parameters
from otel_progress.server.counters import ServerCounters
from otel_progress.server.middleware import SecurityMiddleware
from otel_progress.server.otlp import OTLP_PATHS, OtlpEndpoint
from otel_progress.server.reader_pool import ReaderPool
from otel_progress.server.schemas import ExportedDocument, build_model
from otel_progress.server.settings import ServerSettings, StreamLimits
from otel_progress.server.state import AppState
from otel_progress.server.static import build_login_response, page_routes
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.sse import stream_routes

if TYPE_CHECKING:
    from otel_progress.receivers.receiver import Receiver

VERSION: Final = "1"
"""Version of the API, which its paths contain."""


_DESCRIPTION: Final = "Progress of long-running work: the current operations, their levels, events and logs."


_EXCEPTION_HANDLERS: Final = (
    (problems.Problem, problems.handle_problem),
    (HTTPException, problems.handle_http_error),
    (RequestValidationError, problems.handle_validation_error),
    (JournalError, problems.handle_journal_error),
    (Exception, problems.handle_internal_error),
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
    receiver: Receiver | None = None,
) -> FastAPI:
    """Return an ASGI application over ``reader``: REST, streams and the page.

    Any ASGI server can serve it, and it can be mounted under any prefix. A parent application does
    not have to run its lifespan, because the first client starts the streams. Without
    ``controller`` the API is read-only. ``totals`` are the counters of a runtime, which
    ``/metrics`` includes. ``public_url`` is the base URL for users, which ``/metrics`` uses in the
    URLs of previews. ``previews`` is the store of their content. With ``receiver``, programs can
    send OTLP to ``/v1/logs`` and ``/v1/traces``. Clients of a mounted application use the parent's
    host names: list them in ``allowed_hosts``. The caller closes the reader, the receiver and
    its sink.
    """
    settings = settings or ServerSettings()
    counts = ServerCounters()
    size = reader.size_bytes if isinstance(reader, SizedStorage) else None
    collector = ProgressCollector(
        reader, totals=totals, extra=counts.read, public_url=public_url, journal_size=size
    )
    hub = Hub(reader, counts, limits=streams)
    access = AccessControl(settings)
    services = AppState(
        reader,
        controller,
        settings,
        access,
        counts,
        ReaderPool(settings.limits, counts),
        collector,
        hub,
        previews,
    )
    otlp = None if receiver is None else OtlpEndpoint(receiver, counts, settings.limits)
    app = _Application(services, otlp)
    app.state.services = services
    app.state.hub = hub
    for kind, handler in _EXCEPTION_HANDLERS:
        app.add_exception_handler(kind, handler)
    add_endpoints(app)
    app.router.routes += [*stream_routes(hub, access), *page_routes()]
    if otlp is not None:
        app.router.routes += otlp.build_routes()
    return app


class _Application(FastAPI):
    """FastAPI application inside the security middleware.

    It also handles errors of the framework.
    """

    def __init__(self, services: AppState, otlp: OtlpEndpoint | None) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            del app
            services.hub.open()
            try:
                yield
            finally:
                services.hub.close()
                services.reader_pool.close()
                if otlp is not None:
                    otlp.close()

        super().__init__(
            title="otel-progress",
            version=VERSION,
            description=_DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            # Requests for progress do not belong to the traced work.
            telemetry={"tracing": False, "metrics": False, "logs": False},
            lifespan=lifespan,
            dependencies=[Depends(reject_unknown_parameters)],
        )
        self._services = services
        self.otlp = otlp

    def build_middleware_stack(self) -> ASGIApp:
        """Return the middleware stack with the security middleware around it."""
        return SecurityMiddleware(
            super().build_middleware_stack(),
            self._services.access,
            self._services.counts,
            _send_login_form,
            () if self.otlp is None else OTLP_PATHS,
        )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document. It is cached."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            schemas["Problem"] = dict(problems.SCHEMA)
            exported = build_model(ExportedDocument)
            schemas["Exported"] = exported.model_json_schema(ref_template="#/components/schemas/{model}")
            # The other documents define all of them.
            schemas["Exported"].pop("$defs", None)
            if self._services.settings.token is not None:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            self.openapi_schema = document
        return self.openapi_schema


async def _send_login_form(scope: Scope, receive: Receive, send: Send) -> None:
    await build_login_response(Request(scope))(scope, receive, send)
