"""What a browser is shown: the live page, the description of the API, and the login form with its cookie."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from otel_progress.server import security
from otel_progress.server.problems import Problem
from otel_progress.server.services import services_of
from otel_progress.server.static import answer_file

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
        security.COOKIE, path=_prefix(request), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


def _onward(where: str = "./") -> Response:
    """Return a redirection that is relative, so that no header of the request has a say in where it leads."""
    return RedirectResponse(where, HTTPStatus.SEE_OTHER)


def _prefix(request: Request) -> str:
    """Return the path for the cookie; a prefix with anything in it that means something to a cookie is left out."""
    prefix = str(request.scope.get("root_path", ""))
    return prefix if prefix.isascii() and prefix.isprintable() and not set(prefix) & set(';," ') and prefix else "/"


async def _token_of(request: Request) -> str:
    """Return the token of a form; empty when there is none."""
    try:
        fields = parse_qs((await request.body()).decode(), max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Problem(422, "The form cannot be read: expected token=… as a browser sends it.") from None
    return fields.get("token", [""])[0].strip()
