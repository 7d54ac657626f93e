"""Access checks of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from hypothesis import given
from hypothesis import strategies as st

from otel_progress.errors import ConfigurationError
from otel_progress.journal import SqliteJournal
from otel_progress.server import ServerSettings, security
from tests.support.rest_client import Client, raw_request, refusals, scope_of

TOKEN = "correct-horse-battery"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LIST = "/api/v1/operations"
CANCEL = "/api/v1/operations/friday-42/cancel"
BOARD = "https://board.example"


@pytest.fixture
def secured(journal: SqliteJournal, serve: Callable[..., Any]) -> Client:
    """A client of a server with a token. The client does not send it by default."""
    made: Client = serve(journal, controller=journal, token=TOKEN)
    return made


def log_in(client: Client, **headers: str) -> str:
    """Log in and return the value of the Cookie header."""
    answer = client.post("/login", data={"token": TOKEN}, headers=headers)
    assert answer.status_code == 303
    return str(answer.headers["set-cookie"]).partition(";")[0]


# --- token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        LIST,
        "/api/v1/operations/x",
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/",
        "/nope",
        "/api/v1/stream",
    ],
)
def test_request_without_the_token_is_refused(secured: Client, path: str) -> None:
    """Only the health check needs no token. The response explains how to send it."""
    answer = secured.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert refusals(secured) == {"token": 1}
    assert secured.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer é"},
        {"cookie": f"otel_progress_token={TOKEN}"},
        {"cookie": "otel_progress_token="},
        {"x-progress-token": TOKEN},
    ],
)
def test_wrong_or_misplaced_token_is_refused(secured: Client, headers: dict[str, str]) -> None:
    """A part of the token, or another header, is not accepted."""
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    secured.problem(401, LIST, headers=raw)
    secured.problem(401, f"{LIST}?access_token={TOKEN}")


def test_bearer_token_is_accepted(secured: Client) -> None:
    """The scheme is case-insensitive."""
    assert secured.get(LIST, headers=BEARER).status_code == 200
    assert secured.get(LIST, headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


def test_token_in_the_query_is_accepted_for_streams_only() -> None:
    """Browsers cannot send headers with a stream."""
    settings = ServerSettings(token=TOKEN)
    for path, allowed in (
        ("/api/v1/stream", True),
        ("/api/v1/ws", True),
        (LIST, False),
        ("/api/v1/stream/x", False),
    ):
        assert security.is_authorised(scope_of(f"{path}?access_token={TOKEN}"), settings) is allowed
    assert not security.is_authorised(scope_of("/api/v1/stream?access_token=" + "x=&" * 2_000), settings)


def test_settings_do_not_show_the_token() -> None:
    """Neither the representation nor an error contains it."""
    assert TOKEN not in repr(ServerSettings(token=TOKEN))
    with pytest.raises(ConfigurationError) as caught:
        ServerSettings(token="short\r\n")
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"token": ""},
        {"token": "seven77"},
        {"token": "with a space in it"},
        {"token": "naïve-token"},
        {"allowed_hosts": ("https://a.example",)},
        {"allowed_hosts": ("a.example:80",)},
        {"allowed_origins": ("*",)},
        {"allowed_origins": ("board.example",)},
        {"allowed_origins": ("https://board.example/",)},
        {"root_path": "progress"},
        {"root_path": "/progress/"},
        {"root_path": "/a\r\nSet-Cookie: x"},
    ],
)
def test_invalid_setting_is_refused(bad: dict[str, Any]) -> None:
    """The error says which value was expected."""
    with pytest.raises(ConfigurationError, match="expected"):
        ServerSettings(**bad)


# --- login form -----------------------------------------------------------------------------------


def test_login_form_sets_a_cookie_that_grants_access(secured: Client) -> None:
    """Scripts cannot read the cookie, and other sites cannot send it."""
    answer = secured.post("/login", data={"token": f" {TOKEN}\n"}, headers={"origin": "null"})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", "samesite=strict", "path=/", "max-age=2592000"}
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert TOKEN not in cookie
    assert secured.get(LIST, headers={"cookie": f"a=b; {cookie}"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_browser_without_the_cookie_receives_the_login_form(secured: Client, path: str) -> None:
    """The status is 401."""
    answer = secured.get(path, headers={"accept": "text/html,*/*"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == secured.get("/login").content


def test_cookie_over_https_is_secure(secured: Client) -> None:
    """The browser does not send it over HTTP."""
    secured.base_url = "https://127.0.0.1"
    assert "secure" in secured.post("/login", data={"token": TOKEN}).headers["set-cookie"].lower()


def test_login_with_a_wrong_token_is_refused(secured: Client) -> None:
    """Programs receive a problem, browsers the form again."""
    secured.problem(401, "/login", "POST", data={"token": "wrong-horse"})
    secured.problem(401, "/login", "POST", content=b"\x00")
    secured.problem(422, "/login", "POST", content=b"\xff\xfe")
    again = secured.post("/login", data={"token": "wrong-horse"}, headers={"accept": "text/html"})
    assert (again.status_code, again.headers["location"], "set-cookie" in again.headers) == (
        303,
        "login?failed",
        False,
    )
    assert refusals(secured)["token"] == 3


def test_logout_expires_the_cookie(secured: Client) -> None:
    """The cookie is overwritten with an expired one."""
    headers = {"cookie": log_in(secured), "origin": "http://127.0.0.1"}
    answer = secured.post("/logout", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "login")
    assert "max-age=0" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 202),
        ({"origin": "http://127.0.0.1"}, 202),
        ({}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:81"}, 403),
        ({"origin": BOARD}, 403),
    ],
)
def test_changing_request_with_only_the_cookie_is_refused(
    journal: SqliteJournal, serve: Callable[..., Any], headers: dict[str, str], status: int
) -> None:
    """Only the server's own page may cancel with the cookie."""
    client = serve(journal, controller=journal, token=TOKEN, allowed_origins=(BOARD,))
    answer = client.post(CANCEL, headers={"cookie": log_in(client), **headers})
    assert answer.status_code == status, answer.text
    assert bool(journal.cancel_requests("instance-1")) is (status == 202)


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_changing_request_of_another_site_is_refused_without_a_token(
    client: Client, headers: dict[str, str]
) -> None:
    """A page of another site cannot cancel an operation."""
    client.problem(403, CANCEL, "POST", headers=headers)
    client.problem(403, "/api/v1/operations/done-0", "DELETE", headers=headers)


