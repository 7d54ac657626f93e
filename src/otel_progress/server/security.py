"""Who may ask: host, origin and token of one request or connection, judged from its ASGI scope. Pure, and the same for REST and streams."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.types import Scope

from otel_progress.server.settings import ServerSettings, is_address, is_loopback, is_unspecified

COOKIE: Final = "otel_progress_token"
"""The cookie of the login form."""


STREAMS: Final = frozenset({"/api/v1/stream", "/api/v1/ws"})
"""Where the token may stand in the query, because browsers cannot send headers there."""


SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


def headers_of(scope: Scope, name: str) -> list[str]:
    """Return the values of all headers of this name (in lower case)."""
    wanted = name.encode("latin-1")
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


def header_of(scope: Scope, name: str) -> str | None:
    """Return the value of the first header of this name (in lower case), or None."""
    return next(iter(headers_of(scope, name)), None)


def path_of(scope: Scope) -> str:
    """Return the path below where the application is mounted."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and (path == prefix or path.startswith(f"{prefix}/")) else path


def host_allowed(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether the Host header names this server: a page of another site that made its own name point here does not.

    An address instead of a name is fine where the server is bound to every address, as no such trick is possible with one.
    """
    hosts = headers_of(scope, "host")
    if len(hosts) != 1:
        return False
    name = _name_of(hosts[0])
    if name is None:
        return False
    if is_loopback(name) or name == settings.host.lower().strip("[]"):
        return True
    if is_address(name) and is_unspecified(settings.host):
        return True
    return any(_matches(name, allowed.lower().rstrip(".").strip("[]")) for allowed in settings.allowed_hosts)


def origin_allowed(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether the page that asks, if one does, is this server's own or one that was allowed.

    Programs that are no browsers send no Origin. Only host and port are compared with the Host header: a proxy may end TLS.
    """
    origins = headers_of(scope, "origin")
    if not origins:
        return True
    if len(origins) > 1:
        return False
    return origins[0] in settings.allowed_origins or is_same_origin(scope, origins[0])


def is_same_origin(scope: Scope, origin: str) -> bool:
    """Tell whether an Origin is that of the server as the client calls it."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    host = header_of(scope, "host")
    if parts.scheme not in {"http", "https"} or not parts.netloc or host is None:
        return False
    mine = _with_port(host, parts.scheme)
    return mine is not None and _with_port(parts.netloc, parts.scheme) == mine


def authorised(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether the token is there, if one is asked for: as bearer, in the cookie, or for the streams in the query."""
    return settings.token is None or has_bearer(scope, settings) or has_cookie(scope, settings)


def has_bearer(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether the token itself is there: in the Authorization header, or in the query of a stream."""
    tokens = [
        value.partition(" ")[2].strip()
        for value in headers_of(scope, "authorization")
        if value[:7].lower() == "bearer "
    ]
    if path_of(scope) in STREAMS:
        query = scope.get("query_string", b"").decode("latin-1")
        tokens += [value for name, value in _pairs(query) if name == "access_token"]
    return any([is_token(token, settings) for token in tokens])


def has_cookie(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether the cookie of the login form is there."""
    expected = cookie_value(settings)
    pairs = (
        pair.strip().partition("=") for value in headers_of(scope, "cookie") for pair in value.split(";")
    )
    return any([_equal(value, expected) for name, _, value in pairs if name == COOKIE])


def is_token(text: str, settings: ServerSettings) -> bool:
    """Compare with the token in constant time; False when none is set."""
    return settings.token is not None and _equal(text, settings.token)


def cookie_value(settings: ServerSettings) -> str:
    """Return what the login form's cookie holds: made of the token, and not the token, which is nothing to keep in a browser."""
    return hmac.new((settings.token or "").encode(), b"otel-progress cookie", hashlib.sha256).hexdigest()


def forgery(scope: Scope, settings: ServerSettings) -> bool:
    """Tell whether a request that changes something may have been sent by another site's page in the name of the user.

    A browser says where a request comes from. One that does not, and has nothing but the cookie, is not believed.
    """
    if scope["method"] in SAFE_METHODS:
        return False
    site, origin = header_of(scope, "sec-fetch-site"), header_of(scope, "origin")
    if site not in {None, "same-origin", "none"} and origin not in settings.allowed_origins:
        return True
    if settings.token is None or has_bearer(scope, settings):
        return False
    return site != "same-origin" and not (
        site is None and origin is not None and is_same_origin(scope, origin)
    )


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    try:
        yield from parse_qsl(query, max_num_fields=1_000)
    except ValueError:
        return


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


def _name_of(host: str) -> str | None:
    """Return the name in a Host header without its port, in lower case; None when it is none."""
    parts = _split(host)
    return None if parts is None else parts[0].rstrip(".").strip("[]")


def _with_port(authority: str, scheme: str) -> tuple[str, str] | None:
    parts = _split(authority)
    return None if parts is None else (parts[0].rstrip("."), parts[1] or _DEFAULT_PORTS[scheme])


def _split(authority: str) -> tuple[str, str] | None:
    """Return host and port of an authority (the port may be empty); None when it is no such thing."""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host, separator, port = host + bracket, rest[:1], rest[1:]
        valid = bool(bracket) and is_address(host) and separator in {"", ":"}
    else:
        host, separator, port = authority.partition(":")
        valid = bool(host) and not set(host) - _HOST_CHARACTERS
    if not valid or (separator and not port.isascii()) or (port and not port.isdecimal()):
        return None
    return host.lower(), port


def _matches(name: str, allowed: str) -> bool:
    return allowed in {"*", name} or (allowed.startswith("*.") and name.endswith(allowed[1:]))


_HOST_CHARACTERS: Final[frozenset[str]] = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
)
