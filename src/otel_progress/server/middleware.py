"""ASGI middleware: request checks, security headers, unexpected exceptions.

It does not buffer responses, so streams work through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_progress.diagnostics import report_internal_error
from otel_progress.semconv import RefusalReason
from otel_progress.server import security
from otel_progress.server.access import AccessControl, build_wait_problem
from otel_progress.server.connection_table import get_connection
from otel_progress.server.counters import ServerCounters
from otel_progress.server.otlp import drain_body
from otel_progress.server.problems import Problem, build_internal_problem, quote_text
from otel_progress.server.safe_ids import resolve_query_id

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every response. Without caching headers of its own a response is not cached."""


_OPEN: Final = frozenset({"/healthz", "/login"})


_OPEN_FILES: Final = "/static/"
"""Files of the page need no token: they contain no data, and the login form uses some of them."""


_PAGES: Final = frozenset({"/", "/docs"})
"""Pages for which a browser without the token receives the login form."""


_CLOSING_STATUSES: Final = frozenset({401, 408, 413, 429, 503})
"""Statuses of refused clients. Their connections are closed immediately."""


_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, if-none-match, last-event-id",
    "Access-Control-Max-Age": "600",
}


class SecurityMiddleware:
    """ASGI middleware that checks every request against the settings.

    ``login`` serves the login form for a page without the token. Refusals are counted by reason.
    The endpoints of ``otlp_paths`` read their bodies themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: AccessControl,
        counts: ServerCounters,
        login: ASGIApp,
        otlp_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._otlp_paths = otlp_paths
        self._access = access
        self._settings = access.settings
        self._counts = counts
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or connection."""
        if self._settings.root_path and scope["type"] in {"http", "websocket"}:
            scope = {**scope, "root_path": self._settings.root_path}
        if scope["type"] == "http":
            await self._handle_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._handle_websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        wrapped_send = _ResponseWrapper(
            send, self._allowed_origin(scope), is_http1=str(scope.get("http_version", "")).startswith("1")
        )
        # A health check needs no further request on its connection.
        wrapped_send.closes = security.mounted_path(scope) == "/healthz"
        try:
            refusal = self._find_refusal(scope)
            if refusal is not None:
                reason, refusing_app = refusal
                self._counts.count_refusal(reason)
                wrapped_send.closes = True
                if scope["method"] == "POST" and security.mounted_path(scope) in self._otlp_paths:
                    await drain_body(receive, self._settings.limits)
                await refusing_app(scope, receive, wrapped_send)
                return
            if self._is_preflight(scope):
                await wrapped_send(
                    {"type": "http.response.start", "status": 204, "headers": _encode_headers(_PREFLIGHT)}
                )
                await wrapped_send({"type": "http.response.body", "body": b""})
                return
            await self._forward(scope, receive, wrapped_send)
        except Problem as problem:
            wrapped_send.closes = True
            await problem(scope, receive, wrapped_send)
        except ClientDisconnect:
            # There is no client to answer.
            return
        except Exception as error:
            # Why: every request gets a response, and repeated errors are logged once.
            report_internal_error("server", "A request could not be answered", error=error)
            if not wrapped_send.started:
                await build_internal_problem()(scope, receive, wrapped_send)

    async def _forward(self, scope: Scope, receive: Receive, wrapped_send: _ResponseWrapper) -> None:
        inner: Scope = resolve_query_id({**scope, "path": keep_encoded_separators(scope)})
        is_otlp = scope["method"] == "POST" and security.mounted_path(scope) in self._otlp_paths
        if scope["method"] not in security.SAFE_METHODS and not is_otlp:
            try:
                receive = await self._read_body(receive)
            except Problem as problem:
                self._counts.count_refusal("body")
                wrapped_send.closes = True
                await problem(scope, receive, wrapped_send)
                return
        self._admit(scope)
        if scope["method"] == "HEAD" and security.mounted_path(scope) not in security.STREAMS:
            wrapped_send.drop_body = True
            inner["method"] = "GET"
        await self._app(inner, receive, wrapped_send)

    async def _handle_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._find_refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        self._counts.count_refusal(refusal[0])
        # The ASGI protocol requires that the handshake is received first.
        await receive()
        # The server answers 403. Browsers report no more than that to their pages.
        await send({"type": "websocket.close", "code": 1008, "reason": ""})

    def _find_refusal(self, scope: Scope) -> tuple[RefusalReason, ASGIApp] | None:
        """Return the reason to refuse a request and its response, or None."""
        settings, path = self._settings, security.mounted_path(scope)
        if scope["type"] == "http" and security.is_framing_ambiguous(scope):
            detail = (
                "Invalid request: expected either Content-Length or Transfer-Encoding, in HTTP/1.1. "
                "Send one of them."
            )
            return "framing", Problem(400, detail)
        url_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if url_bytes > settings.limits.url_bytes:
            return "url", Problem(
                414,
                f"URL too long: expected at most {settings.limits.url_bytes} bytes. Shorten its parameters.",
            )
        if not security.is_host_allowed(scope, settings):
            return "host", Problem(421, _describe_host(scope))
        posts_login = path == "/login" and scope["type"] == "http"
        if not security.is_origin_allowed(scope, settings) and not posts_login:
            return "origin", Problem(403, _describe_origin(scope))
        if self._is_preflight(scope) or posts_login or path in _OPEN or path.startswith(_OPEN_FILES):
            return None
        credentials = self._access.check(scope)
        if credentials.wait_s:
            return "attempts", build_wait_problem(credentials.wait_s)
        if not credentials.is_valid:
            accepts_html = "text/html" in (security.get_header(scope, "accept") or "")
            if scope["type"] == "http" and path in _PAGES and accepts_html:
                return "token", self._login
            return "token", build_unauthorised_problem()
        if scope["type"] == "http" and security.may_be_forged(scope, settings):
            return "forgery", Problem(
                403,
                "Possible request forgery: expected a request of the server's own page. "
                "Send the token as a bearer token.",
            )
        return None

    def _admit(self, scope: Scope) -> None:
        """Keep the connection of a request that passed all checks."""
        connection, path = get_connection(scope), security.mounted_path(scope)
        if connection is None or path in _OPEN or path.startswith(_OPEN_FILES):
            return
        connection.admit(is_authenticated=self._settings.token is not None)

    def _allowed_origin(self, scope: Scope) -> str | None:
        origin = security.get_header(scope, "origin")
        return origin if origin in self._settings.allowed_origins else None

    def _is_preflight(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "OPTIONS" or self._allowed_origin(scope) is None:
            return False
        return security.get_header(scope, "access-control-request-method") is not None

    async def _read_body(self, receive: Receive) -> Receive:
        """Return a ``receive`` with the whole body.

        Raises Problem when it is too long or too slow.
        """
        limits = self._settings.limits
        try:
            body = await asyncio.wait_for(_read_all(receive, limits.body_bytes), limits.body_s)
        except asyncio.TimeoutError:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                f"Body too slow: expected all of it within {limits.body_s:g} seconds.",
            ) from None
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


