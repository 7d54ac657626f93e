"""Table of open connections: limits per peer, and a reserve for authenticated clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from otel_progress.server.settings import ConnectionLimits, is_loopback

STATE_KEY: Final = "otel_progress_connection"
"""Key of the connection in the state of an ASGI scope."""


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
    """Connections by peer. Used from one thread.

    A connection is *idle* unless it is authenticated or its request was admitted and is being
    answered. Above a limit, the idle connection without activity for the longest time is evicted,
    so a new client always gets one. Only if no connection is idle, the new one is refused.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._members: set[Connection] = set()
        self._open: Counter[str] = Counter()
        # Per peer, in the order of the last activity.
        self._idle: dict[str, dict[Connection, None]] = {}
        self._idle_total = 0

    @property
    def total(self) -> int:
        """Number of open connections."""
        return len(self._members)

    def add(self, connection: Connection) -> tuple[bool, int]:
        """Add a new connection. Return whether it is accepted, and how many were evicted for it."""
        limits, peer = self._limits, connection.peer
        evicted = 0
        self._members.add(connection)
        self._open[peer] += 1
        self._set_idle(connection)
        if len(self._idle[peer]) > limits.idle_per_peer:
            evicted += self._evict_oldest(peer, connection)
        # Why: programs and proxies on this machine open many connections with one address.
        if self._open[peer] > limits.connections_per_peer and not is_loopback(peer):
            freed = self._evict_oldest(peer, connection)
            evicted += freed
            if not freed:
                return False, evicted
        if self._idle_total > limits.max_connections - limits.reserved_connections:
            evicted += self._evict_oldest(self._find_largest_peer(), connection)
        if self.total > limits.max_connections:
            freed = self._evict_oldest(self._find_largest_peer(), connection)
            evicted += freed
            if not freed:
                return False, evicted
        return True, evicted

    def touch(self, connection: Connection) -> None:
        """Record activity of an idle connection."""
        connections = self._idle.get(connection.peer)
        if connections is not None and connection in connections:
            del connections[connection]
            connections[connection] = None

    def set_idle(self, connection: Connection, *, is_idle: bool) -> None:
        """Make a connection idle or not."""
        if is_idle and connection in self._members:
            self._set_idle(connection)
        else:
            self._remove_idle(connection)

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
        if connection not in connections:
            connections[connection] = None
            self._idle_total += 1

    def _remove_idle(self, connection: Connection) -> None:
        connections = self._idle.get(connection.peer)
        if connections is None or connection not in connections:
            return
        del connections[connection]
        self._idle_total -= 1
        if not connections:
            del self._idle[connection.peer]

    def _find_largest_peer(self) -> str:
        return max(self._idle, key=lambda peer: len(self._idle[peer]), default="")

    def _evict_oldest(self, peer: str, new: Connection) -> int:
        """Evict the idle connection of a peer that is inactive for the longest time."""
        oldest = next(iter(self._idle.get(peer, ())), None)
        if oldest is None or oldest is new:
            return 0
        self.remove(oldest)
        oldest.evict()
        return 1


def get_connection(scope: Mapping[str, Any]) -> Connection | None:
    """Return the connection of a scope, None with another ASGI server."""
    state = scope.get("state")
    found = state.get(STATE_KEY) if isinstance(state, Mapping) else None
    return None if found is None else cast("Connection", found)
