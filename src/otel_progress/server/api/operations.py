"""Lists of operations: all of them, filtered and in any order, and the history of those that ended."""

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
from otel_progress.exports import EXPORTERS, encode_json_line
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.protocols import EventQuery, HistoryQuery
from otel_progress.server.api.parameters import Cursor, OperationId, Since
from otel_progress.server.filters import OperationFilter, parse_metadata, parse_since
from otel_progress.server.pagination import (
    MAX_PAGE,
    PAGE,
    PageCursor,
    Sort,
    paginate,
    read_cursor,
    write_cursor,
)
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.state import AppState, AppStateDep
from otel_progress.server.static import matches

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Length of a page.")]


async def list_operations(
    request: Request,
    services: AppStateDep,
    status: Annotated[list[Status], Query(description="In any of these statuses.")] = [],  # noqa: B006 - FastAPI copies it
    condition: Annotated[list[Condition], Query(description="In any of these conditions.")] = [],  # noqa: B006
    type: Annotated[list[str], Query(description="Of any of these types.")] = [],  # noqa: B006
    batch: Annotated[list[str], Query(description="In any of these batches.")] = [],  # noqa: B006
    metadata: Annotated[
        list[str],
        Query(
            description="With this metadata: `key`, or `key=value`. `metadata.KEY=VALUE` is understood as well. All have to hold."
        ),
    ] = [],  # noqa: B006
    q: Annotated[str, Query(max_length=200, description="With this text in id, name or message.")] = "",
    since: Since = None,
    sort: Annotated[
        Sort, Query(description="The order; `-` turns it round. What is unknown comes last.")
    ] = "-started",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List operations, without their levels: those under way, and those that ended of late.

    `since` takes in what was still under way then. Of ended operations the newest 2,000 are looked at; the history has them all.
    """
    wanted = OperationFilter(
        frozenset(status),
        frozenset(condition),
        frozenset(type),
        frozenset(batch),
        parse_metadata(request.query_params, metadata),
        q,
        parse_since(since),
    )
    if cursor:
        read_cursor(cursor, sort)  # refused before anything is read
    return await services.answer(_list, services, wanted, sort, limit, cursor or None)


async def list_history(
    services: AppStateDep,
    type: Annotated[str | None, Query(description="Of this type.")] = None,
    since: Since = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List operations that have ended, the last one first, without their levels."""
    place = read_cursor(cursor, "-ended") if cursor else None
    return await services.answer(_history, services, type, parse_since(since), limit, place)


def _list(services: AppState, wanted: OperationFilter, sort: str, limit: int, cursor: str | None) -> Document:
    page, following = paginate(_matching(services, wanted), sort, limit, cursor)
    return _document(page, following)


def _matching(services: AppState, wanted: OperationFilter) -> list[OperationSnapshot]:
    """Return the operations that are wanted, each run once, also when it ended between the two questions."""
    reader = services.reader
    by_run: dict[str, OperationSnapshot] = {}
    if wanted.can_match_active:
        by_run.update((operation.run, operation) for operation in reader.active(levels=False))
    if wanted.can_match_ended:
        only = next(iter(wanted.types)) if len(wanted.types) == 1 else None
        ended = reader.history(HistoryQuery(only, services.settings.limits.ended, since=wanted.since))
        by_run.update((operation.run, operation) for operation in ended)
    return [operation for operation in by_run.values() if wanted.matches(operation)]


def _history(
    services: AppState, type_: str | None, since: float | None, limit: int, place: PageCursor | None
) -> Document:
    before = None if place is None or place.value is None else (float(place.value), place.run)
    found = services.reader.history(HistoryQuery(type_, limit + 1, before, since))
    page = list(found[:limit])
    if len(found) <= limit:
        return _document(page, None)
    return _document(page, write_cursor(PageCursor(page[-1].root.ended_at, page[-1].run), "-ended"))


def _document(page: list[OperationSnapshot], following: str | None) -> Document:
    return {
        "schema": SCHEMA,
        "operations": [encode_operation(operation, levels=False) for operation in page],
        "next": following,
    }


EXPORT_TYPES: Final = {"json": "application/json", "jsonl": "application/jsonl", "csv": "text/csv"}


_MOST_EVENTS: Final = 100_000


_MAX_DEPTH: Final = 1_000


_PROGRESS: Final = (
    "operation_id", "run", "sequence", "status", "condition", "percentage", "ratio", "current", "total", "failed", "unit", "message",
    "stage", "elapsed_seconds", "remaining_seconds", "estimated", "clock", "eta",
)  # fmt: skip


async def get_operation(
    request: Request,
    services: AppStateDep,
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
        return tag, encode_json_line(encode_operation(operation, levels=levels)).encode()

    tag, body = await services.reader_pool.run(read)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if body is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


async def get_progress(services: AppStateDep, operation_id: OperationId) -> Response:
    """Return an operation in a few figures: small, to be asked often."""
    return await services.answer(_progress, services, operation_id)


async def get_levels(
    services: AppStateDep,
    operation_id: OperationId,
    path: Annotated[
        str, Query(description="Path of the level to begin with; empty for the operation itself.")
    ] = "",
    depth: Annotated[
        int, Query(ge=0, le=_MAX_DEPTH, description="How many steps below it: 0 for the level alone.")
    ] = _MAX_DEPTH,
) -> Response:
    """Return a level and the levels kept below it, parents before children."""
    return await services.answer(_levels, services, operation_id, path, depth)


async def export_operation(
    services: AppStateDep,
    operation_id: OperationId,
    format: Annotated[
        Literal["json", "jsonl", "csv"],
        Query(
            description="`json`: one document with levels and events; `jsonl`: a line for each; `csv`: a row for each level."
        ),
    ] = "json",
) -> Response:
    """Return an operation with its levels and events as a file."""

    def read() -> bytes:
        operation = services.find(operation_id)
        events = (
            () if format == "csv" else services.reader.events(operation_id, EventQuery(limit=_MOST_EVENTS))
        )
        return "".join(f"{line}\n" for line in EXPORTERS[format](operation, events)).encode()

    body = await services.reader_pool.run(read)
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


def _progress(services: AppState, operation_id: str) -> Document:
    document = encode_operation(services.find(operation_id), levels=False)
    return {"schema": SCHEMA, **{name: document[name] for name in _PROGRESS}}


def _levels(services: AppState, operation_id: str, path: str, depth: int) -> Document:
    operation = services.find(operation_id)
    top = operation.get_level(path)
    if top is None:
        raise Problem(
            404,
            f"The operation has no level {quote_text(path)!r}: it never had, or the level is no longer kept.",
        )
    deepest = top.info.depth + depth
    below = [
        level
        for level in operation.levels
        if level is not top
        and level.info.depth <= deepest
        and (not path or level.path.startswith(f"{path}/"))
    ]
    return {
        "schema": SCHEMA,
        "levels": [encode_level(level, operation.clock) for level in (top, *below)],
        "next": None,
    }


def _attachment(operation_id: str, suffix: str) -> str:
    """Return a Content-Disposition with a name every file system takes, and the true one for those who take it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", operation_id)[:100].strip("._-") or "operation"
    true = quote(f"{operation_id[:100]}.{suffix}", safe="", errors="replace")
    return f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{true}"
