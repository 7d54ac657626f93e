"""uvicorn connections with limits on number, slow clients and buffers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from otel_progress.semconv import RefusalReason
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import ConnectionLimits

_silenced_logger: Final = logging.getLogger("otel_progress.server.connections")
"""Silenced logger for uvicorn's messages about malformed requests and disconnects."""


_silenced_logger.setLevel(logging.CRITICAL)


def build_protocols(
    limits: ConnectionLimits, counts: ServerCounters
) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """Return classes of HTTP and WebSocket connections with limits for uvicorn."""
    http = type("LimitedHttp", (_Http,), {"limits": limits, "counts": counts})
    ws = type("LimitedSocket", (_WebSocket,), {"limits": limits, "counts": counts})
    return http, ws


class _Deadline:
    """Timer that aborts a connection unless it is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, abort: Callable[[RefusalReason], None]) -> None:
        self._loop = loop
        self._abort = abort
        self._timer: asyncio.TimerHandle | None = None
        self.reason: RefusalReason | None = None

    def arm(self, seconds: float, reason: RefusalReason) -> None:
        """Start the timer. A running timer for the same reason is not extended."""
        if self._timer is not None and self.reason == reason:
            return
        self.disarm()
        self.reason = reason
        self._timer = self._loop.call_later(seconds, self._abort, reason)

    def handle_loss(self, reason: RefusalReason, error: Exception | None, counts: ServerCounters) -> None:
        """Cancel the timer of a lost connection.

        Count a client that the operating system timed out.
        """
        if self._timer is not None and self.reason == reason and isinstance(error, TimeoutError):
            counts.count_refusal(reason)
        self.disarm()

    def disarm(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Http(H11Protocol):
    """Cancel the timer of a lost connection, and count a timeout of the system."""

    limits: ConnectionLimits
    counts: ServerCounters

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _silenced_logger
        self.access_log = False
        self._reading = _Deadline(self.loop, self._abort)
        self._writing = _Deadline(self.loop, self._abort)
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._is_refused = True
            self.counts.count_refusal("connections")
            transport.abort()
            return
        _limit_buffers(transport, self.limits)
        self._reading.arm(self.limits.request_s, "head")

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.disarm()
        self._writing.handle_loss("slow", exc, self.counts)
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
        """Start a timer for the part that the client is sending.

        Data that arrives does not extend it.
        """
        client_state = self.conn.their_state
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._reading.disarm()
        elif client_state is h11.SEND_BODY:
            self._reading.arm(self.limits.request_s, "body")
        elif client_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._reading.arm(self.limits.request_s, "head")
        else:
            self._reading.disarm()

    def _abort(self, reason: RefusalReason) -> None:
        if not self.transport.is_closing() or reason == "slow":
            self.counts.count_refusal(reason)
            self.transport.abort()


class _WebSocket(WebSocketsSansIOProtocol):
    """WebSocket connection that is aborted when its client no longer reads."""

    limits: ConnectionLimits
    counts: ServerCounters

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _silenced_logger
        self._writing = _Deadline(self.loop, self._abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.arm(self.limits.blocked_s, "slow")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writing.handle_loss("slow", exc, self.counts)
        super().connection_lost(exc)

    def _abort(self, reason: RefusalReason) -> None:
        self.counts.count_refusal(reason)
        self.transport.abort()


def _limit_buffers(transport: asyncio.Transport, limits: ConnectionLimits) -> None:
    """Limit the write buffers, so that slow clients receive recent messages."""
    transport.set_write_buffer_limits(high=limits.buffer)
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.kernel_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Why: without it a client whose network is down is detected after a quarter of an hour.
        # It is longer than our own timeout, which counts the client.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout_ms = int(limits.blocked_s * 2000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
