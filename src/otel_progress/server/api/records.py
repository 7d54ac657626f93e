"""Endpoints for the events, log records and resource samples of an operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_event, encode_log, encode_sample
from otel_progress.model import Outcome
from otel_progress.operations import Event
from otel_progress.protocols import EventQuery, LogQuery, ResourceQuery
from otel_progress.records import LogRecord, ResourceSample
from otel_progress.server.api.parameters import MAX_NUMBER, Cursor, OperationId, PathBelow, Records, Since
from otel_progress.server.filters import SEVERITY_PATTERN, parse_severity, parse_since
from otel_progress.server.pagination import EVENTS, LOGS, SAMPLES, page_of_records
from otel_progress.server.state import AppStateDep


async def list_events(
    services: AppStateDep,
    operation_id: OperationId,
    outcome: Annotated[Outcome | None, Query(description="Only items with this outcome.")] = None,
    since: Since = None,
    path: PathBelow = None,
    limit: Records = 1_000,
    cursor: Cursor = None,
) -> Response:
    """List the item events of an operation: the newest ones, oldest first.

    `next` is the cursor of older events.
    """
    start = parse_since(since)

    def fetch(max_number: int | None, count: int) -> Sequence[Event]:
        return services.reader.events(operation_id, EventQuery(path, outcome, start, max_number, count))

    def read() -> Document:
        run = services.find(operation_id).run
        events, next_cursor = page_of_records(EVENTS, fetch, run, limit, cursor)
        return {"schema": SCHEMA, "events": [encode_event(event) for event in events], "next": next_cursor}

    return await services.answer(read)


async def list_logs(
    services: AppStateDep,
    operation_id: OperationId,
    since: Since = None,
    severity: Annotated[
        str | None,
        Query(
            description="Lowest severity: DEBUG, INFO, WARNING, ERROR, CRITICAL or a number.",
            json_schema_extra={"pattern": SEVERITY_PATTERN},
        ),
    ] = None,
    path: PathBelow = None,
    after: Annotated[
        int, Query(ge=0, le=MAX_NUMBER, description="Only records with a higher `number`, to follow a log.")
    ] = 0,
    limit: Records = 1_000,
    cursor: Cursor = None,
) -> Response:
    """List the log records of an operation: the newest ones, oldest first.

    `next` is the cursor of older records.
    """
    start, min_severity = parse_since(since), parse_severity(severity)

    def fetch(max_number: int | None, count: int) -> Sequence[LogRecord]:
        query = LogQuery(path, min_severity, start, after, max_number, count)
        return services.reader.logs(operation_id, query)

    def read() -> Document:
        run = services.find(operation_id).run
        records, next_cursor = page_of_records(LOGS, fetch, run, limit, cursor)
        return {"schema": SCHEMA, "logs": [encode_log(record) for record in records], "next": next_cursor}

    return await services.answer(read)


async def list_resources(
    services: AppStateDep,
    operation_id: OperationId,
    since: Since = None,
    limit: Records = 600,
    cursor: Cursor = None,
) -> Response:
    """List resource samples of an operation's process: the newest ones, oldest first.

    `next` is the cursor of older samples. Samples were made while the operation ran.
    """
    start = parse_since(since)

    def fetch(max_clock: float | None, count: int) -> Sequence[ResourceSample]:
        return services.reader.resources(operation_id, ResourceQuery(start, max_clock, count))

    def read() -> Document:
        run = services.find(operation_id).run
        samples, next_cursor = page_of_records(SAMPLES, fetch, run, limit, cursor)
        return {
            "schema": SCHEMA,
            "samples": [encode_sample(sample) for sample in samples],
            "next": next_cursor,
        }

    return await services.answer(read)
