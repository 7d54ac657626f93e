"""Endpoints of batches, and of the stages of each category of work."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from otel_progress.codec import SCHEMA, Document, encode_batch
from otel_progress.server.api.parameters import BatchId, Cursor
from otel_progress.server.pagination import MAX_PAGE, PAGE, page_of_batches
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.state import AppState, AppStateDep
from otel_progress.stages import Stages


async def list_batches(
    services: AppStateDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Length of a page.")] = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List batches without their operations: running ones first, then newest first."""

    def read() -> Document:
        batches, next_cursor = page_of_batches(services.reader, limit, cursor)
        return {
            "schema": SCHEMA,
            "batches": [encode_batch(batch, operations=False) for batch in batches],
            "next": next_cursor,
        }

    return await services.answer(read)


async def get_batch(services: AppStateDep, batch_id: BatchId) -> Response:
    """Return a batch with its active and failed operations."""
    return await services.answer(_read_batch, services, batch_id)


async def list_stages(services: AppStateDep) -> Response:
    """List the stages of every category, built-in and registered ones."""
    return await services.answer(_read_stages)


def _read_batch(services: AppState, batch_id: str) -> Document:
    batch = services.reader.batch(batch_id)
    if batch is None:
        raise Problem(
            404,
            f"Unknown batch {quote_text(batch_id)!r}: it was never declared here, or it has expired.",
        )
    return encode_batch(batch)


def _read_stages() -> Document:
    categories = [
        {
            "category": category,
            "stages": [
                {"name": stage.name, "weight": stage.weight, "start": stage.start}
                for stage in Stages.named(category)
            ],
        }
        for category in Stages.categories()
    ]
    return {"schema": SCHEMA, "stages": categories, "next": None}
