"""Sessions of browsers: signed cookies with an expiry, and revocation at log-out."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

SESSION_S: Final = 30 * 24 * 3600
"""Lifetime of a login, in seconds. Then the browser shows the login form again."""


MAX_REVOKED: Final = 10_000
"""Revoked sessions that are stored until they expire. Beyond it, the oldest is evicted."""


_MAX_VALUE_CHARS: Final = 128


class Sessions:
    """Creates and checks the values of session cookies. ``now`` returns Unix seconds.

    A value contains its expiry and a signature with the token of the server. It does not contain
    the token, and another token makes it invalid. Revoked sessions are stored in this process
    until they expire.
    """

    def __init__(self, token: str, now: Callable[[], float] = time.time) -> None:
        self._key = token.encode()
        self._now = now
        self._revoked: dict[str, None] = {}

    def create(self) -> str:
        """Return the value of a new session cookie."""
        content = f"{int(self._now()) + SESSION_S}.{secrets.token_urlsafe(12)}"
        return f"{content}.{self._sign(content)}"

    def is_valid(self, value: str) -> bool:
        """Return True when a value was created here, has not expired and is not revoked."""
        content, _, signature = value[:_MAX_VALUE_CHARS].rpartition(".")
        expected = self._sign(content)
        if not hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), expected.encode()):
            return False
        # Only signed content is parsed.
        return int(content.partition(".")[0]) > self._now() and content not in self._revoked

    def watch(self, value: str) -> Callable[[], bool]:
        """Return a predicate that the session of a valid value has not ended."""
        content = value.rpartition(".")[0]
        expires_at = int(content.partition(".")[0])
        return lambda: expires_at > self._now() and content not in self._revoked

    def revoke(self, value: str) -> None:
        """End the session of a value, if it is valid."""
        if not self.is_valid(value):
            return
        self._revoked[value.rpartition(".")[0]] = None
        if len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def _sign(self, content: str) -> str:
        message = b"otel-progress session " + content.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
