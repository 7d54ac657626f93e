"""Authentication of requests by token or session, with a limit on failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import Scope

from otel_progress.server import security
from otel_progress.server.attempts import BURST_ATTEMPTS, AttemptLimiter
from otel_progress.server.connection_table import get_connection
from otel_progress.server.peers import find_peer, is_trusted
from otel_progress.server.problems import Problem
from otel_progress.server.sessions import Sessions
from otel_progress.server.settings import ServerSettings

_PROXY_FACTOR: int = 10
"""Failed attempts through one proxy, as a multiple of those of a peer.

Why: a local program can send any ``X-Forwarded-For`` to a server that trusts local proxies.
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Result of the check of a request.

    ``wait_s`` is the time until the peer's next attempt is checked, 0 without a limit.
    """

    is_valid: bool
    wait_s: int = 0


class AccessControl:
    """Checks the token or the session cookie of requests.

    Failed attempts are limited per peer: beyond the limit a token is refused without a check. A
    session cookie cannot be guessed, so it is always checked, and so is a token on a connection
    that was authenticated before. ``clock`` is monotonic and ``now`` in Unix seconds. Used from one
    thread.
    """

    def __init__(
        self,
        settings: ServerSettings,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.sessions = None if settings.token is None else Sessions(settings.token, now)
        self._attempts = AttemptLimiter(clock)
        self._proxied_attempts = AttemptLimiter(
            clock, burst=BURST_ATTEMPTS * _PROXY_FACTOR, refill_s=6.0 / _PROXY_FACTOR
        )

    def check(self, scope: Scope) -> Credentials:
        """Check a request. Without a token on the server, all are valid."""
        if self.settings.token is None or self.find_session(scope) is not None:
            return Credentials(True)
        tokens = security.read_tokens(scope)
        if not tokens:
            return Credentials(False)
        connection = get_connection(scope)
        is_known = connection is not None and connection.is_authenticated
        wait_s = 0 if is_known else self.find_wait(scope)
        if wait_s:
            return Credentials(False, wait_s)
        if any([security.is_token(token, self.settings) for token in tokens]):
            return Credentials(True)
        self.count_failure(scope)
        return Credentials(False)

    def find_session(self, scope: Scope) -> str | None:
        """Return the valid session cookie of a request, or None."""
        if self.sessions is None:
            return None
        values = security.read_cookies(scope)
        return next((value for value in values if self.sessions.is_valid(value)), None)

    def is_valid(self, scope: Scope) -> bool:
        """Return True when a request has access. Failed attempts are not counted."""
        return security.is_authorised(scope, self.settings) or self.find_session(scope) is not None

    def watch(self, scope: Scope) -> Callable[[], bool]:
        """Return a predicate that a running request still has access.

        A session ends at its expiry or log-out. A request with the token keeps its access.
        """
        session = None if security.is_authorised(scope, self.settings) else self.find_session(scope)
        if session is None or self.sessions is None:
            return lambda: True
        return self.sessions.watch(session)

    def find_wait(self, scope: Scope) -> int:
        """Return the seconds until the next attempt of the peer is checked, 0 for now."""
        wait_s = self._attempts.find_wait(find_peer(scope, self.settings.trusted_proxies))
        proxy = self._find_proxy(scope)
        return wait_s if proxy is None else max(wait_s, self._proxied_attempts.find_wait(proxy))

    def count_failure(self, scope: Scope) -> None:
        """Count a wrong token."""
        self._attempts.count_failure(find_peer(scope, self.settings.trusted_proxies))
        proxy = self._find_proxy(scope)
        if proxy is not None:
            self._proxied_attempts.count_failure(proxy)

    def _find_proxy(self, scope: Scope) -> str | None:
        client = scope.get("client")
        address = None if client is None else str(client[0])
        is_proxy = address is not None and is_trusted(address, self.settings.trusted_proxies)
        return address if is_proxy and security.get_header(scope, "x-forwarded-for") else None


def build_wait_problem(wait_s: int) -> Problem:
    """Return the problem of a peer with too many failed attempts."""
    detail = f"Too many attempts with a wrong token. Try again in {wait_s} seconds."
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": str(wait_s)})
