"""Access checks of one ASGI scope: host, origin and token.

The same for REST and streams.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.types import Scope

from otel_progress.server.settings import ServerSettings, is_address, is_loopback, is_unspecified

COOKIE: Final = "otel_progress_token"
"""Cookie that the login form sets."""


STREAMS: Final = frozenset({"/api/v1/stream", "/api/v1/ws"})
"""Paths that accept the token in the query, because browsers cannot send headers there."""


MAX_QUERY_FIELDS: Final = 1_100
"""Fields in the query of a stream. A query with more is refused."""


MAX_COOKIES: Final = 4
"""Cookies of the login form that are checked per request. Further ones are ignored."""


SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


def get_headers(scope: Scope, name: str) -> list[str]:
    """Return the values of all headers with a name in lower case."""
    raw_name = name.encode("latin-1")
    return [value.decode("latin-1") for key, value in scope["headers"] if key == raw_name]


def get_header(scope: Scope, name: str) -> str | None:
    """Return the value of the first header with a name in lower case, or None."""
    return next(iter(get_headers(scope, name)), None)


def mounted_path(scope: Scope) -> str:
    """Return the path relative to the mount point of the application."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and (path == prefix or path.startswith(f"{prefix}/")) else path


def is_host_allowed(scope: Scope, settings: ServerSettings) -> bool:
    """Return True when the Host header names this server.

    It protects against DNS rebinding.

    IP addresses are allowed when the server is bound to all addresses: rebinding needs a name.
    """
    hosts = get_headers(scope, "host")
    if len(hosts) != 1:
        return False
    name = _parse_host_name(hosts[0])
    if name is None:
        return False
    if is_loopback(name) or name == settings.host.lower().strip("[]"):
        return True
    if is_address(name) and is_unspecified(settings.host):
        return True
    return any(_matches(name, allowed.lower().rstrip(".").strip("[]")) for allowed in settings.allowed_hosts)


def is_origin_allowed(scope: Scope, settings: ServerSettings) -> bool:
    """Return True when the Origin header is absent, the server's own, or allowed.

    Clients other than browsers send no Origin. The scheme is not compared, because a proxy may
    terminate TLS.
    """
    origins = get_headers(scope, "origin")
    if not origins:
        return True
    if len(origins) > 1:
        return False
    return origins[0] in settings.allowed_origins or is_same_origin(scope, origins[0])


def is_same_origin(scope: Scope, origin: str) -> bool:
    """Return True when an Origin equals the server's address in the Host header."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    host = get_header(scope, "host")
    if parts.scheme not in {"http", "https"} or not parts.netloc or host is None:
        return False
    own = _split_with_port(host, parts.scheme)
    return own is not None and _split_with_port(parts.netloc, parts.scheme) == own


def is_authorised(scope: Scope, settings: ServerSettings) -> bool:
    """Return True when no token is required, or the request contains it.

    It can be a bearer token, or for streams in the query. Sessions are not checked.
    """
    return settings.token is None or has_bearer(scope, settings)


def has_bearer(scope: Scope, settings: ServerSettings) -> bool:
    """Return True when a bearer token or the query of a stream is correct."""
    return any([is_token(token, settings) for token in read_tokens(scope)])


def read_tokens(scope: Scope) -> list[str]:
    """Return the tokens that a request contains, correct or not."""
    tokens = [
        value.partition(" ")[2].strip()
        for value in get_headers(scope, "authorization")
        if value[:7].lower() == "bearer "
    ]
    if mounted_path(scope) in STREAMS:
        query = scope.get("query_string", b"").decode("latin-1")
        tokens += [value for name, value in _parse_pairs(query) if name == "access_token"]
    return tokens


def read_cookies(scope: Scope) -> list[str]:
    """Return the values of the cookie of the login form, at most ``MAX_COOKIES``."""
    pairs = (
        pair.strip().partition("=") for value in get_headers(scope, "cookie") for pair in value.split(";")
    )
    return [value for name, _, value in pairs if name == COOKIE][:MAX_COOKIES]


def is_token(text: str, settings: ServerSettings) -> bool:
    """Compare with the token in constant time. Return False when no token is set."""
    return settings.token is not None and _equals(text, settings.token)


def is_framing_ambiguous(scope: Scope) -> bool:
    """Return True when a request has two lengths of its body (RFC 9112, 6.1).

    A proxy may read another length than this server, and then the two disagree about where the next
    request starts.
    """
    encodings = get_headers(scope, "transfer-encoding")
    is_old = str(scope.get("http_version", "1.1")).startswith("1.0")
    return bool(encodings) and (is_old or bool(get_headers(scope, "content-length")))


def may_be_forged(scope: Scope, settings: ServerSettings) -> bool:
    """Return True when another site may have sent a changing request (CSRF).

    Browsers report the site of a request. A request with only the cookie and no site is refused.
    """
    if scope["method"] in SAFE_METHODS:
        return False
    site, origin = get_header(scope, "sec-fetch-site"), get_header(scope, "origin")
    if site not in {None, "same-origin", "none"} and origin not in settings.allowed_origins:
        return True
    if settings.token is None or has_bearer(scope, settings):
        return False
    return site != "same-origin" and not (
        site is None and origin is not None and is_same_origin(scope, origin)
    )


def _parse_pairs(query: str) -> Iterator[tuple[str, str]]:
    try:
        yield from parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return


def _equals(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _parse_host_name(host: str) -> str | None:
    """Return the name in a Host header without its port, in lower case.

    None when it is not valid.
    """
    parts = _split_authority(host)
    return None if parts is None else parts[0].rstrip(".").strip("[]")


def _split_with_port(authority: str, scheme: str) -> tuple[str, str] | None:
    parts = _split_authority(authority)
    return None if parts is None else (parts[0].rstrip("."), parts[1] or _DEFAULT_PORTS[scheme])


def _split_authority(authority: str) -> tuple[str, str] | None:
    """Return host and port of an authority, the port may be empty.

    None when it is not valid.
    """
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host, separator, port = host + bracket, rest[:1], rest[1:]
        is_valid = bool(bracket) and is_address(host) and separator in {"", ":"}
    else:
        host, separator, port = authority.partition(":")
        is_valid = bool(host) and not set(host) - _HOST_CHARACTERS
    if not is_valid or (separator and not port.isascii()) or (port and not port.isdecimal()):
        return None
    return host.lower(), port


def _matches(name: str, allowed: str) -> bool:
    return allowed in {"*", name} or (allowed.startswith("*.") and name.endswith(allowed[1:]))


_HOST_CHARACTERS: Final[frozenset[str]] = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
)
