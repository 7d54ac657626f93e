"""Parameters that endpoints share, and the check for unknown parameters."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import Depends, Path, Query
from starlette.requests import Request

from otel_progress.server.filters import METADATA_PREFIX, SINCE_PATTERN
from otel_progress.server.problems import Problem, describe, quote_text

MAX_RECORDS: Final = 5_000
"""Maximum of events, log records or samples per response. A higher limit is rejected with 422."""


MAX_NUMBER: Final = 2**63 - 1
"""Largest accepted number of a record. A higher one is rejected with 422."""


_REPEATABLE: Final = frozenset({"status", "condition", "type", "metadata", "batch"})
"""Parameters that a query may contain several times, if the endpoint declares them as lists."""


async def decode_operation_id(
    operation_id: Annotated[
        str, Path(description="Id of the operation. Send `/` in it as `%2F`.", min_length=1)
    ],
) -> str:
    """Decode the operation id of a URL path.

    The middleware leaves ``/`` and ``%`` encoded.
    """
    return operation_id.replace("%2F", "/").replace("%25", "%")


async def decode_batch_id(
    batch_id: Annotated[str, Path(description="Id of the batch. Send `/` in it as `%2F`.", min_length=1)],
) -> str:
    """Decode the batch id of a URL path.

    The middleware leaves ``/`` and ``%`` encoded.
    """
    return batch_id.replace("%2F", "/").replace("%25", "%")


OperationId: TypeAlias = Annotated[str, Depends(decode_operation_id)]


BatchId: TypeAlias = Annotated[str, Depends(decode_batch_id)]


Since: TypeAlias = Annotated[
    str | None,
    Query(
        description="Earliest time: Unix seconds, an RFC 3339 time, or how long ago "
        "(`90s`, `15m`, `24h`, `7d`).",
        json_schema_extra={"pattern": SINCE_PATTERN},
    ),
]


PathBelow: TypeAlias = Annotated[
    str | None, Query(description="Only this level and its subtree: the `path` of the level.")
]


Records: TypeAlias = Annotated[
    int,
    Query(
        ge=1,
        le=MAX_RECORDS,
        description="Maximum number of entries, the newest ones. `next` is the cursor of older ones.",
    ),
]


Cursor: TypeAlias = Annotated[
    str | None, Query(description="`next` of the previous page. Omit it for the first page.")
]


async def reject_unknown_parameters(request: Request) -> None:
    """Raise Problem for a parameter that is unknown, or that a query contains twice.

    Why: if a misspelt filter were ignored, the response would contain too much.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return
    known = _collect_names(dependant)
    for name in request.query_params:
        if name.startswith(METADATA_PREFIX) and "metadata" in known:
            continue
        if name not in known:
            names = ", ".join(sorted(known)) or "no parameters"
            detail = f"Invalid parameter {quote_text(name)!r}: expected one of: {names}."
            raise Problem(422, detail, errors=[(f"query {quote_text(name)}", detail)])
        if name not in _REPEATABLE and len(request.query_params.getlist(name)) > 1:
            detail = f"Invalid parameter {name}: expected one value. Remove the other ones."
            raise Problem(422, detail, errors=[(f"query {name}", detail)])


def describe_common_problems(*, secured: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of all endpoints for the OpenAPI document."""
    found = {
        **describe(403, "The request comes from a page of another origin."),
        **describe(414, "The URL is too long."),
        **describe(421, "The Host header names another server."),
        **describe(422, "A parameter is invalid."),
        **describe(503, "The journal cannot be read, or not in time."),
    }
    return {**found, **describe(401, "The token is missing or wrong.")} if secured else found


def _collect_names(dependant: Any) -> set[str]:
    """Return the names of the query parameters of an endpoint and its dependencies."""
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_collect_names(below) for below in dependant.dependencies))
