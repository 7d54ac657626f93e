"""What the endpoints work with, put together once an application."""

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
from otel_progress.server.counters import ServerCounters
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.reader_pool import ReaderPool
from otel_progress.server.settings import ServerSettings
from otel_progress.server.streams.hub import Hub


@dataclass(frozen=True, slots=True)
class AppState:
    """A reader and whatever belongs to it."""

    reader: Reader
    controller: Controller | None
    settings: ServerSettings
    counts: ServerCounters
    reader_pool: ReaderPool
    collector: ProgressCollector
    hub: Hub
    previews: Store | None = None

    async def answer(self, question: Callable[..., Any], /, *arguments: Any, **named: Any) -> Response:
        """Return what ``question(*arguments, **named)`` returns as JSON; asked and written in a thread, where it delays nobody."""
        body = await self.reader_pool.run(lambda: encode_json_line(question(*arguments, **named)).encode())
        return Response(body, media_type="application/json")

    def find(self, operation_id: str) -> OperationSnapshot:
        """Return the newest run of an id. Blocks; raises Problem (404) when there is none."""
        operation = self.reader.get(operation_id)
        if operation is None:
            raise Problem(
                404,
                f"There is no operation {quote_text(operation_id)!r}: it never ran here, or is no longer kept.",
            )
        return operation


def services_of(request: Request) -> AppState:
    """Return the services of the application that a request came to."""
    services: AppState = request.app.state.services
    return services


async def _services(request: Request) -> AppState:
    return services_of(request)


AppStateDep = Annotated[AppState, Depends(_services)]
"""The parameter of an endpoint that gets the services."""
