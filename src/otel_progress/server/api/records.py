"""What is kept beside the levels of an operation: events, log records, samples of resource use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_event, encode_log, encode_sample
from otel_progress.model import Outcome
from otel_progress.operations import Event
from otel_progress.records import LogRecord, ResourceSample
from otel_progress.server.api.parameters import MAX_NUMBER, Cursor, OperationId, PathBelow, Records, Since
from otel_progress.server.filters import SEVERITY_PATTERN, severity_of, since_of
from otel_progress.server.pagination import EVENTS, LOGS, SAMPLES, page_of_records
from otel_progress.server.state import AppStateDep


async def list_events(
    services: AppStateDep,
    operation_id: OperationId,
    outcome: Annotated[Outcome | None, Query(description="Only items that ended so.")] = None,
    since: Since = None,
    level: PathBelow = None,
    limit: Records = 1_000,
    cursor: Cursor = None,
) -> Response:
    """List events of an operation: items with their outcome.

    The newest ones, oldest first; `next` leads to older ones.
    """
    start = since_of(since)

    def ask(upto: int | None, most: int) -> Sequence[Event]:
        return services.reader.events(
            operation_id, level=level or None, outcome=outcome, since=start, upto=upto, limit=most
        )

    def read() -> Document:
        run = services.find(operation_id).run
        events, following = page_of_records(EVENTS, ask, run, limit, cursor)
        return {"schema": SCHEMA, "events": [encode_event(event) for event in events], "next": following}

    return await services.answer(read)


async def list_logs(
    services: AppStateDep,
    operation_id: OperationId,
    since: Since = None,
    level: Annotated[
        str | None,
        Query(
            description="The least severity: DEBUG, INFO, WARNING, ERROR, CRITICAL or a number.",
            json_schema_extra={"pattern": SEVERITY_PATTERN},
        ),
    ] = None,
    path: PathBelow = None,
    after: Annotated[
        int, Query(ge=0, le=MAX_NUMBER, description="Only records with a higher `number`: to follow them.")
    ] = 0,
    limit: Records = 1_000,
    cursor: Cursor = None,
) -> Response:
    """List log records of an operation: the newest ones, oldest first; `next` leads to older ones."""
    start, severity = since_of(since), severity_of(level)

    def ask(upto: int | None, most: int) -> Sequence[LogRecord]:
        return services.reader.logs(
            operation_id,
            path=path or None,
            severity=severity,
            since=start,
            after=after,
            upto=upto,
            limit=most,
        )

    def read() -> Document:
        run = services.find(operation_id).run
        records, following = page_of_records(LOGS, ask, run, limit, cursor)
        return {"schema": SCHEMA, "logs": [encode_log(record) for record in records], "next": following}

    return await services.answer(read)


async def list_resources(
    services: AppStateDep,
    operation_id: OperationId,
    since: Since = None,
    limit: Records = 600,
    cursor: Cursor = None,
) -> Response:
    """List what the process of an operation used while it ran: the newest samples, oldest first; `next` leads to older ones."""
    start = since_of(since)

    def ask(upto: float | None, most: int) -> Sequence[ResourceSample]:
        return services.reader.resources(operation_id, since=start, upto=upto, limit=most)

    def read() -> Document:
        run = services.find(operation_id).run
        samples, following = page_of_records(SAMPLES, ask, run, limit, cursor)
        return {"schema": SCHEMA, "samples": [encode_sample(sample) for sample in samples], "next": following}

    return await services.answer(read)
