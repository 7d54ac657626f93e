"""State of an application: the reader and the services that the endpoints use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.exports import encode_json_line
from otel_progress.metrics.collector import ProgressCollector
from otel_progress.operations import OperationSnapshot
from otel_progress.previews.stores.base import Store
from otel_progress.protocols import Controller, Reader
from otel_progress.server.access import AccessControl
from otel_progress.server.counters import ServerCounters
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.reader_pool import ReaderPool
from otel_progress.server.settings import ServerSettings
from otel_progress.server.streams.hub import Hub


@dataclass(frozen=True, slots=True)
class AppState:
    """Reader, controller and services of one application."""

    reader: Reader
    controller: Controller | None
    settings: ServerSettings
    access: AccessControl
    counts: ServerCounters
    reader_pool: ReaderPool
    collector: ProgressCollector
    hub: Hub
    previews: Store | None = None

    async def answer(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Response:
        """Return the result of ``function`` as a JSON response.

        A thread calls it and encodes its result.
        """
        body = await self.reader_pool.run(lambda: encode_json_line(function(*arguments, **named)).encode())
        return Response(body, media_type="application/json")

    def find(self, operation_id: str) -> OperationSnapshot:
        """Return the newest run of an id. Blocks. Raises Problem (404) for an unknown id."""
        operation = self.reader.get(operation_id)
        if operation is None:
            raise Problem(
                404,
                f"Unknown operation {quote_text(operation_id)!r}: it never ran here, or it was deleted.",
            )
        return operation


def get_app_state(request: Request) -> AppState:
    """Return the state of the application that received a request."""
    services: AppState = request.app.state.services
    return services


async def _get_app_state(request: Request) -> AppState:
    return get_app_state(request)


AppStateDep = Annotated[AppState, Depends(_get_app_state)]
"""Parameter of an endpoint that receives the state of the application."""
