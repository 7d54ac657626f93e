"""Parameters that several endpoints take, and what is answered when one is not known."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from fastapi import Depends, Path, Query
from starlette.requests import Request

from otel_progress.server.filters import METADATA_PREFIX, SINCE_PATTERN
from otel_progress.server.problems import Problem, describe, quote_text

MAX_RECORDS: Final = 5_000
"""Most events, log records or samples in one answer."""


MAX_NUMBER: Final = 2**63 - 1
"""Largest number of a record."""


_MANY: Final = frozenset({"status", "condition", "type", "metadata", "batch"})
"""Parameters that may be given several times, where an endpoint has them as lists."""


async def operation_id_of(
    operation_id: Annotated[
        str, Path(description="Id of the operation; `/` in it is sent as `%2F`.", min_length=1)
    ],
) -> str:
    """Return the id in a path as the caller chose it: the guard leaves ``/`` and ``%`` encoded."""
    return operation_id.replace("%2F", "/").replace("%25", "%")


async def batch_id_of(
    batch_id: Annotated[str, Path(description="Id of the batch; `/` in it is sent as `%2F`.", min_length=1)],
) -> str:
    """Return the id of a batch in a path as the caller chose it."""
    return batch_id.replace("%2F", "/").replace("%25", "%")


OperationId: TypeAlias = Annotated[str, Depends(operation_id_of)]


BatchId: TypeAlias = Annotated[str, Depends(batch_id_of)]


Since: TypeAlias = Annotated[
    str | None,
    Query(
        description="Only what is not older: Unix seconds, an RFC 3339 time, or how long ago (`90s`, `15m`, `24h`, `7d`).",
        json_schema_extra={"pattern": SINCE_PATTERN},
    ),
]


PathBelow: TypeAlias = Annotated[
    str | None, Query(description="Only this level and what is below it: its `path`.")
]


Records: TypeAlias = Annotated[
    int,
    Query(
        ge=1,
        le=MAX_RECORDS,
        description="At most so many: the newest ones. `next` leads to those before them.",
    ),
]


Cursor: TypeAlias = Annotated[
    str | None, Query(description="`next` of the page before. Leave it out for the first page.")
]


async def only_known_parameters(request: Request) -> None:
    """Refuse a parameter that the endpoint does not have, or that is there twice: ignoring a misspelt filter would show too much."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return
    known = _names(dependant)
    for name in request.query_params:
        if name.startswith(METADATA_PREFIX) and "metadata" in known:
            continue
        if name not in known:
            detail = f"There is no parameter {quote_text(name)!r} here. There are: {', '.join(sorted(known)) or 'none'}."
            raise Problem(422, detail, errors=[(f"query {quote_text(name)}", detail)])
        if name not in _MANY and len(request.query_params.getlist(name)) > 1:
            detail = f"The parameter {name} is there more than once. Give it one value."
            raise Problem(422, detail, errors=[(f"query {name}", detail)])


def common_problems(*, secured: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return what any endpoint may answer instead, for the OpenAPI document."""
    found = {
        **describe(403, "The page that asks is none of the server's."),
        **describe(414, "The address is too long."),
        **describe(421, "The Host header names another server."),
        **describe(422, "A parameter is not valid."),
        **describe(503, "The journal cannot be read, or not in time."),
    }
    return {**found, **describe(401, "The token is missing or wrong.")} if secured else found


def _names(dependant: Any) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_names(below) for below in dependant.dependencies))
