"""Servers of metrics that are gone when their block ends, with the threads of all their connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.http_server import REQUEST_TIMEOUT_S, MetricsServer, serve_metrics

PATIENCE_S = 60.0
"""How long to wait for what is to happen; reached only when it never does."""


def connections(server: MetricsServer) -> list[threading.Thread]:
    """Return the threads that serve the connections of this server, and of no other in the process."""
    serve = server._server.process_request_thread
    return [thread for thread in threading.enumerate() if getattr(thread, "_target", None) == serve]


def wait_for_connections(server: MetricsServer) -> None:
    """Return when each connection that was accepted has ended; their clients have to be gone."""
    for thread in connections(server):
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a connection is still served"


@contextmanager
def serving(
    collector: ProgressCollector,
    port: int = 0,
    host: str = "127.0.0.1",
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> Iterator[MetricsServer]:
    """Serve for the length of the block."""
    with serve_metrics(collector, port, host, timeout_s=timeout_s) as server:
        yield server
    server._thread.join(PATIENCE_S)
    wait_for_connections(server)
