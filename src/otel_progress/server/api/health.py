"""How the server itself is: alive, ready, and its figures for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from otel_progress.metrics.exposition import render_exposition
from otel_progress.protocols import HistoryQuery
from otel_progress.server.state import AppStateDep


async def healthz() -> Response:
    """Say that the server is alive. Asks nobody, and needs no token."""
    return JSONResponse({"status": "ok"})


async def readyz(services: AppStateDep) -> Response:
    """Say whether the journal can be read."""
    await services.asking.run(services.reader.history, HistoryQuery(limit=1))
    return JSONResponse({"status": "ok"})


async def metrics(request: Request, services: AppStateDep) -> Response:
    """Return operations, batches and the server's own counts for Prometheus, as text or OpenMetrics by Accept."""
    body, media_type = await services.asking.run(
        render_exposition, services.collector, request.headers.get("accept", "")
    )
    return Response(body, headers={"Content-Type": media_type})
