"""Metrics servers that end with their block, including all connection threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.http_server import REQUEST_TIMEOUT_S, MetricsServer, serve_metrics

PATIENCE_S = 60.0
"""Deadline for waits, reached only on failure."""


def connections(server: MetricsServer) -> list[threading.Thread]:
    """Return the threads that serve the connections of this server only."""
    serve = server._server.process_request_thread
    return [thread for thread in threading.enumerate() if getattr(thread, "_target", None) == serve]


def wait_for_connections(server: MetricsServer) -> None:
    """Wait until each accepted connection has ended.

    Its client must have disconnected.
    """
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
