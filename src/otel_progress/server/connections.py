"""Connections with limits: how many, how long a client may take to say what it wants or to take an answer, how much waits to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from otel_progress.server.settings import ConnectionLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_progress.server.counters import ServerCounters


_quiet: Final = logging.getLogger("otel_progress.server.connections")
"""What uvicorn says of broken requests and clients that went: nothing to be told to whoever runs the server, and no one's own logger."""


_quiet.setLevel(logging.CRITICAL)


def protocols(
    limits: ConnectionLimits, counts: ServerCounters
) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """Return the classes of HTTP and WebSocket connections for uvicorn that keep to ``limits`` and count in ``counts``."""
    http = type("LimitedHttp", (_Http,), {"limits": limits, "counts": counts})
    ws = type("LimitedSocket", (_Socket,), {"limits": limits, "counts": counts})
    return http, ws


class _Deadline:
    """A moment at which a connection is cut off, unless it is called off before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cut: Callable[[str], None]) -> None:
        self._loop = loop
        self._cut = cut
        self._timer: asyncio.TimerHandle | None = None
        self.reason = ""

    def arm(self, seconds: float, reason: str) -> None:
        """Cut off after ``seconds``; a deadline for the same reason that runs already stays as it is."""
        if self._timer is not None and self.reason == reason:
            return
        self.disarm()
        self.reason = reason
        self._timer = self._loop.call_later(seconds, self._cut, reason)

    def lost(self, reason: str, error: Exception | None, counts: ServerCounters) -> None:
        """Call it off, as the connection is gone; where the system was first to give up on the client, that is counted for us."""
        if self._timer is not None and self.reason == reason and isinstance(error, TimeoutError):
            counts.refused(reason)
        self.disarm()

    def disarm(self) -> None:
        """Call it off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Http(H11Protocol):
    """An HTTP connection: closed at once when there are too many, and cut off when its client is too slow."""

    limits: ConnectionLimits
    counts: ServerCounters

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _quiet
        self.access_log = False
        self._reading = _Deadline(self.loop, self._cut)
        self._writing = _Deadline(self.loop, self._cut)
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.most:
            self._refused = True
            self.counts.refused("connections")
            transport.abort()
            return
        _bound(transport, self.limits)
        self._reading.arm(self.limits.request_s, "head")

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.disarm()
        self._writing.lost("slow", exc, self.counts)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._reading.disarm()
        self._writing.disarm()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm(self.limits.blocked_s, "slow")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.disarm()

    def _watch_reading(self) -> None:
        """Give the client a time for what it has begun to send; what it sends in between does not make that longer."""
        theirs = self.conn.their_state
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._reading.disarm()
        elif theirs is h11.SEND_BODY:
            self._reading.arm(self.limits.request_s, "body")
        elif theirs is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._reading.arm(self.limits.request_s, "head")
        else:
            self._reading.disarm()

    def _cut(self, reason: str) -> None:
        if not self.transport.is_closing() or reason == "slow":
            self.counts.refused(reason)
            self.transport.abort()


class _Socket(WebSocketsSansIOProtocol):
    """A WebSocket connection that is cut off when its client takes nothing any more."""

    limits: ConnectionLimits
    counts: ServerCounters

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _quiet
        self._writing = _Deadline(self.loop, self._cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm(self.limits.blocked_s, "slow")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writing.lost("slow", exc, self.counts)
        super().connection_lost(exc)

    def _cut(self, reason: str) -> None:
        self.counts.refused(reason)
        self.transport.abort()


def _bound(transport: asyncio.Transport, limits: ConnectionLimits) -> None:
    """Bound what waits to be sent: what a slow client gets later is then the newest, and not megabytes of the past."""
    transport.set_write_buffer_limits(high=limits.buffer)
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.kernel_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(
            socket, "TCP_USER_TIMEOUT"
        ):  # a client whose network is gone is noticed, and not after a quarter of an hour
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.blocked_s * 2000)
            )  # after our own, which count
