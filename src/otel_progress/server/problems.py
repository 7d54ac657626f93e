"""What is answered when a request cannot be: problem documents (RFC 9457), one shape for every error.

Their text names what was wrong, what was expected and the fix. What a client sent is shown cut and made printable, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from otel_progress.exports import encode_json_line
from otel_progress.text import escape_controls, truncate

MEDIA_TYPE: Final = "application/problem+json"


_MOST_ERRORS: Final = 20
"""Errors told of one request."""


SCHEMA: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "type": "object",
    "description": "Why a request was not answered (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "description": "The name of the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What was wrong, what was expected, and the fix."},
        "errors": {
            "type": "array",
            "description": "Each value that was refused, and where it stood.",
            "items": {
                "type": "object",
                "required": ["at", "detail"],
                "properties": {"at": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
"""The JSON Schema of a problem."""


class Problem(Exception):  # noqa: N818 - it is what RFC 9457 calls it
    """Raised where a request cannot be answered: a status, one or two sentences, and headers that go with them.

    ``errors`` are (where, what) of single values.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors

    def response(self) -> Response:
        """Return the document as a response."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [{"at": at, "detail": detail} for at, detail in self.errors]
        return Response(
            encode_json_line(document).encode(), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with this problem, as an ASGI application."""
        await self.response()(scope, receive, send)


def quote_text(text: str) -> str:
    """Return what a client sent as it may stand in a sentence: on one line, without escapes, of bounded length."""
    return escape_controls(truncate(text, 100))


def describe(status: int, text: str) -> dict[int | str, dict[str, Any]]:
    """Return the entry of a problem for the OpenAPI document of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content}}


async def on_problem(request: Request, error: Exception) -> Response:
    """Answer a Problem that was raised."""
    del request
    assert isinstance(error, Problem)
    return error.response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: no such path, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "There is nothing at this path. What there is stands in /openapi.json."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"This path does not take {quote_text(request.method)}. It takes: {headers['Allow']}."
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        detail = "The body cannot be parsed. Expected a JSON object in UTF-8."
    else:
        detail = HTTPStatus(error.status_code).description or HTTPStatus(error.status_code).phrase
    return Problem(error.status_code, detail, headers=headers).response()


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer parameters or a body that do not fit the OpenAPI document."""
    del request
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors = [
        (_place(one.get("loc", ())), quote_text(str(one.get("msg", "not valid"))))
        for one in found[:_MOST_ERRORS]
    ]
    first = f"{errors[0][0]}: {errors[0][1]}" if errors else "a value is not valid"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"The request is not valid. {first}{more}.", errors=errors
    ).response()


async def on_journal_error(request: Request, error: Exception) -> Response:
    """Answer when the journal cannot be read: it says itself what is wrong and what to do."""
    del request
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, escape_controls(str(error)), headers={"Retry-After": "1"}
    ).response()


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer when something broke here. The guard logs it."""
    del request, error
    return failure().response()


def failure() -> Problem:
    """Return what is answered when something broke in the server."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong in the server; its log says what.")


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that the path of a request takes, in alphabetical order."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.methods and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _place(location: Sequence[object]) -> str:
    return quote_text(" ".join(str(part) for part in location))
