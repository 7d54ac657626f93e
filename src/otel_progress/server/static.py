"""The files of the page, from a fixed table: a request names an entry of it, and never a path of the file system."""

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
from otel_progress.server.problems import Problem
from otel_progress.server.state import services_of

_DIRECTORY: Final = Path(__file__).parent / "page"


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
    """A file in memory, with its type and ETag."""

    content: bytes
    media_type: str
    tag: str


@lru_cache(maxsize=1)
def page_files() -> Mapping[str, StaticFile]:
    """Return the files of the page by their path below it, read once a process."""
    found = sorted(path for path in _DIRECTORY.rglob("*") if path.suffix in _TYPES and path.is_file())
    return MappingProxyType({path.relative_to(_DIRECTORY).as_posix(): _read(path) for path in found})


def answer_file(
    request: Request, name: str, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a file of the table, or 304 when the client has it. Raises Problem (404) when there is none of that name."""
    file = page_files().get(name)
    if file is None:
        raise Problem(404, "There is no such file of the page.")
    given = {"ETag": file.tag, "Cache-Control": "no-cache", **(headers or {})}
    if status == HTTPStatus.OK and matches(request.headers.get("if-none-match"), file.tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=given)
    return Response(file.content, status, headers=given, media_type=file.media_type)


def matches(condition: str | None, tag: str) -> bool:
    """Tell whether an If-None-Match header names an ETag, compared weakly (RFC 9110, 13.1.2)."""
    if condition is None:
        return False
    names = {name.strip().removeprefix("W/") for name in condition.split(",")}
    return "*" in names or tag.removeprefix("W/") in names


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="otel-progress"', "Cache-Control": "no-store"}


_MOST_FIELDS: Final = 10


def page_routes() -> list[BaseRoute]:
    """Return the routes of everything that is for browsers."""
    return [
        Route("/", _page, name="page"),
        Route("/docs", _docs, name="docs"),
        Route("/static/{name:path}", _file, name="static"),
        Route("/login", _login_form, name="login_form", methods=["GET"]),
        Route("/login", _log_in, name="log_in", methods=["POST"]),
        Route("/logout", _log_out, name="log_out", methods=["POST"]),
    ]


def login_form(request: Request) -> Response:
    """Return the login form in place of a page that asks for the token."""
    return answer_file(request, "login.html", status=HTTPStatus.UNAUTHORIZED, headers=_CHALLENGE)


async def _page(request: Request) -> Response:
    return answer_file(request, "index.html")


async def _docs(request: Request) -> Response:
    return answer_file(request, "docs.html")


async def _file(request: Request) -> Response:
    return answer_file(request, request.path_params["name"])


async def _login_form(request: Request) -> Response:
    return answer_file(request, "login.html")


async def _log_in(request: Request) -> Response:
    """Set the cookie when the form holds the token. Without one set on the server there is nothing to log in to, and all is open."""
    services = services_of(request)
    settings = services.settings
    if settings.token is None:
        return _onward()
    token = await _token_of(request)
    if not security.is_token(token, settings):
        services.counts.refused("token")
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("login?failed", HTTPStatus.SEE_OTHER)
        raise Problem(401, "The token is wrong.", headers=_CHALLENGE)
    response = _onward()
    response.set_cookie(
        security.COOKIE,
        security.cookie_value(settings),
        path=_prefix(request),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def _log_out(request: Request) -> Response:
    response = _onward("login")
    response.delete_cookie(
        security.COOKIE,
        path=_prefix(request),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _onward(where: str = "./") -> Response:
    """Return a redirection that is relative, so that no header of the request has a say in where it leads."""
    return RedirectResponse(where, HTTPStatus.SEE_OTHER)


def _prefix(request: Request) -> str:
    """Return the path for the cookie; a prefix with anything in it that means something to a cookie is left out."""
    prefix = str(request.scope.get("root_path", ""))
    return (
        prefix
        if prefix.isascii() and prefix.isprintable() and not set(prefix) & set(';," ') and prefix
        else "/"
    )


async def _token_of(request: Request) -> str:
    """Return the token of a form; empty when there is none."""
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Problem(422, "The form cannot be read: expected token=… as a browser sends it.") from None
    return fields.get("token", [""])[0].strip()
