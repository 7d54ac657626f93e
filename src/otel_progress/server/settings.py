"""Settings and limits of the server."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from otel_progress.errors import ConfigurationError
from otel_progress.server.peers import is_valid_network
from otel_progress.settings.defaults import DEFAULT_HOST, DEFAULT_PORT
from otel_progress.settings.parsing import parse_token
from otel_progress.text import truncate

MAX_ENDED: Final = 1_000
"""Ended operations stored for clients that reconnect. The oldest are evicted."""


ENDED_AGE_S: Final = 900.0
"""Time for which an ended operation is stored for clients that reconnect, in seconds."""


BATCH_POLL_S: Final = 1.0
"""Time between two polls of the batches while one of their operations changes, in seconds."""


IDLE_BATCH_POLL_S: Final = 5.0
"""The same without changes, in seconds. A declared batch may have no operation yet."""


RECONCILE_S: Final = 10.0
"""Time between two comparisons of the known runs with the journal, in seconds."""


WATCH_RETRY_S: Final = 0.5
"""Pause before the reader is watched again after an error, in seconds."""


@dataclass(frozen=True, slots=True)
class PollIntervals:
    """Intervals of the poller of the streams, in seconds.

    ``pause_s`` is between two rounds, ``idle_pause_s`` while no operation is followed by id. A
    change that is newer than ``settle_s`` is not compared with the journal, which may not have it
    yet.
    """

    pause_s: float = 0.05
    idle_pause_s: float = 0.5
    batches_s: float = BATCH_POLL_S
    idle_batches_s: float = IDLE_BATCH_POLL_S
    reconcile_s: float = RECONCILE_S
    settle_s: float = 2.0
    watch_retry_s: float = WATCH_RETRY_S


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of the streams: numbers of clients and operations, and seconds.

    ``interval_s`` is between two polls of the journal's watch, ``pause_s`` the shortest time
    between two writes to one client. A client whose write blocks for ``blocked_s`` is disconnected.
    """

    clients: int = 1_000
    subscriptions: int = 1_000
    trees: int = 200
    interval_s: float = 0.025
    pause_s: float = 0.05
    heartbeat_s: float = 10.0
    blocked_s: float = 30.0
    max_ended: int = MAX_ENDED
    ended_age_s: float = ENDED_AGE_S
    polling: PollIntervals = field(default_factory=PollIntervals)


LOCAL_PROXIES: Final = ("127.0.0.0/8", "::1")
"""Proxies that are trusted by default: those on this machine."""


_NAME: Final = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?")


_ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits per request, in bytes, seconds and counts.

    A request beyond one gets a problem document.

    ``body_s`` is the time for a client to send a body, ``answer_s`` the time for the journal to
    answer. ``readers`` threads read at a time, and ``waiting`` more requests queue for them. Lists
    of operations include the newest ``ended`` ended operations. The history has all.

    ``otlp_body_bytes`` and ``otlp_inflated_bytes`` limit the body of an OTLP request, before and
    after its compression. At most ``otlp_requests`` are in memory at a time, and ``otlp_threads``
    threads decode and store them.
    """

    body_bytes: int = 64 * 1024
    url_bytes: int = 8 * 1024
    body_s: float = 10.0
    answer_s: float = 10.0
    readers: int = 4
    waiting: int = 128
    ended: int = 2_000
    otlp_body_bytes: int = 8 * 1024 * 1024
    otlp_inflated_bytes: int = 16 * 1024 * 1024
    otlp_requests: int = 16
    otlp_threads: int = 2


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of a server. Raises ConfigurationError when a value is not valid.

    ``host`` and ``port`` are the bound address. When ``token`` is set, every request needs it.
    ``allowed_hosts`` are additional names for the Host header. ``*.example.org`` includes
    subdomains, and ``*`` includes all names: use it only behind a proxy that checks them. Loopback
    names and the bound host are always allowed. ``allowed_origins`` are web origins
    (``https://board.example.org``) whose pages may send requests, in addition to the server's own
    page. ``root_path`` is the prefix that a proxy removes. ``trusted_proxies`` are addresses and
    networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` headers are used.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = LOCAL_PROXIES
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.token is not None:
            _check_token(self.token)
        for name in self.allowed_hosts:
            if not (_NAME.fullmatch(name) or is_address(name)):
                msg = (
                    f"Invalid allowed host {_quote(name)}: expected a host name without a port. "
                    "Use a name such as progress.example.org."
                )
                raise ConfigurationError(msg)
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                msg = (
                    f"Invalid allowed origin {_quote(origin)}: expected scheme, host and port. "
                    "Use an origin such as https://board.example.org:8443."
                )
                raise ConfigurationError(msg)
        for network in self.trusted_proxies:
            if not is_valid_network(network):
                msg = (
                    f"Invalid trusted proxy {_quote(network)}: expected an IP address or a network. "
                    "Use an address such as 10.0.0.7 or a network such as 10.0.0.0/8."
                )
                raise ConfigurationError(msg)
        if not _PREFIX.fullmatch(self.root_path):
            msg = (
                f"Invalid root path {_quote(self.root_path)}: expected no slash at the end. "
                "Use a prefix such as /progress."
            )
            raise ConfigurationError(msg)


def is_address(host: str) -> bool:
    """Return True for an IP address. IPv6 addresses may have brackets."""
    return _parse_address(host) is not None


def is_loopback(host: str) -> bool:
    """Return True when a host is a loopback name or address."""
    address = _parse_address(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def is_unspecified(host: str) -> bool:
    """Return True when a bound host means all addresses of the machine."""
    address = _parse_address(host)
    return host == "" or (address is not None and address.is_unspecified)


def _check_token(token: str) -> None:
    """Raise ConfigurationError for an invalid token.

    The message does not contain the token.
    """
    try:
        is_valid = parse_token(token) == token
    except ValueError as error:
        msg = f"Invalid token of {len(token)} characters: expected {error}"
        raise ConfigurationError(msg) from None
    if not is_valid:
        raise ConfigurationError("Invalid token: expected no spaces at its ends. Remove them.")


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None


def _quote(value: object) -> str:
    return truncate(repr(value), 100)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections: their number, times in seconds, buffers in bytes.

    ``request_s`` is the time for a client to send the head of a request, and again for its body.
    After ``blocked_s`` without reading, the client is disconnected. ``buffer`` is the write buffer
    of this process per connection, ``kernel_buffer`` the one of the operating system.

    A connection is idle unless it is authenticated or its request is being answered. Of
    ``max_connections``, ``reserved_connections`` are not available to idle ones, and an address has
    at most ``idle_per_peer`` idle ones. Above these limits, the one that is idle longest is closed.
    An address of another machine has at most ``connections_per_peer`` connections. An evicted or
    refused connection is counted.
    """

    max_connections: int = 2_000
    reserved_connections: int = 500
    idle_per_peer: int = 500
    connections_per_peer: int = 500
    request_s: float = 10.0
    blocked_s: float = 30.0
    idle_s: int = 15
    buffer: int = 64 * 1024
    kernel_buffer: int = 128 * 1024
