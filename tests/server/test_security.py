"""Who may ask the server, and what goes out with every answer."""

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
def locked(journal: SqliteJournal, serve: Callable[..., Any]) -> Client:
    """A client of a server that asks for a token; it does not send it by itself."""
    made: Client = serve(journal, controller=journal, token=TOKEN)
    return made


def cookie_of(client: Client, **headers: str) -> str:
    """Log in and return the cookie as it is to be sent."""
    answer = client.post("/login", data={"token": TOKEN}, headers=headers)
    assert answer.status_code == 303
    return str(answer.headers["set-cookie"]).partition(";")[0]


# --- the token ----------------------------------------------------------------------------------------------------


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
def test_without_the_token_nothing_is_told(locked: Client, path: str) -> None:
    """Everything but health asks for the token, unknown paths too, and says how to send it."""
    answer = locked.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert refusals(locked) == {"token": 1}
    assert locked.get("/healthz").status_code == 200


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
def test_what_is_no_token_is_refused(locked: Client, headers: dict[str, str]) -> None:
    """Neither a part of the token nor the token in another place will do."""
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    locked.problem(401, LIST, headers=raw)
    locked.problem(401, f"{LIST}?access_token={TOKEN}")


def test_the_token_opens_everything(locked: Client) -> None:
    """As bearer, whatever the case of that word."""
    assert locked.get(LIST, headers=BEARER).status_code == 200
    assert locked.get(LIST, headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


def test_the_query_takes_the_token_for_streams_only() -> None:
    """Browsers can send no header with a stream; there, and only there, the address may carry the token."""
    settings = ServerSettings(token=TOKEN)
    for path, allowed in (
        ("/api/v1/stream", True),
        ("/api/v1/ws", True),
        (LIST, False),
        ("/api/v1/stream/x", False),
    ):
        assert security.is_authorised(scope_of(f"{path}?access_token={TOKEN}"), settings) is allowed
    assert not security.is_authorised(scope_of("/api/v1/stream?access_token=" + "x=&" * 2_000), settings)


def test_settings_never_show_the_token() -> None:
    """A token in a log is a token lost."""
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
def test_settings_that_cannot_be_used_are_refused(bad: dict[str, Any]) -> None:
    """A wrong setting is an error at once that says what was expected."""
    with pytest.raises(ConfigurationError, match="expected"):
        ServerSettings(**bad)


# --- the login form -----------------------------------------------------------------------------------------------


def test_a_browser_logs_in_once(locked: Client) -> None:
    """The form sets a cookie scripts cannot read and other sites cannot send, which opens pages and lists."""
    answer = locked.post("/login", data={"token": f" {TOKEN}\n"}, headers={"origin": "null"})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", "samesite=strict", "path=/"}
    cookie = answer.headers["set-cookie"].partition(";")[0]
    assert TOKEN not in cookie
    assert locked.get(LIST, headers={"cookie": f"a=b; {cookie}"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_browser_without_the_cookie_is_shown_the_form(locked: Client, path: str) -> None:
    """In place of a page comes the form, as an answer that says it is not the page."""
    answer = locked.get(path, headers={"accept": "text/html,*/*"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == locked.get("/login").content


def test_over_https_the_cookie_is_secure(locked: Client) -> None:
    """A cookie that was set over TLS never goes out without."""
    locked.base_url = "https://127.0.0.1"
    assert "secure" in locked.post("/login", data={"token": TOKEN}).headers["set-cookie"].lower()


def test_a_wrong_token_does_not_log_in(locked: Client) -> None:
    """Programs get a problem, browsers the form again; neither a cookie."""
    locked.problem(401, "/login", "POST", data={"token": "wrong-horse"})
    locked.problem(401, "/login", "POST", content=b"\x00")
    locked.problem(422, "/login", "POST", content=b"\xff\xfe")
    again = locked.post("/login", data={"token": "wrong-horse"}, headers={"accept": "text/html"})
    assert (again.status_code, again.headers["location"], "set-cookie" in again.headers) == (
        303,
        "login?failed",
        False,
    )
    assert refusals(locked)["token"] == 3


def test_logging_out_takes_the_cookie_away(locked: Client) -> None:
    """The cookie is overwritten with one that has expired."""
    headers = {"cookie": cookie_of(locked), "origin": "http://127.0.0.1"}
    answer = locked.post("/logout", headers=headers)
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
def test_the_cookie_alone_changes_nothing(
    journal: SqliteJournal, serve: Callable[..., Any], headers: dict[str, str], status: int
) -> None:
    """With the cookie only the server's own page may cancel, not even one that may read."""
    client = serve(journal, controller=journal, token=TOKEN, allowed_origins=(BOARD,))
    answer = client.post(CANCEL, headers={"cookie": cookie_of(client), **headers})
    assert answer.status_code == status, answer.text
    assert bool(journal.cancel_requests("instance-1")) is (status == 202)


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_without_a_token_other_sites_still_change_nothing(client: Client, headers: dict[str, str]) -> None:
    """A page that the user looks at cannot cancel what runs on their machine."""
    client.problem(403, CANCEL, "POST", headers=headers)
    client.problem(403, "/api/v1/operations/done-0", "DELETE", headers=headers)


# --- host and origin ----------------------------------------------------------------------------------------------


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
def test_hosts(host: str, settings: dict[str, Any], allowed: bool) -> None:
    """The Host header has to name this server: another name that was made to point here does not."""
    assert security.is_host_allowed(scope_of("/", headers={"host": host}), ServerSettings(**settings)) is allowed


def test_a_request_for_another_host_is_misdirected(client: Client) -> None:
    """It is refused before anything else, health included, and the name is shown harmlessly."""
    document = client.problem(421, "/healthz", headers={"host": "evil\x1b[31m.example"})
    assert document["detail"].isprintable()
    assert refusals(client) == {"host": 1}


def test_two_hosts_are_none() -> None:
    """A request with two Host headers means something else to a proxy than to us."""
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
def test_origins(origin: str | None, host: str, allowed: bool) -> None:
    """Pages of this server and of the list may ask, and programs that are no pages."""
    headers = {"host": host} if origin is None else {"host": host, "origin": origin}
    settings = ServerSettings(allowed_hosts=("*",), allowed_origins=("https://other.example",))
    assert security.is_origin_allowed(scope_of("/", headers=headers), settings) is allowed


@given(
    st.dictionaries(
        st.sampled_from(["host", "origin", "authorization", "cookie", "sec-fetch-site"]),
        st.text(st.characters(max_codepoint=255), max_size=40),
    )
)
def test_no_header_gets_past_or_breaks_the_checks(headers: dict[str, str]) -> None:
    """Whatever a client sends, the checks answer yes or no, and no to what does not hold the token."""
    settings = ServerSettings(token=TOKEN)
    for method in ("GET", "POST"):
        scope = scope_of("/api/v1/stream?access_token=%ff", method, headers)
        security.is_host_allowed(scope, settings)
        security.is_origin_allowed(scope, settings)
        security.may_be_forged(scope, settings)
        assert not security.is_authorised(scope, settings)


def test_cross_origin_reading_is_closed_by_default(client: Client) -> None:
    """No header opens anything to other origins, and their requests are refused."""
    assert not [name for name in client.get(LIST).headers if name.startswith("access-control")]
    answer = client.get(LIST, headers={"origin": BOARD})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": BOARD, "access-control-request-method": "DELETE"}
    assert client.request("OPTIONS", LIST, headers=preflight).status_code == 403


def test_an_allowed_origin_may_read_without_credentials(
    journal: SqliteJournal, serve: Callable[..., Any]
) -> None:
    """An origin of the list gets its preflight and its answer; cookies are never asked for."""
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


def test_a_websocket_is_refused_before_it_is_accepted(locked: Client) -> None:
    """Without the token, or from another origin, the handshake is answered with a refusal."""

    def refuse(headers: dict[str, str]) -> list[dict[str, Any]]:
        scope = scope_of("/api/v1/ws", headers=headers) | {"type": "websocket", "subprotocols": []}
        return asyncio.run(raw_request(locked.app, scope, {"type": "websocket.connect"}))

    assert refuse({})[0]["type"] == "websocket.close"
    assert refuse({**BEARER, "origin": "https://evil.example"})[0]["type"] == "websocket.close"
    assert refusals(locked) == {"token": 1, "origin": 1}
