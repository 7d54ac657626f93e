"""Sessions, limits on failed attempts, and addresses of clients behind proxies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.errors import ConfigurationError
from otel_progress.journal import SqliteJournal
from otel_progress.server import ServerSettings
from otel_progress.server.access import AccessControl
from otel_progress.server.attempts import BURST_ATTEMPTS, REFILL_S, AttemptLimiter
from otel_progress.server.peers import find_peer, is_secure
from otel_progress.server.sessions import MAX_REVOKED, SESSION_S, Sessions
from tests.support.rest_client import Client, refusals, scope_of

TOKEN = "correct-horse-battery"
LIST = "/api/v1/operations"
LOCAL = ("127.0.0.0/8", "::1")


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.seconds


# --- failed attempts ------------------------------------------------------------------------------


def test_attempts_beyond_the_burst_wait_for_the_refill() -> None:
    """Other peers are not affected."""
    now = Now()
    limiter = AttemptLimiter(now)
    for _ in range(BURST_ATTEMPTS):
        assert limiter.find_wait("a") == 0
        limiter.count_failure("a")
    assert limiter.find_wait("a") == REFILL_S
    assert limiter.find_wait("b") == 0
    now.seconds += REFILL_S - 0.5
    assert limiter.find_wait("a") == 1
    now.seconds += 0.5
    assert limiter.find_wait("a") == 0
    limiter.count_failure("a")
    assert limiter.find_wait("a") == REFILL_S
    now.seconds += REFILL_S * BURST_ATTEMPTS
    assert limiter.find_wait("a") == 0
    assert not limiter._full_at


def test_limited_peer_is_refused_without_a_check(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """Also with the correct token, because a response would confirm a guess.

    Sessions still work.
    """
    client: Client = serve(journal, token=TOKEN)
    session = client.post("/login", data={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    wrong = {"authorization": "Bearer wrong"}
    assert [client.get(LIST, headers=wrong).status_code for _ in range(12)] == [401] * 10 + [429] * 2
    answer = client.get(LIST, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= REFILL_S
    assert client.get(LIST, headers={"cookie": session}).status_code == 200
    assert client.problem(429, "/login", "POST", data={"token": TOKEN})["detail"].startswith("Too many")
    form = client.post("/login", data={"token": TOKEN}, headers={"accept": "text/html"})
    assert form.headers["location"] == "login?wait"
    assert client.get(LIST).status_code == 401
    assert refusals(client)["attempts"] == 5


def test_failed_logins_are_limited(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    client: Client = serve(journal, token=TOKEN)
    found = [client.post("/login", data={"token": f"wrong-{n}"}).status_code for n in range(12)]
    assert found == [401] * 10 + [429] * 2


def test_invented_forwarded_addresses_share_a_limit() -> None:
    """A local program can send any address to a server that trusts local proxies."""
    access = AccessControl(ServerSettings(token=TOKEN), Now())
    waits = []
    for number in range(120):
        headers = {"authorization": "Bearer wrong", "x-forwarded-for": f"192.0.2.{number}"}
        waits.append(access.check(scope_of(LIST, headers=headers)).wait_s)
    assert waits == [0] * 100 + [1] * 20


# --- sessions -------------------------------------------------------------------------------------


def test_session_ends_with_its_time_its_token_or_its_log_out() -> None:
    now = Now()
    sessions = Sessions(TOKEN, now)
    first, second = sessions.create(), sessions.create()
    has_access = sessions.watch(first)
    assert (sessions.is_valid(first), sessions.is_valid(second), has_access()) == (True, True, True)
    assert not Sessions("another-horse-battery", now).is_valid(first)
    sessions.revoke(first)
    assert (sessions.is_valid(first), sessions.is_valid(second), has_access()) == (False, True, False)
    now.seconds += SESSION_S
    assert not sessions.is_valid(second)


@pytest.mark.parametrize("change", [lambda v: f"9{v}", lambda v: v[:-1], lambda v: "", lambda v: "é.é.é"])
def test_changed_session_is_invalid(change: Callable[[str], str]) -> None:
    """A client cannot extend its session."""
    sessions = Sessions(TOKEN)
    assert not sessions.is_valid(change(sessions.create()))


def test_revoked_sessions_are_bounded() -> None:
    sessions = Sessions(TOKEN)
    for _ in range(MAX_REVOKED + 10):
        sessions.revoke(sessions.create())
        sessions.revoke("not-a-session")
    assert len(sessions._revoked) == MAX_REVOKED


def test_logged_out_session_has_no_access(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """Also if another program has a copy of the cookie."""
    client: Client = serve(journal, token=TOKEN)
    cookie = client.post("/login", data={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
    headers = {"cookie": cookie, "origin": "http://127.0.0.1"}
    assert b"data-login" in client.get("/", headers=headers).content
    assert client.post("/logout", headers={"cookie": cookie, "origin": "http://evil"}).status_code == 403
    assert client.get(LIST, headers=headers).status_code == 200
    assert client.post("/logout", headers=headers).status_code == 303
    assert client.get(LIST, headers=headers).status_code == 401
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert b"data-login" not in client.get("/", headers=bearer).content


def test_login_keeps_the_requested_page(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """Only pages of the server are accepted."""
    client: Client = serve(journal, token=TOKEN)
    for target, location in {"docs": "docs", "": "./", "//evil.example": "./"}.items():
        answer = client.post("/login", data={"token": TOKEN, "next": target})
        assert answer.headers["location"] == location


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),  # not a trusted proxy
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the client sent the first
        ("127.0.0.1", "198.51.100.1, 127.0.0.5", "198.51.100.1"),
        ("::1", "198.51.100.1:4711", "198.51.100.1"),
        ("::ffff:127.0.0.1", "[2001:db8::1]:80", "2001:db8::/64"),
        ("2001:db8:0:1:2:3:4:5", None, "2001:db8:0:1::/64"),
        ("127.0.0.1", "198.51.100.1, garbage", "127.0.0.1"),
        ("127.0.0.1", "1.2.3.4," * 1_000, "127.0.0.1"),
    ],
)
def test_peer_is_the_last_address_that_is_not_a_proxy(client: str, forwarded: str | None, peer: str) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert find_peer(scope_of("/", headers=headers, client=(client, 1)), LOCAL) == peer


def test_tls_is_reported_by_trusted_proxies_only(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """Behind it, the cookie is sent over TLS only."""
    headers = {"x-forwarded-proto": "https"}
    assert is_secure(scope_of("/", headers=headers), LOCAL)
    assert not is_secure(scope_of("/", headers=headers, client=("192.0.2.7", 1)), LOCAL)
    assert not is_secure(scope_of("/"), LOCAL)
    client: Client = serve(journal, token=TOKEN)
    for sent, is_expected in ((headers, True), ({}, False)):
        cookie = client.post("/login", data={"token": TOKEN}, headers=sent).headers["set-cookie"].lower()
        assert ("; secure" in cookie) is is_expected
        assert "max-age=2592000" in cookie


def test_trusted_proxy_must_be_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"expected an IP address or a network\. Use"):
        ServerSettings(trusted_proxies=("proxy.example.org",))
