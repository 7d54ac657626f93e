"""Lists of operations: all of them, filtered and in any order, and the history of those that ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_operation
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.server.api.parameters import Cursor, Since
from otel_progress.server.filters import OperationFilter, metadata_of, since_of
from otel_progress.server.paging import MAX_PAGE, PAGE, Place, Sort, page_of, read_cursor, write_cursor
from otel_progress.server.services import Served, Services

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Length of a page.")]


async def list_operations(
    request: Request,
    services: Served,
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
    sort: Annotated[Sort, Query(description="The order; `-` turns it round. What is unknown comes last.")] = "-started",
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
        metadata_of(request.query_params, metadata),
        q,
        since_of(since),
    )
    if cursor:
        read_cursor(cursor, sort)  # refused before anything is read
    return await services.answer(_list, services, wanted, sort, limit, cursor or None)


async def list_history(
    services: Served,
    type: Annotated[str | None, Query(description="Of this type.")] = None,
    since: Since = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List operations that have ended, the last one first, without their levels."""
    place = read_cursor(cursor, "-ended") if cursor else None
    return await services.answer(_history, services, type, since_of(since), limit, place)


def _list(services: Services, wanted: OperationFilter, sort: str, limit: int, cursor: str | None) -> Document:
    page, following = page_of(_matching(services, wanted), sort, limit, cursor)
    return _document(page, following)


def _matching(services: Services, wanted: OperationFilter) -> list[OperationSnapshot]:
    """Return the operations that are wanted, each run once, also when it ended between the two questions."""
    reader = services.reader
    by_run: dict[str, OperationSnapshot] = {}
    if wanted.wants_active:
        by_run.update((operation.run, operation) for operation in reader.active(levels=False))
    if wanted.wants_ended:
        only = next(iter(wanted.types)) if len(wanted.types) == 1 else None
        ended = reader.history(only, services.settings.limits.ended, since=wanted.since)
        by_run.update((operation.run, operation) for operation in ended)
    return [operation for operation in by_run.values() if wanted.takes(operation)]


def _history(services: Services, type_: str | None, since: float | None, limit: int, place: Place | None) -> Document:
    before = None if place is None or place.value is None else (float(place.value), place.run)
    found = services.reader.history(type_, limit + 1, before=before, since=since)
    page = list(found[:limit])
    if len(found) <= limit:
        return _document(page, None)
    return _document(page, write_cursor(Place(page[-1].root.ended_at, page[-1].run), "-ended"))


def _document(page: list[OperationSnapshot], following: str | None) -> Document:
    return {
        "schema": SCHEMA,
        "operations": [encode_operation(operation, levels=False) for operation in page],
        "next": following,
    }
