"""uvicorn connections with limits on number, slow clients and buffers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from otel_progress.semconv import RefusalReason
from otel_progress.server.connection_table import STATE_KEY, ConnectionTable
from otel_progress.server.counters import ServerCounters
from otel_progress.server.peers import UNKNOWN_PEER, to_network
from otel_progress.server.settings import ConnectionLimits

resource: ModuleType | None
try:
    import resource
except ModuleNotFoundError:  # on Windows, which has no such limit
    resource = None

_silenced_logger: Final = logging.getLogger("otel_progress.server.connections")
"""Silenced logger for uvicorn's messages about malformed requests and disconnects."""


_silenced_logger.setLevel(logging.CRITICAL)


_OTHER_FILES: Final = 128
"""Open files that are not connections: the journal, pipes, and files of the program."""


def build_protocols(
    limits: ConnectionLimits, counts: ServerCounters
) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """Return classes of HTTP and WebSocket connections with limits for uvicorn."""
    limits = fit_to_open_files(limits)
    members = {"limits": limits, "counts": counts, "table": ConnectionTable(limits)}
    return type("LimitedHttp", (_Http,), members), type("LimitedSocket", (_WebSocket,), members)


def fit_to_open_files(limits: ConnectionLimits) -> ConnectionLimits:
    """Return limits that the process can reach with its open files.

    Why: without a free file descriptor no connection is accepted, not even one to replace another.
    """
    max_connections = limits.max_connections
    if resource is not None:
        max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if max_files != resource.RLIM_INFINITY:
            max_connections = max(1, min(max_connections, max_files - min(_OTHER_FILES, max_files // 4)))
    reserved = min(limits.reserved_connections, max_connections // 4)
    return replace(limits, max_connections=max_connections, reserved_connections=reserved)


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
    """HTTP connection that is aborted above the limit or with a slow client."""

    limits: ConnectionLimits
    counts: ServerCounters
    table: ConnectionTable

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = _silenced_logger
        self.access_log = False
        self.peer = UNKNOWN_PEER
        self.is_authenticated = False
        # The middleware finds the connection there.
        self.app_state = {**self.app_state, STATE_KEY: self}
        self._reading = _Deadline(self.loop, self._abort)
        self._writing = _Deadline(self.loop, self._abort)
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = to_network(self.client[0]) if self.client else UNKNOWN_PEER
        is_accepted, evicted = self.table.add(self)
        for _ in range(evicted + (not is_accepted)):
            self.counts.count_refusal("connections")
        if not is_accepted:
            self._is_refused = True
            self.table.remove(self)
            transport.abort()
            return
        _limit_buffers(transport, self.limits)
        self._reading.arm(self.limits.request_s, "head")

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self.table.touch(self)
        super().data_received(data)
        self._watch_reading()

    def on_response_complete(self) -> None:
        if not self.is_authenticated:
            self.table.set_idle(self, is_idle=True)
        super().on_response_complete()

    def admit(self, *, is_authenticated: bool) -> None:
        """Keep the connection while the current request is answered, or until it closes."""
        self.is_authenticated = self.is_authenticated or is_authenticated
        self.table.set_idle(self, is_idle=False)

    def evict(self) -> None:
        """Close the connection immediately, because a new client needs its place."""
        self._is_refused = True
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.table.remove(self)
        self._reading.disarm()
        self._writing.handle_loss("slow", exc, self.counts)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._reading.disarm()
        self._writing.disarm()
        # The WebSocket removes it from the table.
        self.table.set_idle(self, is_idle=False)
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
    table: ConnectionTable

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
        self.table.remove(self.app_state[STATE_KEY])
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