# --- host and origin ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "settings", "allowed"),
    [
        ("127.0.0.1:7764", {}, True),
        ("localhost", {}, True),
        ("LOCALHOST:80", {}, True),
        ("localhost.", {}, True),
        ("a.localhost", {}, True),
        ("[::1]:7764", {}, True),
        ("127.3.2.1", {}, True),
        ("evil.example", {}, False),
        ("localhost.evil.example", {}, False),
        ("notlocalhost", {}, False),
        ("192.168.0.7", {}, False),
        ("192.168.0.7", {"host": "192.168.0.7"}, True),
        ("192.168.0.7:7764", {"host": "0.0.0.0"}, True),
        ("[fe80::1]", {"host": "::"}, True),
        ("evil.example", {"host": "0.0.0.0"}, False),
        ("board.example:443", {"allowed_hosts": ("board.example",)}, True),
        ("x.board.example", {"allowed_hosts": ("*.board.example",)}, True),
        ("board.example", {"allowed_hosts": ("*.board.example",)}, False),
        ("xboard.example", {"allowed_hosts": ("*.board.example",)}, False),
        ("anything.example", {"allowed_hosts": ("*",)}, True),
        ("", {"allowed_hosts": ("*",)}, False),
        ("a b", {"allowed_hosts": ("*",)}, False),
        ("a@localhost", {}, False),
        ("localhost:port", {}, False),
        ("localhost/evil", {}, False),
        ("[::1", {}, False),
        ("[::1]x", {}, False),
        ("127.0.0.1.evil.example", {}, False),
    ],
)
def test_host_header_must_name_the_server(host: str, settings: dict[str, Any], allowed: bool) -> None:
    """Other names may be an attempt of DNS rebinding."""
    assert (
        security.is_host_allowed(scope_of("/", headers={"host": host}), ServerSettings(**settings)) is allowed
    )


