"""Table of open connections, with limits per peer and for idle connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from otel_progress.server.settings import ConnectionLimits, is_loopback

STATE_KEY: Final = "otel_progress_connection"
"""Key of the connection in the state of an ASGI scope."""


_MIN_IDLE_S: Final = 1.0
"""Time without activity after which a connection above a limit per peer is evicted, in seconds."""


_MAX_EVICTED_PER_CONNECTION: Final = 4
"""Inactive connections that are evicted for a new one. More are evicted for the next ones."""


class Connection(Protocol):
    """Connection as the table and the middleware use it."""

    peer: str
    is_authenticated: bool

    def admit(self, *, is_authenticated: bool) -> None:
        """Keep the connection open while the current request is answered.

        With ``is_authenticated``, keep it until it closes.
        """

    def evict(self) -> None:
        """Close the connection immediately."""


class ConnectionTable:
    """Connections by peer. ``clock`` is monotonic, in seconds. Used from one thread.

    A connection is *idle* unless it is authenticated or its request was admitted and is being
    answered. Above a limit, idle connections without recent activity are evicted. At the limit of
    all connections, the idle one without activity for the longest time is evicted, so a new client
    always gets a connection. Only if no connection is idle, the new one is refused.
    """

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._members: set[Connection] = set()
        self._open: Counter[str] = Counter()
        # Per peer, with the time of the last activity, the oldest first.
        self._idle: dict[str, dict[Connection, float]] = {}
        self._idle_total = 0

    @property
    def total(self) -> int:
        """Number of open connections."""
        return len(self._members)

    def add(self, connection: Connection) -> tuple[bool, int]:
        """Add a new connection.

        Return whether it is accepted, and how many others were evicted.
        """
        limits, peer = self._limits, connection.peer
        self._members.add(connection)
        self._open[peer] += 1
        self._set_idle(connection)
        evicted = self._evict_inactive(peer, len(self._idle[peer]) - limits.idle_per_peer)
        max_idle = limits.max_connections - limits.reserved_connections
        if self._idle_total > max_idle:
            evicted += self._evict_inactive(self._find_largest_peer(), self._idle_total - max_idle)
        # Why: programs and proxies on this machine open many connections with one address.
        if self._open[peer] > limits.connections_per_peer and not is_loopback(peer):
            if not self._evict_oldest(peer, connection):
                return False, evicted
            evicted += 1
        if self.total > limits.max_connections:
            if not self._evict_oldest(self._find_largest_peer(), connection):
                return False, evicted
            evicted += 1
        return True, evicted

    def touch(self, connection: Connection) -> None:
        """Record activity of an idle connection."""
        connections = self._idle.get(connection.peer)
        if connections is not None and connection in connections:
            del connections[connection]
            connections[connection] = self._clock()

    def set_idle(self, connection: Connection, *, is_idle: bool) -> None:
        """Make a connection idle or not."""
        if not is_idle:
            self._remove_idle(connection)
        elif connection in self._members:
            self._set_idle(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection. Does nothing for one that was evicted."""
        if connection not in self._members:
            return
        self._remove_idle(connection)
        self._members.discard(connection)
        self._open[connection.peer] -= 1
        if not self._open[connection.peer]:
            del self._open[connection.peer]

    def _set_idle(self, connection: Connection) -> None:
        connections = self._idle.setdefault(connection.peer, {})
        if connections.pop(connection, None) is None:
            self._idle_total += 1
        connections[connection] = self._clock()

    def _remove_idle(self, connection: Connection) -> None:
        connections = self._idle.get(connection.peer)
        if connections is None or connections.pop(connection, None) is None:
            return
        self._idle_total -= 1
        if not connections:
            del self._idle[connection.peer]

    def _find_largest_peer(self) -> str:
        return max(self._idle, key=lambda peer: len(self._idle[peer]), default="")

    def _evict_inactive(self, peer: str, excess: int) -> int:
        """Evict idle connections of a peer that were inactive for a while.

        Why: clients that connect at the same time are not evicted before their first request.
        """
        oldest_active = self._clock() - _MIN_IDLE_S
        evicted = 0
        while evicted < min(excess, _MAX_EVICTED_PER_CONNECTION):
            oldest = next(iter(self._idle.get(peer, ())), None)
            if oldest is None or self._idle[peer][oldest] > oldest_active:
                break
            self._evict(oldest)
            evicted += 1
        return evicted

    def _evict_oldest(self, peer: str, new: Connection) -> bool:
        """Evict the idle connection of a peer that is inactive for the longest time."""
        oldest = next(iter(self._idle.get(peer, ())), None)
        if oldest is None or oldest is new:
            return False
        self._evict(oldest)
        return True

    def _evict(self, connection: Connection) -> None:
        self.remove(connection)
        connection.evict()


def get_connection(scope: Mapping[str, Any]) -> Connection | None:
    """Return the connection of a scope, None with another ASGI server."""
    state = scope.get("state")
    found = state.get(STATE_KEY) if isinstance(state, Mapping) else None
    return None if found is None else cast("Connection", found)
