"""Limits of connections per peer, and eviction of idle connections."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.server.connection_table import ConnectionTable
from otel_progress.server.settings import ConnectionLimits

LIMITS = ConnectionLimits(max_connections=10, reserved_connections=3, idle_per_peer=4, connections_per_peer=5)


class Connection:
    """A connection that records its eviction."""

    def __init__(self, peer: str = "127.0.0.1") -> None:
        self.peer = peer
        self.is_authenticated = False
        self.is_evicted = False

    def admit(self, *, is_authenticated: bool) -> None:
        """Do nothing."""

    def evict(self) -> None:
        """Record the eviction."""
        self.is_evicted = True


class Table(ConnectionTable):
    """A table with a clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0
        super().__init__(LIMITS, lambda: self.seconds)

    def open(self, number: int, peer: str = "127.0.0.1", *, active: bool = False) -> list[Connection]:
        """Add connections, one second apart."""
        found = []
        for _ in range(number):
            connection = Connection(peer)
            assert self.add(connection)[0]
            if active:
                self.set_idle(connection, is_idle=False)
            found.append(connection)
            self.seconds += 1.0
        return found


def evicted(connections: list[Connection]) -> list[int]:
    """Return the positions of the evicted connections."""
    return [number for number, connection in enumerate(connections) if connection.is_evicted]


def test_idle_connection_of_a_peer_beyond_its_limit_replaces_the_oldest() -> None:
    table = Table()
    connections = table.open(4)
    table.touch(connections[0])
    table.seconds += 1.0
    more = table.open(2)
    assert evicted(connections) == [1, 2]
    assert table.total == 4
    table.remove(connections[1])  # closed after the eviction
    table.remove(more[0])
    assert table.total == 3


def test_burst_of_new_connections_is_not_evicted() -> None:
    """They have not sent their first request yet."""
    table = Table()
    connections = [Connection() for _ in range(10)]
    assert [table.add(connection) for connection in connections] == [(True, 0)] * 10
    table.seconds += 1.0
    assert table.add(Connection()) == (True, 4)
    assert evicted(connections) == [0, 1, 2, 3]


def test_new_client_gets_a_connection_while_others_hold_all() -> None:
    """Idle connections of many peers leave places free, and are evicted for new ones."""
    table = Table()
    idle = [table.open(4, f"192.0.2.{number}") for number in range(5)]
    assert table.total == 7
    active = table.open(8, active=True)
    assert not evicted(active)
    assert len([one for group in idle for one in group if not one.is_evicted]) == 2


def test_connection_is_refused_if_no_other_is_idle() -> None:
    table = Table()
    table.open(10, active=True)
    refused = Connection()
    assert table.add(refused) == (False, 0)
    table.remove(refused)
    assert table.total == 10


def test_address_of_another_machine_has_a_limit_of_its_own() -> None:
    """Connections on this machine, as of a proxy, have none."""
    table = Table()
    table.open(5, "192.0.2.1", active=True)
    refused = Connection("192.0.2.1")
    assert table.add(refused) == (False, 0)
    table.remove(refused)
    table.open(1, "192.0.2.2")
    assert table.total == 6


def test_finished_request_makes_a_connection_idle_again() -> None:
    table = Table()
    first = table.open(1, active=True)[0]
    table.set_idle(first, is_idle=True)
    table.seconds += 1.0
    table.open(4)
    assert first.is_evicted
    table.set_idle(first, is_idle=True)
    assert table.total == 4
