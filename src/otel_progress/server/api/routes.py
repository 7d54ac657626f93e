"""Which function answers at which path, and what it may answer: the table the application and its OpenAPI document are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from otel_progress.previews.media import SUFFIXES
from otel_progress.server.api import control, health, operations, previews, records
from otel_progress.server.api.batches import get_batch, list_batches, list_stages
from otel_progress.server.api.operations import export_operation, get_levels, get_operation, get_progress
from otel_progress.server.api.parameters import describe_common_problems
from otel_progress.server.problems import describe
from otel_progress.server.schemas import (
    Batch,
    Batches,
    CancelAccepted,
    Events,
    Health,
    Levels,
    Logs,
    Operation,
    Operations,
    OperationTree,
    Previews,
    Progress,
    Samples,
    StageCategories,
)

Answers: TypeAlias = "dict[int | str, dict[str, Any]]"
"""What a path may answer, by status, as the OpenAPI document tells it."""


_NO_OPERATION: Final = describe(404, "There is no such operation, or nothing at that place in it.")


_CONTROL: Final = {
    **describe(408, "The body came too slowly."),
    **describe(409, "The operation is not in a state for that."),
    **describe(413, "The body is too long."),
    **describe(501, "The server only reads."),
}


_NOT_MODIFIED: Final[Answers] = {304: {"description": "Nothing happened since the answer with this ETag."}}


_TAGGED: Final[Answers] = {200: {"headers": {"ETag": {"schema": {"type": "string"}}}}}


_TEXT: Final[dict[str, str]] = {"type": "string"}


_EXPORT: Final[Answers] = {
    200: {
        "description": "Successful Response",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Exported"}},
            "application/jsonl": {"schema": _TEXT},
            "text/csv": {"schema": _TEXT},
        },
    }
}


_PREVIEW: Final[Answers] = {
    200: {
        "description": "The content.",
        "content": {media_type.partition(";")[0]: {"schema": _TEXT} for media_type in SUFFIXES},
    },
    304: {"description": "The client has it."},
    **describe(410, "The content is no longer kept, or the number is of another run now."),
}


_METRICS: Final[Answers] = {
    200: {
        "description": "Successful Response",
        "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
    }
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and method: its function, the document it answers with, and further answers it may give."""

    path: str
    function: Callable[..., Any]
    tag: str
    model: Any = None  # a document's class, or a union of them
    method: str = "GET"
    status: int = 200
    answers: Answers = field(default_factory=dict)
    secured: bool = True


_V1: Final = "/api/v1"


_ONE: Final = f"{_V1}/operations/{{operation_id}}"


ENDPOINTS: Final = (
    Endpoint(f"{_V1}/operations", operations.list_operations, "operations", Operations),
    Endpoint(f"{_V1}/history", operations.list_history, "operations", Operations),
    Endpoint(
        _ONE,
        get_operation,
        "operations",
        OperationTree | Operation,
        answers={**_NO_OPERATION, **_NOT_MODIFIED, **_TAGGED},
    ),
    Endpoint(f"{_ONE}/progress", get_progress, "operations", Progress, answers=_NO_OPERATION),
    Endpoint(f"{_ONE}/levels", get_levels, "operations", Levels, answers=_NO_OPERATION),
    Endpoint(f"{_ONE}/events", records.list_events, "operations", Events, answers=_NO_OPERATION),
    Endpoint(f"{_ONE}/logs", records.list_logs, "operations", Logs, answers=_NO_OPERATION),
    Endpoint(f"{_ONE}/resources", records.list_resources, "operations", Samples, answers=_NO_OPERATION),
    Endpoint(f"{_ONE}/previews", previews.list_previews, "operations", Previews, answers=_NO_OPERATION),
    Endpoint(
        f"{_ONE}/previews/{{number}}",
        previews.get_preview,
        "operations",
        answers={**_NO_OPERATION, **_PREVIEW},
    ),
    Endpoint(f"{_ONE}/export", export_operation, "operations", answers={**_NO_OPERATION, **_EXPORT}),
    Endpoint(
        f"{_ONE}/cancel",
        control.cancel_operation,
        "control",
        CancelAccepted,
        method="POST",
        status=202,
        answers={**_NO_OPERATION, **_CONTROL, **describe(400, "The body is no JSON.")},
    ),
    Endpoint(
        _ONE,
        control.delete_operation,
        "control",
        method="DELETE",
        status=204,
        answers={**_NO_OPERATION, **_CONTROL},
    ),
    Endpoint(f"{_V1}/batches", list_batches, "batches", Batches),
    Endpoint(
        f"{_V1}/batches/{{batch_id}}",
        get_batch,
        "batches",
        Batch,
        answers=describe(404, "There is no such batch."),
    ),
    Endpoint(f"{_V1}/stages", list_stages, "stages", StageCategories),
    Endpoint("/metrics", health.metrics, "server", answers=_METRICS),
    Endpoint("/healthz", health.healthz, "server", Health, secured=False),
    Endpoint("/readyz", health.readyz, "server", Health),
)
"""All endpoints of the OpenAPI document."""


def add_endpoints(app: FastAPI) -> None:
    """Add all endpoints to an application, whose state has the services."""
    for one in ENDPOINTS:
        app.add_api_route(
            one.path,
            one.function,
            methods=[one.method],
            name=one.function.__name__,
            operation_id=one.function.__name__,
            tags=[one.tag],
            status_code=one.status,
            response_model=one.model,
            response_class=Response if one.model is None else JSONResponse,
            responses={**describe_common_problems(secured=one.secured), **one.answers},
            openapi_extra=None if one.secured else {"security": []},
        )
