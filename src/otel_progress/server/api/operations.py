"""Endpoints of operations: lists, history, levels and exports."""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus
from typing import Annotated, Final, Literal, get_type_hints
from urllib.parse import quote

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_levels, encode_operation
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
from otel_progress.server.schemas import ProgressDocument
from otel_progress.server.state import AppState, AppStateDep
from otel_progress.server.static import matches_etag

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
            description="With this metadata: `key` or `key=value`. All have to match. "
            "`metadata.KEY=VALUE` works as well."
        ),
    ] = [],  # noqa: B006
    q: Annotated[str, Query(max_length=200, description="With this text in id, name or message.")] = "",
    since: Since = None,
    sort: Annotated[
        Sort, Query(description="Sort order. `-` reverses it. Unknown values are last.")
    ] = "-started",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List operations without their levels: running and recently ended ones.

    `since` includes operations that were running at that time. Of ended operations the newest 2,000
    are searched. The history has all.
    """
    operation_filter = OperationFilter(
        frozenset(status),
        frozenset(condition),
        frozenset(type),
        frozenset(batch),
        parse_metadata(request.query_params, metadata),
        q,
        parse_since(since),
    )
    if cursor:
        # An invalid cursor is refused before the journal is read.
        read_cursor(cursor, sort)
    return await services.answer(_list_page, services, operation_filter, sort, limit, cursor or None)


async def list_history(
    services: AppStateDep,
    type: Annotated[str | None, Query(description="Of this type.")] = None,
    since: Since = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List ended operations without their levels. The last ended one is first."""
    position = read_cursor(cursor, "-ended") if cursor else None
    return await services.answer(_read_history, services, type, parse_since(since), limit, position)


def _list_page(
    services: AppState, operation_filter: OperationFilter, sort: str, limit: int, cursor: str | None
) -> Document:
    page, next_cursor = paginate(_read_matching(services, operation_filter), sort, limit, cursor)
    return _encode_page(page, next_cursor)


def _read_matching(services: AppState, operation_filter: OperationFilter) -> list[OperationSnapshot]:
    """Return the matching operations.

    A run that ends between the two queries is included once.
    """
    reader = services.reader
    by_run: dict[str, OperationSnapshot] = {}
    if operation_filter.can_match_active:
        by_run.update((operation.run, operation) for operation in reader.active(levels=False))
    if operation_filter.can_match_ended:
        types = operation_filter.types
        only_type = next(iter(types)) if len(types) == 1 else None
        ended = reader.history(
            HistoryQuery(only_type, services.settings.limits.ended, since=operation_filter.since)
        )
        by_run.update((operation.run, operation) for operation in ended)
    return [operation for operation in by_run.values() if operation_filter.matches(operation)]


def _read_history(
    services: AppState, type_: str | None, since: float | None, limit: int, position: PageCursor | None
) -> Document:
    before = None if position is None or position.value is None else (float(position.value), position.run)
    operations = services.reader.history(HistoryQuery(type_, limit + 1, before, since))
    page = list(operations[:limit])
    if len(operations) <= limit:
        return _encode_page(page, None)
    return _encode_page(page, write_cursor(PageCursor(page[-1].root.ended_at, page[-1].run), "-ended"))


def _encode_page(page: list[OperationSnapshot], next_cursor: str | None) -> Document:
    return {
        "schema": SCHEMA,
        "operations": [encode_operation(operation, levels=False) for operation in page],
        "next": next_cursor,
    }


EXPORT_TYPES: Final = {"json": "application/json", "jsonl": "application/jsonl", "csv": "text/csv"}


_MAX_EXPORTED_EVENTS: Final = 100_000


_MAX_DEPTH: Final = 1_000


_PROGRESS_FIELDS: Final = tuple(name for name in get_type_hints(ProgressDocument) if name != "schema")


