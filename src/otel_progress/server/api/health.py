"""Health checks of the server, and its metrics for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from otel_progress.metrics.exposition import render_exposition
from otel_progress.protocols import HistoryQuery
from otel_progress.server.state import AppStateDep


async def healthz() -> Response:
    """Return 200 while the server runs. Reads no journal, and needs no token."""
    return JSONResponse({"status": "ok"})


async def readyz(services: AppStateDep) -> Response:
    """Return 200 when the journal can be read."""
    await services.reader_pool.run(services.reader.history, HistoryQuery(limit=1))
    return JSONResponse({"status": "ok"})


async def metrics(request: Request, services: AppStateDep) -> Response:
    """Return the metrics for Prometheus: operations, batches and the server.

    Accept selects the format.
    """
    body, media_type = await services.reader_pool.run(
        render_exposition, services.collector, request.headers.get("accept", "")
    )
    return Response(body, headers={"Content-Type": media_type})
