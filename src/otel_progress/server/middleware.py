"""What stands before the application, for every request and connection: checks in front, safe headers behind, no error let out.

Pure ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_progress.diagnostics import report_internal_error
from otel_progress.server import security
from otel_progress.server.problems import Problem, failure, quote_text
from otel_progress.server.settings import ServerSettings

if TYPE_CHECKING:
    from otel_progress.server.counters import ServerCounters


CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
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
"""On every response. A response that says nothing of caching is not to be kept."""


_OPEN: Final = frozenset({"/healthz", "/login"})


_OPEN_FILES: Final = "/static/"
"""The page's own files are the same everywhere, and the login form needs some of them."""


_PAGES: Final = frozenset({"/", "/docs"})
"""Where a browser without the token is shown the login form."""


_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, if-none-match, last-event-id",
    "Access-Control-Max-Age": "600",
}


class SecurityMiddleware:
    """An ASGI application around another one that holds every request to the settings.

    ``login`` answers in place of a page when the token is missing. Refusals are counted by reason.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, counts: ServerCounters, login: ASGIApp
    ) -> None:
        self._app = app
        self._settings = settings
        self._counts = counts
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or connection, or pass it on."""
        if self._settings.root_path and scope["type"] in {"http", "websocket"}:
            scope = {**scope, "root_path": self._settings.root_path}
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _ResponseWrapper(send, self._allowed_origin(scope))
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                self._counts.refused(refusal[0])
                await refusal[1](scope, receive, answer)
                return
            if self._is_preflight(scope):
                await answer({"type": "http.response.start", "status": 204, "headers": _raw(_PREFLIGHT)})
                await answer({"type": "http.response.body", "body": b""})
                return
            await self._pass_on(scope, receive, answer)
        except Problem as problem:
            await problem(scope, receive, answer)
        except ClientDisconnect:
            return  # who asked has gone: nothing to answer, and nothing wrong here
        except (
            Exception
        ) as error:  # whatever it is: a response, and one line in the log instead of one a request
            report_internal_error("server", "a request could not be answered", error=error)
            if not answer.started:
                await failure()(scope, receive, answer)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _ResponseWrapper) -> None:
        inner: Scope = {**scope, "path": keep_encoded_separators(scope)}
        if scope["method"] not in security.SAFE_METHODS:
            try:
                receive = await self._body(receive)
            except Problem as problem:
                self._counts.refused("body")
                await problem(scope, receive, answer)
                return
        if scope["method"] == "HEAD" and security.path_of(scope) not in security.STREAMS:
            answer.drop_body = True
            inner["method"] = "GET"
        await self._app(inner, receive, answer)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        self._counts.refused(refusal[0])
        await receive()  # the handshake; an answer before it was read is an error
        await send(
            {"type": "websocket.close", "code": 1008, "reason": ""}
        )  # 403; browsers tell their pages no more in any case

    def _refusal(self, scope: Scope) -> tuple[str, ASGIApp] | None:
        """Return why a request or connection is refused, and what answers it; None when it is not."""
        settings, path = self._settings, security.path_of(scope)
        if (
            len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
            > settings.limits.url_bytes
        ):
            return "url", Problem(
                414, f"The address is longer than {settings.limits.url_bytes} bytes: shorten its parameters."
            )
        if not security.host_allowed(scope, settings):
            return "host", Problem(421, _host_problem(scope))
        posts_login = path == "/login" and scope["type"] == "http"
        if not security.origin_allowed(scope, settings) and not posts_login:
            return "origin", Problem(403, _origin_problem(scope))
        if self._is_preflight(scope) or posts_login or path in _OPEN or path.startswith(_OPEN_FILES):
            return None
        if not security.authorised(scope, settings):
            if (
                scope["type"] == "http"
                and path in _PAGES
                and "text/html" in (security.header_of(scope, "accept") or "")
            ):
                return "token", self._login
            return "token", unauthorised()
        if scope["type"] == "http" and security.forgery(scope, settings):
            return "forgery", Problem(
                403,
                "A request with the cookie has to come from the server's own page. Send the token as bearer.",
            )
        return None

    def _allowed_origin(self, scope: Scope) -> str | None:
        origin = security.header_of(scope, "origin")
        return origin if origin in self._settings.allowed_origins else None

    def _is_preflight(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "OPTIONS" or self._allowed_origin(scope) is None:
            return False
        return security.header_of(scope, "access-control-request-method") is not None

    async def _body(self, receive: Receive) -> Receive:
        """Return a ``receive`` that has the whole body. Raises Problem when it is too long or comes too slowly."""
        limits = self._settings.limits
        try:
            body = await asyncio.wait_for(_read(receive, limits.body_bytes), limits.body_s)
        except asyncio.TimeoutError:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT, f"The body did not come within {limits.body_s:g} seconds."
            ) from None
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


class _ResponseWrapper:
    """A ``send`` that adds the safe headers, and can leave the body out."""

    def __init__(self, send: Send, origin: str | None) -> None:
        self._send = send
        self._origin = origin
        self.started = False
        self.drop_body = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Access-Control-Expose-Headers"] = "etag, retry-after"
                headers.add_vary_header("Origin")
            message = {**message, "headers": headers.raw}
        elif self.drop_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def keep_encoded_separators(scope: Scope) -> str:
    """Return the path with ``/`` and ``%`` inside of a segment still encoded, so that an id with a slash stays one segment."""
    raw = scope.get("raw_path")
    if not raw:
        return str(scope["path"])
    segments = raw.partition(b"?")[0].decode("latin-1").split("/")
    return "/".join(unquote(segment).replace("%", "%25").replace("/", "%2F") for segment in segments)


def unauthorised() -> Problem:
    """Return what is answered without the token."""
    msg = "This server asks for its token. Send it as: Authorization: Bearer TOKEN. In a browser, log in at /login."
    return Problem(401, msg, headers={"WWW-Authenticate": 'Bearer realm="otel-progress"'})


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > most:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is longer than {most} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def _host_problem(scope: Scope) -> str:
    host = quote_text(security.header_of(scope, "host") or "")
    return f"The host {host!r} is not this server's. Use its address, or have the name allowed with allowed_hosts."


def _origin_problem(scope: Scope) -> str:
    origin = quote_text(security.header_of(scope, "origin") or "")
    return f"Pages of {origin!r} may not ask this server. Have the origin allowed with allowed_origins."


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
