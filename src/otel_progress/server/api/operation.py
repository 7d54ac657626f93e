"""One operation: its tree, its few figures, its levels, and all of it for other programs."""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus
from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_level, encode_operation
from otel_progress.export import EXPORTERS, as_json
from otel_progress.operations import OperationSnapshot
from otel_progress.server.api.parameters import OperationId
from otel_progress.server.problems import Problem, shown
from otel_progress.server.services import Served, Services
from otel_progress.server.static import matches

EXPORT_TYPES: Final = {"json": "application/json", "jsonl": "application/jsonl", "csv": "text/csv"}
_MOST_EVENTS: Final = 100_000
_MAX_DEPTH: Final = 1_000
_PROGRESS: Final = (
    "operation_id", "run", "sequence", "status", "condition", "percentage", "ratio", "current", "total", "failed", "unit", "message",
    "stage", "elapsed_seconds", "remaining_seconds", "estimated", "clock", "eta",
)  # fmt: skip


async def get_operation(
    request: Request,
    services: Served,
    operation_id: OperationId,
    levels: Annotated[bool, Query(description="Whether the levels come along.")] = True,
) -> Response:
    """Return the newest run of an operation with its tree of levels.

    It has an ETag, which stays the same while nothing happens but the passing of time: ask with If-None-Match.
    """
    known = request.headers.get("if-none-match")

    def read() -> tuple[str, bytes | None]:
        operation = services.find(operation_id)
        tag = _tag(operation, levels)
        if matches(known, tag):
            return tag, None
        return tag, as_json(encode_operation(operation, levels=levels)).encode()

    tag, body = await services.asking.ask(read)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if body is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


async def get_progress(services: Served, operation_id: OperationId) -> Response:
    """Return an operation in a few figures: small, to be asked often."""
    return await services.answer(_progress, services, operation_id)


async def get_levels(
    services: Served,
    operation_id: OperationId,
    path: Annotated[str, Query(description="Path of the level to begin with; empty for the operation itself.")] = "",
    depth: Annotated[int, Query(ge=0, le=_MAX_DEPTH, description="How many steps below it: 0 for the level alone.")] = _MAX_DEPTH,
) -> Response:
    """Return a level and the levels kept below it, parents before children."""
    return await services.answer(_levels, services, operation_id, path, depth)


async def export_operation(
    services: Served,
    operation_id: OperationId,
    format: Annotated[
        Literal["json", "jsonl", "csv"],
        Query(description="`json`: one document with levels and events; `jsonl`: a line for each; `csv`: a row for each level."),
    ] = "json",
) -> Response:
    """Return an operation with its levels and events as a file."""

    def read() -> bytes:
        operation = services.find(operation_id)
        events = () if format == "csv" else services.reader.events(operation_id, limit=_MOST_EVENTS)
        return "".join(f"{line}\n" for line in EXPORTERS[format](operation, events)).encode()

    body = await services.asking.ask(read)
    headers = {"Content-Disposition": _attachment(operation_id, format)}
    return Response(body, headers=headers, media_type=EXPORT_TYPES[format])


def _tag(operation: OperationSnapshot, levels: bool) -> str:
    """Return a weak ETag: what is derived from the time alone (elapsed, remaining) is left out, the condition is not."""
    resources = operation.resources
    parts = (
        operation.run,
        operation.root.sequence,
        operation.status.value,
        operation.condition.value,
        operation.alive,
        operation.cancel_requested_at,
        None if resources is None else resources.samples,
        len(operation.levels) if levels else -1,
    )
    return f'W/"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


def _progress(services: Services, operation_id: str) -> Document:
    document = encode_operation(services.find(operation_id), levels=False)
    return {"schema": SCHEMA, **{name: document[name] for name in _PROGRESS}}


def _levels(services: Services, operation_id: str, path: str, depth: int) -> Document:
    operation = services.find(operation_id)
    top = operation.get_level(path)
    if top is None:
        raise Problem(404, f"The operation has no level {shown(path)!r}: it never had, or the level is no longer kept.")
    deepest = top.info.depth + depth
    below = [
        level
        for level in operation.levels
        if level is not top and level.info.depth <= deepest and (not path or level.path.startswith(f"{path}/"))
    ]
    return {"schema": SCHEMA, "levels": [encode_level(level, operation.clock) for level in (top, *below)], "next": None}


def _attachment(operation_id: str, suffix: str) -> str:
    """Return a Content-Disposition with a name every file system takes, and the true one for those who take it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", operation_id)[:100].strip("._-") or "operation"
    true = quote(f"{operation_id[:100]}.{suffix}", safe="", errors="replace")
    return f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{true}"
