"""Addresses of clients, also behind trusted proxies.

A proxy reports the client in ``X-Forwarded-For`` and TLS in ``X-Forwarded-Proto``. The headers of
other peers are ignored, because any client can send them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

UNKNOWN_PEER: Final = "unknown"
"""Peer of a connection without an IP address, such as one over a Unix socket."""


_IPV6_PREFIX_BITS: Final = 64
"""A client has all addresses of such a network, so limits count the network."""


_MAX_FORWARDED_BYTES: Final = 2_048
"""A longer ``X-Forwarded-For`` is ignored, and the proxy counts as the client."""


def find_peer(scope: Scope, trusted_proxies: Sequence[str]) -> str:
    """Return the address that limits count for a request.

    It is the last address in ``X-Forwarded-For`` that is not a trusted proxy, if the connection is
    from a trusted proxy. IPv6 addresses are reduced to their network.
    """
    client = scope.get("client")
    address = str(client[0]) if client else UNKNOWN_PEER
    if is_trusted(address, tuple(trusted_proxies)):
        for text in reversed(_read_forwarded(scope)):
            forwarded = _parse(text)
            if forwarded is None:
                break
            address = str(forwarded)
            if not is_trusted(address, tuple(trusted_proxies)):
                break
    return to_network(address)


def is_secure(scope: Scope, trusted_proxies: Sequence[str]) -> bool:
    """Return True when the client uses TLS, to this server or to a trusted proxy."""
    if scope.get("scheme") in {"https", "wss"}:
        return True
    client = scope.get("client")
    if client is None or not is_trusted(str(client[0]), tuple(trusted_proxies)):
        return False
    # Why: each proxy appends its own value, and the first one is the one of the client.
    schemes = ",".join(_read_headers(scope, b"x-forwarded-proto")).split(",")
    return schemes[0].strip().lower() in {"https", "wss"}


def is_valid_network(text: str) -> bool:
    """Return True for an IP address or a network such as ``10.0.0.0/8``."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1_024)
def is_trusted(address: str, trusted_proxies: tuple[str, ...]) -> bool:
    """Return True when an address belongs to a trusted proxy."""
    parsed = _parse(address)
    if parsed is None:
        return False
    networks = (ipaddress.ip_network(text, strict=False) for text in trusted_proxies)
    return any(parsed.version == network.version and parsed in network for network in networks)


@lru_cache(maxsize=1_024)
def to_network(address: str) -> str:
    """Return an IPv4 address unchanged, and the network of an IPv6 address."""
    parsed = _parse(address)
    if parsed is None or parsed.version == 4 or parsed.is_loopback:
        return address if parsed is None else str(parsed)
    return str(ipaddress.ip_network(f"{parsed}/{_IPV6_PREFIX_BITS}", strict=False))


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, also one with a port or in brackets.

    None when it is not valid.
    """
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def _read_forwarded(scope: Scope) -> list[str]:
    text = ",".join(_read_headers(scope, b"x-forwarded-for"))
    return text.split(",") if text and len(text) <= _MAX_FORWARDED_BYTES else []


def _read_headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