async def get_operation(
    request: Request,
    services: AppStateDep,
    operation_id: OperationId,
    levels: Annotated[bool, Query(description="Whether to include the levels.")] = True,
) -> Response:
    """Return the newest run of an operation with its tree of levels.

    The response has an ETag for If-None-Match. It does not change when only time passes.
    """
    cached_tags = request.headers.get("if-none-match")

    def read() -> tuple[str, bytes | None]:
        operation = services.find(operation_id)
        tag = _build_etag(operation, levels)
        if matches_etag(cached_tags, tag):
            return tag, None
        return tag, encode_json_line(encode_operation(operation, levels=levels)).encode()

    tag, body = await services.reader_pool.run(read)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if body is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


async def get_progress(services: AppStateDep, operation_id: OperationId) -> Response:
    """Return the main figures of an operation: a small document for frequent polls."""
    return await services.answer(_read_progress, services, operation_id)


async def get_levels(
    services: AppStateDep,
    operation_id: OperationId,
    path: Annotated[str, Query(description="Path of the top level. Empty for the operation itself.")] = "",
    depth: Annotated[
        int, Query(ge=0, le=_MAX_DEPTH, description="Levels below the top level: 0 for the top level alone.")
    ] = _MAX_DEPTH,
) -> Response:
    """Return a level and the stored levels below it, parents before children."""
    return await services.answer(_read_levels, services, operation_id, path, depth)


async def export_operation(
    services: AppStateDep,
    operation_id: OperationId,
    format: Annotated[
        Literal["json", "jsonl", "csv"],
        Query(
            description="`json`: one document with levels and events. `jsonl`: one line per level and event. "
            "`csv`: one row per level."
        ),
    ] = "json",
) -> Response:
    """Return an operation with its levels and events as a file."""

    def read() -> bytes:
        operation = services.find(operation_id)
        query = EventQuery(limit=_MAX_EXPORTED_EVENTS)
        events = () if format == "csv" else services.reader.events(operation_id, query)
        return "".join(f"{line}\n" for line in EXPORTERS[format](operation, events)).encode()

    body = await services.reader_pool.run(read)
    headers = {"Content-Disposition": _build_attachment_header(operation_id, format)}
    return Response(body, headers=headers, media_type=EXPORT_TYPES[format])


def _build_etag(operation: OperationSnapshot, levels: bool) -> str:
    """Return a weak ETag.

    It includes the condition, but not figures that only depend on time.
    """
    resources = operation.resources
    parts = (
        operation.run,
        operation.root.sequence,
        operation.status.value,
        operation.condition.value,
        operation.alive,
        operation.cancel_requested_at,
        operation.not_reporting_since,
        None if resources is None else resources.samples,
        len(operation.levels) if levels else -1,
    )
    return f'W/"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


def _read_progress(services: AppState, operation_id: str) -> Document:
    document = encode_operation(services.find(operation_id), levels=False)
    return {"schema": SCHEMA, **{name: document[name] for name in _PROGRESS_FIELDS}}


def _read_levels(services: AppState, operation_id: str, path: str, depth: int) -> Document:
    operation = services.find(operation_id)
    top = operation.get_level(path)
    if top is None:
        raise Problem(
            404,
            f"Unknown level {quote_text(path)!r}: the operation never had it, or it was evicted.",
        )
    max_depth = top.info.depth + depth
    below = [
        level
        for level in operation.levels
        if level is not top
        and level.info.depth <= max_depth
        and (not path or level.path.startswith(f"{path}/"))
    ]
    return {
        "schema": SCHEMA,
        "levels": encode_levels(operation, (top, *below)),
        "next": None,
    }


def _build_attachment_header(operation_id: str, suffix: str) -> str:
    """Return a Content-Disposition with a portable and an exact file name."""
    portable = re.sub(r"[^A-Za-z0-9._-]+", "_", operation_id)[:100].strip("._-") or "operation"
    exact = quote(f"{operation_id[:100]}.{suffix}", safe="", errors="replace")
    return f"attachment; filename=\"{portable}.{suffix}\"; filename*=UTF-8''{exact}"
