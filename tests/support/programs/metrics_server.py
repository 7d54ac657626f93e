"""A process with only a metrics server: ``starved`` or ``quiet``.

``starved``: without a free file descriptor a client waits until one is free. ``quiet``: valid and
invalid requests and aborted connections; the caller checks the output.
"""

from __future__ import annotations

import gc
import socket
import socketserver
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from unittest import mock

from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.http_server import MetricsServer
from tests.support.metrics_operations import Shelf, operation
from tests.support.metrics_server import PATIENCE_S, serving, wait_for_connections


def starved(server: MetricsServer) -> None:
    """Use up the descriptors until two accepts have failed, then free them."""
    import os
    import resource

    failures = threading.Semaphore(0)
    accept = socketserver.TCPServer.get_request

    def counted(self: socketserver.TCPServer) -> object:
        try:
            return accept(self)
        except OSError:
            failures.release()
            raise

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with mock.patch.object(socketserver.TCPServer, "get_request", counted), socket.socket() as client:
        client.settimeout(PATIENCE_S)
        gc.collect()  # prevents that a descriptor is closed later
        free = os.dup(client.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            client.connect((server.host, server.port))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            for _ in range(2):
                assert failures.acquire(timeout=PATIENCE_S), "the connection was accepted, or nobody tries"
            client.setblocking(False)
            try:
                raise AssertionError(client.recv(1))
            except BlockingIOError:
                client.settimeout(PATIENCE_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.0 200"


def quiet(server: MetricsServer) -> None:
    """Send valid and invalid requests, and abort connections."""
    with urllib.request.urlopen(server.url, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(server.url + "/nothing", timeout=PATIENCE_S)
    for request in (b"", b"nonsense\r\n\r\n", b"GET /metrics HTTP/1.0\r\n\r\n"):
        with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
            client.sendall(request)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    # Accepted after all of those.
    with urllib.request.urlopen(server.url, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    wait_for_connections(server)


if __name__ == "__main__":
    with serving(ProgressCollector(Shelf([operation(ratio=0.5)]))) as running:
        {"starved": starved, "quiet": quiet}[sys.argv[1]](running)
    sys.stdout.write("done\n")
