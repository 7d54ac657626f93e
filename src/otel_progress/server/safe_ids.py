"""Ids in the query of a URL instead of its path.

Why: clients and proxies normalise paths. They remove segments such as ``.`` and ``..``, and decode
``%2F``. ``/api/v1/operations/~/logs?id=a%2Fb`` is the same resource as
``/api/v1/operations/a%2Fb/logs``, and passes all of them unchanged.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.types import Scope

PLACEHOLDER: Final = "~"
"""Segment in place of an id in the query. The id ``~`` itself is also sent in the query."""


PARAMETER: Final = "id"
"""Query parameter that contains the id. Paths without the placeholder reject it."""


_COLLECTIONS: Final = ("operations", "batches")


_MAX_QUERY_FIELDS: Final = 1_100


def resolve_query_id(scope: Scope) -> Scope:
    """Return the scope with the id of the query in its path.

    Without the placeholder or the parameter, the scope is returned unchanged. The path has ``%``
    and ``/`` within segments still encoded.
    """
    prefix, separator, rest = str(scope["path"]).partition("/api/v1/")
    segments = rest.split("/")
    if not separator or len(segments) < 2 or segments[1] != PLACEHOLDER or segments[0] not in _COLLECTIONS:
        return scope
    try:
        pairs = parse_qsl(
            scope.get("query_string", b"").decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError:
        return scope
    ids = [value for name, value in pairs if name == PARAMETER]
    if len(ids) != 1 or not ids[0]:
        return scope
    segments[1] = ids[0].replace("%", "%25").replace("/", "%2F")
    query = urlencode([(name, value) for name, value in pairs if name != PARAMETER])
    return {**scope, "path": f"{prefix}{separator}{'/'.join(segments)}", "query_string": query.encode()}