class _ResponseWrapper:
    """A ``send`` that adds the security headers, and that can drop the body.

    With ``closes`` the server closes the connection after the response.
    """

    def __init__(self, send: Send, origin: str | None, *, is_http1: bool) -> None:
        self._send = send
        self._origin = origin
        self._is_http1 = is_http1
        self.closes = False
        self.started = False
        self.drop_body = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._is_http1 and (self.closes or message["status"] in _CLOSING_STATUSES):
                headers["Connection"] = "close"
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Access-Control-Expose-Headers"] = "etag, retry-after"
                headers.add_vary_header("Origin")
            message = {**message, "headers": headers.raw}
        elif self.drop_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def keep_encoded_separators(scope: Scope) -> str:
    """Return the path with ``/`` and ``%`` in segments still encoded.

    An id with a slash is therefore one segment.
    """
    raw = scope.get("raw_path")
    if not raw:
        return str(scope["path"])
    segments = raw.partition(b"?")[0].decode("latin-1").split("/")
    return "/".join(unquote(segment).replace("%", "%25").replace("/", "%2F") for segment in segments)


def build_unauthorised_problem() -> Problem:
    """Return the problem of a request without the token."""
    msg = (
        "The token is missing or wrong. Send it as: Authorization: Bearer TOKEN. "
        "In a browser, log in at /login."
    )
    return Problem(401, msg, headers={"WWW-Authenticate": 'Bearer realm="otel-progress"'})


async def _read_all(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > max_bytes:
            msg = f"Body too long: expected at most {max_bytes} bytes."
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, msg)
        if not message.get("more_body", False):
            return bytes(body)


def _describe_host(scope: Scope) -> str:
    host = quote_text(security.get_header(scope, "host") or "")
    return f"Invalid host {host!r}: expected the address of this server. Add the name to allowed_hosts."


def _describe_origin(scope: Scope) -> str:
    origin = quote_text(security.get_header(scope, "origin") or "")
    return f"Invalid origin {origin!r}: expected the server's own page. Add the origin to allowed_origins."


def _encode_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
