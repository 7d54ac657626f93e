"""Problem documents (RFC 9457): one format for every error of the API.

The text names the error, the expected value and the fix. Text of a client is truncated and escaped.
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


_MAX_ERRORS: Final = 20
"""Errors listed per request. Further errors are only counted."""


SCHEMA: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "type": "object",
    "description": "Error of a request (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "description": "Name of the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "The error, the expected value and the fix."},
        "errors": {
            "type": "array",
            "description": "Each invalid value with its location.",
            "items": {
                "type": "object",
                "required": ["at", "detail"],
                "properties": {"at": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
"""JSON Schema of a problem."""


class Problem(Exception):  # noqa: N818 - the name of RFC 9457
    """Error of a request: a status, one or two sentences, and headers of the response.

    ``errors`` are pairs of location and detail for single values. Also an ASGI application.
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

    def build_response(self) -> Response:
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
        """Send this problem as the response."""
        await self.build_response()(scope, receive, send)


def quote_text(text: str) -> str:
    """Return text of a client for a message: on one line, escaped and truncated."""
    return escape_controls(truncate(text, 100))


def describe(status: int, text: str) -> dict[int | str, dict[str, Any]]:
    """Return the entry of a problem for the OpenAPI document of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content}}


async def handle_problem(request: Request, error: Exception) -> Response:
    """Return the response of a Problem."""
    del request
    assert isinstance(error, Problem)
    return error.build_response()


async def handle_http_error(request: Request, error: Exception) -> Response:
    """Return the response of a framework error, such as an unknown path."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = "Unknown path. See /openapi.json for the paths of this server."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"Invalid method {quote_text(request.method)}: expected {headers['Allow']}."
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        detail = "Invalid body: expected a JSON object in UTF-8."
    else:
        detail = HTTPStatus(error.status_code).description or HTTPStatus(error.status_code).phrase
    return Problem(error.status_code, detail, headers=headers).build_response()


async def handle_validation_error(request: Request, error: Exception) -> Response:
    """Return the response for invalid parameters or an invalid body."""
    del request
    assert isinstance(error, RequestValidationError)
    validation_errors = error.errors()
    errors = [
        (_format_location(entry.get("loc", ())), quote_text(str(entry.get("msg", "not valid"))))
        for entry in validation_errors[:_MAX_ERRORS]
    ]
    first = f"{errors[0][0]}: {errors[0][1]}" if errors else "a value is not valid"
    more = f" (and {len(validation_errors) - 1} more)" if len(validation_errors) > 1 else ""
    detail = f"Invalid request. {first}{more}."
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors).build_response()


async def handle_journal_error(request: Request, error: Exception) -> Response:
    """Return the response for a journal that cannot be read.

    The error names the cause and the fix.
    """
    del request
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, escape_controls(str(error)), headers={"Retry-After": "1"}
    ).build_response()


async def handle_internal_error(request: Request, error: Exception) -> Response:
    """Return the response for an internal error, which the security middleware logs."""
    del request, error
    return build_internal_problem().build_response()


def build_internal_problem() -> Problem:
    """Return the problem of an internal error."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error of the server. See its log.")


def allowed_methods(request: Request) -> list[str]:
    """Return the allowed methods of a request's path, in alphabetical order."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.methods and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _format_location(location: Sequence[object]) -> str:
    return quote_text(" ".join(str(part) for part in location))
