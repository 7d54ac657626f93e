"""What the endpoints work with, put together once an application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.export import as_json
from otel_progress.exporters.prometheus import ProgressCollector
from otel_progress.operations import OperationSnapshot
from otel_progress.previews.stores import Store
from otel_progress.protocols import Controller, Reader
from otel_progress.server.asking import Asking
from otel_progress.server.counts import ServerCounts
from otel_progress.server.hub import Hub
from otel_progress.server.options import ServerSettings
from otel_progress.server.problems import Problem, shown


@dataclass(frozen=True, slots=True)
class Services:
    """A reader and whatever belongs to it."""

    reader: Reader
    controller: Controller | None
    settings: ServerSettings
    counts: ServerCounts
    asking: Asking
    collector: ProgressCollector
    hub: Hub
    previews: Store | None = None

    async def answer(self, question: Callable[..., Any], /, *arguments: Any, **named: Any) -> Response:
        """Return what ``question(*arguments, **named)`` returns as JSON; asked and written in a thread, where it delays nobody."""
        body = await self.asking.ask(lambda: as_json(question(*arguments, **named)).encode())
        return Response(body, media_type="application/json")

    def find(self, operation_id: str) -> OperationSnapshot:
        """Return the newest run of an id. Blocks; raises Problem (404) when there is none."""
        operation = self.reader.get(operation_id)
        if operation is None:
            raise Problem(404, f"There is no operation {shown(operation_id)!r}: it never ran here, or is no longer kept.")
        return operation


def services_of(request: Request) -> Services:
    """Return the services of the application that a request came to."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)


Served = Annotated[Services, Depends(_services)]
"""The parameter of an endpoint that gets the services."""