def test_request_for_another_host_is_refused(client: Client) -> None:
    """The check comes first, also for the health check. The name is escaped."""
    document = client.problem(421, "/healthz", headers={"host": "evil\x1b[31m.example"})
    assert document["detail"].isprintable()
    assert refusals(client) == {"host": 1}


def test_two_host_headers_are_refused() -> None:
    """A proxy may interpret them differently."""
    scope = scope_of("/")
    scope["headers"] += [(b"host", b"localhost")]
    assert not security.is_host_allowed(scope, ServerSettings())


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "localhost", True),
        ("http://localhost", "localhost", True),
        ("http://localhost:7764", "localhost:7764", True),
        ("https://board.example", "board.example", True),
        ("https://board.example:443", "board.example", True),
        ("http://localhost", "localhost:7764", False),
        ("http://localhost:7764", "127.0.0.1:7764", False),
        ("null", "localhost", False),
        ("", "localhost", False),
        ("file://", "localhost", False),
        ("http://[", "localhost", False),
        ("http://localhost@evil.example", "localhost", False),
        ("chrome-extension://localhost", "localhost", False),
        ("https://other.example", "localhost", True),
        ("https://other.example:444", "localhost", False),
    ],
)
def test_origin_must_be_own_or_allowed(origin: str | None, host: str, allowed: bool) -> None:
    """Clients other than browsers send no origin."""
    headers = {"host": host} if origin is None else {"host": host, "origin": origin}
    settings = ServerSettings(allowed_hosts=("*",), allowed_origins=("https://other.example",))
    assert security.is_origin_allowed(scope_of("/", headers=headers), settings) is allowed


@given(
    st.dictionaries(
        st.sampled_from(["host", "origin", "authorization", "cookie", "sec-fetch-site"]),
        st.text(st.characters(max_codepoint=255), max_size=40),
    )
)
def test_checks_with_any_headers_never_raise(headers: dict[str, str]) -> None:
    """Without the token, no headers authorise a request."""
    settings = ServerSettings(token=TOKEN)
    for method in ("GET", "POST"):
        scope = scope_of("/api/v1/stream?access_token=%ff", method, headers)
        security.is_host_allowed(scope, settings)
        security.is_origin_allowed(scope, settings)
        security.may_be_forged(scope, settings)
        assert not security.is_authorised(scope, settings)


def test_cross_origin_request_is_refused_by_default(client: Client) -> None:
    """No response allows another origin."""
    assert not [name for name in client.get(LIST).headers if name.startswith("access-control")]
    answer = client.get(LIST, headers={"origin": BOARD})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": BOARD, "access-control-request-method": "DELETE"}
    assert client.request("OPTIONS", LIST, headers=preflight).status_code == 403


def test_allowed_origin_receives_responses_without_credentials(
    journal: SqliteJournal, serve: Callable[..., Any]
) -> None:
    """The preflight is answered, and cookies are never allowed."""
    client = serve(journal, token=TOKEN, allowed_origins=(BOARD,))
    preflight = client.request(
        "OPTIONS", LIST, headers={"origin": BOARD, "access-control-request-method": "DELETE"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == BOARD
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = client.get(LIST, headers={"origin": BOARD, **BEARER})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, BOARD)
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in {**preflight.headers, **answer.headers}


def test_websocket_without_access_is_refused_before_the_handshake(secured: Client) -> None:
    """The token or the origin is wrong."""

    def refuse(headers: dict[str, str]) -> list[dict[str, Any]]:
        scope = scope_of("/api/v1/ws", headers=headers) | {"type": "websocket", "subprotocols": []}
        return asyncio.run(raw_request(secured.app, scope, {"type": "websocket.connect"}))

    assert refuse({})[0]["type"] == "websocket.close"
    assert refuse({**BEARER, "origin": "https://evil.example"})[0]["type"] == "websocket.close"
    assert refusals(secured) == {"token": 1, "origin": 1}
