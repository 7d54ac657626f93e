"""Files of the page from a fixed table, and the login form.

A request names an entry of the table, never a path of the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from otel_progress.server import security
from otel_progress.server.access import build_wait_problem
from otel_progress.server.peers import is_secure
from otel_progress.server.problems import Problem
from otel_progress.server.sessions import SESSION_S
from otel_progress.server.state import get_app_state

_DIRECTORY: Final = Path(__file__).parent / "page"


_PAGE_WITH_SESSION: Final = "index.html with session"


_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".ts": "text/plain; charset=utf-8",
        ".svg": "image/svg+xml",
        ".png": "image/png",
        ".ico": "image/x-icon",
        ".webmanifest": "application/manifest+json",
    }
)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """File in memory, with its media type and ETag."""

    content: bytes
    media_type: str
    tag: str


@lru_cache(maxsize=1)
def page_files() -> Mapping[str, StaticFile]:
    """Return the files of the page by relative path, read once per process."""
    paths = sorted(path for path in _DIRECTORY.rglob("*") if path.suffix in _TYPES and path.is_file())
    files = {path.relative_to(_DIRECTORY).as_posix(): _read_file(path) for path in paths}
    page = files["index.html"]
    files[_PAGE_WITH_SESSION] = _build_file(
        page.content.replace(b"<body>", b"<body data-login>"), page.media_type
    )
    return MappingProxyType(files)


def build_file_response(
    request: Request, name: str, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a file of the table, or 304 when the client has it.

    Raises Problem (404) for an unknown name.
    """
    file = page_files().get(name)
    if file is None:
        raise Problem(404, "Unknown file of the page.")
    all_headers = {"ETag": file.tag, "Cache-Control": "no-cache", **(headers or {})}
    if status == HTTPStatus.OK and matches_etag(request.headers.get("if-none-match"), file.tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=all_headers)
    return Response(file.content, status, headers=all_headers, media_type=file.media_type)


def matches_etag(condition: str | None, tag: str) -> bool:
    """Return True when an If-None-Match header names an ETag (weak comparison)."""
    if condition is None:
        return False
    names = {name.strip().removeprefix("W/") for name in condition.split(",")}
    return "*" in names or tag.removeprefix("W/") in names


def _read_file(path: Path) -> StaticFile:
    return _build_file(path.read_bytes(), _TYPES[path.suffix])


def _build_file(content: bytes, media_type: str) -> StaticFile:
    return StaticFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="otel-progress"', "Cache-Control": "no-store"}


_MAX_FIELDS: Final = 10


def page_routes() -> list[BaseRoute]:
    """Return the routes for browsers: the page, its files and the login form."""
    return [
        Route("/", _get_page, name="page"),
        Route("/docs", _get_docs, name="docs"),
        Route("/static/{name:path}", _get_file, name="static"),
        Route("/login", _get_login_form, name="login_form", methods=["GET"]),
        Route("/login", _log_in, name="log_in", methods=["POST"]),
        Route("/logout", _log_out, name="log_out", methods=["POST"]),
    ]


def build_login_response(request: Request) -> Response:
    """Return the login form with status 401, for a page that needs the token."""
    return build_file_response(request, "login.html", status=HTTPStatus.UNAUTHORIZED, headers=_CHALLENGE)


async def _get_page(request: Request) -> Response:
    """Return the page. With a session it has a button to log out."""
    has_session = get_app_state(request).access.find_session(request.scope) is not None
    return build_file_response(request, _PAGE_WITH_SESSION if has_session else "index.html")


async def _get_docs(request: Request) -> Response:
    return build_file_response(request, "docs.html")


async def _get_file(request: Request) -> Response:
    return build_file_response(request, request.path_params["name"])


async def _get_login_form(request: Request) -> Response:
    return build_file_response(request, "login.html")


async def _log_in(request: Request) -> Response:
    """Set the session cookie if the submitted token is correct.

    If the server has no token, redirect without checking.
    """
    services = get_app_state(request)
    settings = services.settings
    access = services.access
    if access.sessions is None:
        return _redirect()
    wait_s = access.find_wait(request.scope)
    if wait_s:
        services.counts.count_refusal("attempts")
        return _refuse_login(request, "wait", build_wait_problem(wait_s))
    fields = await _read_fields(request)
    target = "docs" if fields.get("next") == "docs" else ""
    if not security.is_token(fields.get("token", ""), settings):
        access.count_failure(request.scope)
        services.counts.count_refusal("token")
        outcome = "failed&next=docs" if target else "failed"
        return _refuse_login(request, outcome, Problem(401, "Invalid token.", headers=_CHALLENGE))
    response = _redirect(target or "./")
    response.set_cookie(
        security.COOKIE,
        access.sessions.create(),
        max_age=SESSION_S,
        path=_cookie_path(request),
        httponly=True,
        samesite="strict",
        secure=is_secure(request.scope, settings.trusted_proxies),
    )
    return response


def _refuse_login(request: Request, outcome: str, problem: Problem) -> Response:
    """Return the form again for a browser. Raises the problem for a program."""
    if "text/html" not in request.headers.get("accept", ""):
        raise problem
    return RedirectResponse(f"login?{outcome}", HTTPStatus.SEE_OTHER, headers=problem.headers)


async def _log_out(request: Request) -> Response:
    """End the session. Its streams end too."""
    access = get_app_state(request).access
    session = access.find_session(request.scope)
    if access.sessions is not None and session is not None:
        access.sessions.revoke(session)
        get_app_state(request).hub.wake_all()
    response = _redirect("login")
    response.delete_cookie(
        security.COOKIE,
        path=_cookie_path(request),
        httponly=True,
        samesite="strict",
        secure=is_secure(request.scope, access.settings.trusted_proxies),
    )
    return response


def _redirect(url: str = "./") -> Response:
    """Return a relative redirect, which no header of the request can influence."""
    return RedirectResponse(url, HTTPStatus.SEE_OTHER)


def _cookie_path(request: Request) -> str:
    """Return the path for the cookie, ``/`` when a cookie cannot contain the prefix."""
    prefix = str(request.scope.get("root_path", ""))
    return (
        prefix
        if prefix.isascii() and prefix.isprintable() and not set(prefix) & set(';," ') and prefix
        else "/"
    )


async def _read_fields(request: Request) -> dict[str, str]:
    """Return the fields of a submitted form, the first value of each."""
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Problem(422, "Invalid form: expected token=… as a browser sends it.") from None
    return {name: values[0].strip() for name, values in fields.items()}
