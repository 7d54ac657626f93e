"""Table of the endpoints, the source of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from otel_progress.codec import BatchDocument, OperationDocument, OperationTreeDocument
from otel_progress.previews.media import SUFFIXES
from otel_progress.server.api import control, health, operations, previews, records
from otel_progress.server.api.batches import get_batch, list_batches, list_stages
from otel_progress.server.api.operations import export_operation, get_levels, get_operation, get_progress
from otel_progress.server.api.parameters import describe_common_problems
from otel_progress.server.problems import describe
from otel_progress.server.schemas import (
    BatchCancelAcceptedDocument,
    BatchClosedDocument,
    BatchesDocument,
    CancelAcceptedDocument,
    EventsDocument,
    FailedDocument,
    HealthDocument,
    LevelsDocument,
    LogsDocument,
    OperationsDocument,
    PreviewsDocument,
    ProgressDocument,
    SamplesDocument,
    StageCategoriesDocument,
    build_model,
)

Responses: TypeAlias = dict[int | str, dict[str, Any]]
"""Responses of a path by status, in the form of the OpenAPI document."""


_NO_OPERATION: Final = describe(404, "Unknown operation, or unknown path in it.")


_CONTROL: Final = {
    **describe(408, "The body was not sent in time."),
    **describe(409, "The status of the operation does not allow this."),
    **describe(413, "The body is too long."),
    **describe(501, "The server is read-only."),
}


_NOT_MODIFIED: Final[Responses] = {
    304: {"description": "Nothing has changed since the response with this ETag."}
}


_TAGGED: Final[Responses] = {200: {"headers": {"ETag": {"schema": {"type": "string"}}}}}


_TEXT: Final[dict[str, str]] = {"type": "string"}


_EXPORT: Final[Responses] = {
    200: {
        "description": "Successful Response",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Exported"}},
            "application/jsonl": {"schema": _TEXT},
            "text/csv": {"schema": _TEXT},
        },
    }
}


_PREVIEW: Final[Responses] = {
    200: {
        "description": "The content.",
        "content": {media_type.partition(";")[0]: {"schema": _TEXT} for media_type in SUFFIXES},
    },
    304: {"description": "The client has the content."},
    **describe(410, "The content was evicted, or the number belongs to another run."),
}


_METRICS: Final[Responses] = {
    200: {
        "description": "Successful Response",
        "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
    }
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and method with its function, document and further responses.

    ``model`` is a TypedDict or a union of TypedDicts.
    """

    path: str
    function: Callable[..., Any]
    tag: str
    model: Any = None
    method: str = "GET"
    status: int = 200
    responses: Responses = field(default_factory=dict)
    secured: bool = True


_V1: Final = "/api/v1"


_OPERATION: Final = f"{_V1}/operations/{{operation_id}}"


_BATCH: Final = f"{_V1}/batches/{{batch_id}}"


ENDPOINTS: Final = (
    Endpoint(f"{_V1}/operations", operations.list_operations, "operations", OperationsDocument),
    Endpoint(f"{_V1}/history", operations.list_history, "operations", OperationsDocument),
    Endpoint(
        _OPERATION,
        get_operation,
        "operations",
        OperationTreeDocument | OperationDocument,
        responses={**_NO_OPERATION, **_NOT_MODIFIED, **_TAGGED},
    ),
    Endpoint(f"{_OPERATION}/progress", get_progress, "operations", ProgressDocument, responses=_NO_OPERATION),
    Endpoint(f"{_OPERATION}/levels", get_levels, "operations", LevelsDocument, responses=_NO_OPERATION),
    Endpoint(
        f"{_OPERATION}/events", records.list_events, "operations", EventsDocument, responses=_NO_OPERATION
    ),
    Endpoint(f"{_OPERATION}/logs", records.list_logs, "operations", LogsDocument, responses=_NO_OPERATION),
    Endpoint(
        f"{_OPERATION}/resources",
        records.list_resources,
        "operations",
        SamplesDocument,
        responses=_NO_OPERATION,
    ),
    Endpoint(
        f"{_OPERATION}/previews",
        previews.list_previews,
        "operations",
        PreviewsDocument,
        responses=_NO_OPERATION,
    ),
    Endpoint(
        f"{_OPERATION}/previews/{{number}}",
        previews.get_preview,
        "operations",
        responses={**_NO_OPERATION, **_PREVIEW},
    ),
    Endpoint(f"{_OPERATION}/export", export_operation, "operations", responses={**_NO_OPERATION, **_EXPORT}),
    Endpoint(
        f"{_OPERATION}/cancel",
        control.cancel_operation,
        "control",
        CancelAcceptedDocument,
        method="POST",
        status=202,
        responses={**_NO_OPERATION, **_CONTROL, **describe(400, "The body is not JSON.")},
    ),
    Endpoint(
        f"{_OPERATION}/fail",
        control.fail_operation,
        "control",
        FailedDocument,
        method="POST",
        responses={**_NO_OPERATION, **_CONTROL, **describe(400, "The body is not JSON.")},
    ),
    Endpoint(
        _OPERATION,
        control.delete_operation,
        "control",
        method="DELETE",
        status=204,
        responses={**_NO_OPERATION, **_CONTROL},
    ),
    Endpoint(f"{_V1}/batches", list_batches, "batches", BatchesDocument),
    Endpoint(
        _BATCH,
        get_batch,
        "batches",
        BatchDocument,
        responses=describe(404, "Unknown batch."),
    ),
    Endpoint(
        f"{_BATCH}/cancel",
        control.cancel_batch,
        "control",
        BatchCancelAcceptedDocument,
        method="POST",
        status=202,
        responses={**describe(404, "Unknown batch."), **_CONTROL, **describe(400, "The body is not JSON.")},
    ),
    Endpoint(
        f"{_BATCH}/close",
        control.close_batch,
        "control",
        BatchClosedDocument,
        method="POST",
        responses={**describe(404, "Unknown batch."), **_CONTROL},
    ),
    Endpoint(
        _BATCH,
        control.delete_batch,
        "control",
        method="DELETE",
        status=204,
        responses={**describe(404, "Unknown batch."), **_CONTROL},
    ),
    Endpoint(f"{_V1}/stages", list_stages, "stages", StageCategoriesDocument),
    Endpoint("/metrics", health.metrics, "server", responses=_METRICS),
    Endpoint("/healthz", health.healthz, "server", HealthDocument, secured=False),
    Endpoint("/readyz", health.readyz, "server", HealthDocument),
)
"""Endpoints of the OpenAPI document."""


def add_endpoints(app: FastAPI) -> None:
    """Add all endpoints to an application."""
    for endpoint in ENDPOINTS:
        app.add_api_route(
            endpoint.path,
            endpoint.function,
            methods=[endpoint.method],
            name=endpoint.function.__name__,
            operation_id=endpoint.function.__name__,
            tags=[endpoint.tag],
            status_code=endpoint.status,
            response_model=build_model(endpoint.model),
            response_class=Response if endpoint.model is None else JSONResponse,
            responses={**describe_common_problems(secured=endpoint.secured), **endpoint.responses},
            openapi_extra=None if endpoint.secured else {"security": []},
        )
