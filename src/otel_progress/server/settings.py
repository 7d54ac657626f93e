"""Bounds of the streams."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from otel_progress.errors import ConfigurationError
from otel_progress.settings.defaults import DEFAULT_HOST, DEFAULT_PORT
from otel_progress.settings.parsing import parse_token
from otel_progress.text import truncate

MOST_ENDED: Final = 1_000
"""Operations remembered after their end, so that a client that comes back hears of it."""


ENDED_AGE_S: Final = 900.0
"""How long, in seconds."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of the streams: clients, ids one client may name, operations followed with levels, and times in seconds.

    ``interval_s`` is between two looks at the journal, ``pause_s`` the least time between two writes to one client. A client that has
    not taken a write for ``blocked_s`` is let go.
    """

    clients: int = 1_000
    subscriptions: int = 1_000
    trees: int = 200
    interval_s: float = 0.025
    pause_s: float = 0.05
    heartbeat_s: float = 10.0
    blocked_s: float = 30.0
    most_ended: int = MOST_ENDED
    ended_age_s: float = ENDED_AGE_S


_NAME: Final = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?")


_ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@-]+)*")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, in bytes, seconds and numbers; what is beyond is refused with a problem document.

    ``body_s`` is how long a client may take to send a body, ``answer_s`` how long an answer may take to be read out of the
    journal. ``readers`` threads read at a time and ``waiting`` more requests wait for one. Lists of operations look at the newest
    ``ended`` that ended; the history has them all.
    """

    body_bytes: int = 64 * 1024
    url_bytes: int = 8 * 1024
    body_s: float = 10.0
    answer_s: float = 10.0
    readers: int = 4
    waiting: int = 128
    ended: int = 2_000


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve. Raises ConfigurationError when a value cannot be used.

    ``host`` and ``port`` are what the server is bound to. ``token`` is asked for on every request when it is set. ``allowed_hosts``
    are further names in the Host header (``*.example.org`` takes in what is below, ``*`` any: only behind a proxy that checks it);
    loopback names and the bound host always are. ``allowed_origins`` are web origins (``https://board.example.org``) whose pages may
    ask; by default only the server's own page may. ``root_path`` is the prefix a proxy takes off.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    root_path: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.token is not None:
            _check_token(self.token)
        for name in self.allowed_hosts:
            if not (_NAME.fullmatch(name) or is_address(name)):
                msg = f"The allowed host {_quoted(name)} is no name of a host: expected one like progress.example.org, without a port."
                raise ConfigurationError(msg)
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                msg = f"The allowed origin {_quoted(origin)} is none: expected scheme, host and port, like https://board.example.org:8443."
                raise ConfigurationError(msg)
        if not _PREFIX.fullmatch(self.root_path):
            msg = f"The root path {_quoted(self.root_path)} is no prefix of a URL: expected one like /progress, without a slash at its end."
            raise ConfigurationError(msg)


def is_address(host: str) -> bool:
    """Tell whether a host is written as an IP address; IPv6 with or without its brackets."""
    return _address(host) is not None


def is_loopback(host: str) -> bool:
    """Tell whether a host can only mean this machine."""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def is_unspecified(host: str) -> bool:
    """Tell whether a bound host stands for every address of the machine."""
    address = _address(host)
    return host == "" or (address is not None and address.is_unspecified)


def _check_token(token: str) -> None:
    """Raise ConfigurationError when a token is none; it is never shown, and none is cut to make it one."""
    try:
        usable = parse_token(token) == token
    except ValueError as error:
        msg = f"The token has {len(token)} characters and cannot be used: expected {error}"
        raise ConfigurationError(msg) from None
    if not usable:
        raise ConfigurationError("The token begins or ends with a space: leave it out.")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None


def _quoted(value: object) -> str:
    return truncate(repr(value), 100)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of connections: ``most`` at a time, the times in seconds, the buffers in bytes.

    ``request_s`` is how long a client may take to send the head of a request, and again to send its body; ``blocked_s`` how long it
    may take no more of an answer. ``buffer`` waits in this process for a client that is slow, ``kernel_buffer`` in the system's.
    """

    most: int = 2_000
    request_s: float = 10.0
    blocked_s: float = 30.0
    idle_s: int = 15
    buffer: int = 64 * 1024
    kernel_buffer: int = 128 * 1024
