"""A thousand slow or silent connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from tests.support.api_server import PATIENCE_S, answers, get
from tests.support.programs import PROGRAMS
from tests.support.servers import poll

pytestmark = [pytest.mark.process, pytest.mark.server]

psutil = pytest.importorskip("psutil")
resource = pytest.importorskip("resource")

SLOW, SILENT, HALF = 500, 250, 250
GROWTH = 256 * 1024 * 1024
"""Allowed growth of the process, in bytes. 500 clients with 64 KiB buffers, two pieces each, and
their tasks need 120 MiB. Without limits they would need that much per second.
"""


def test_flood_of_slow_connections_keeps_memory_bounded() -> None:
    """The API still answers, and all slow clients are disconnected."""
    program = str(PROGRAMS / "limited_server.py")
    pipe, clients = subprocess.PIPE, list[socket.socket]()
    with (
        many_files(SLOW + SILENT + HALF + 200),
        subprocess.Popen([sys.executable, program], stdin=pipe, stdout=pipe, text=True) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            counted = flood_and_measure(int(server.stdout.readline()), psutil.Process(server.pid), clients)
        finally:
            for client in clients:
                client.close()
            server.stdin.close()
            server.wait(timeout=60)
    refused = {name: number for name, number in counted.items() if "refused" in name and number}
    assert refused['progress_server_refused_total{reason="slow"}'] >= 400
    assert refused['progress_server_refused_total{reason="head"}'] >= 300
    assert server.returncode == 0


def flood_and_measure(port: int, process: Any, clients: list[socket.socket]) -> dict[str, float]:
    """Flood a server during normal requests.

    Return its metrics after all are disconnected.
    """
    url = f"http://127.0.0.1:{port}"
    poll(lambda: answers(f"{url}/healthz"))
    before = process.memory_info().rss
    flood(port, clients)
    answered = [answers(f"{url}/healthz") for _ in range(20)]
    grown = process.memory_info().rss - before
    assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"
    assert sum(answered) >= 18, "normal requests are still answered"
    poll(
        lambda: metrics(url).get('progress_server_clients{transport="sse"}') == 0.0,
        120.0,
        "end of the slow clients",
    )
    poll(lambda: len(process.net_connections()) < 20, 120.0, "end of the connections")
    return poll(lambda: metrics(url), what="metrics")


@contextmanager
def many_files(wanted: int) -> Iterator[None]:
    """Raise the limit of open files for this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system allows {hard} open files: the flood needs {wanted}")
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (soft if soft == resource.RLIM_INFINITY else max(soft, wanted), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(port: int, clients: list[socket.socket]) -> None:
    """Open all connections and add each to ``clients``. No response is read."""
    for number in range(SLOW + SILENT + HALF):
        client = socket.socket()
        clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", port))
        # If this process was suspended, a connection may already be aborted.
        with suppress(ConnectionError):
            if number < SLOW:
                client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            elif number < SLOW + HALF:
                client.sendall(b"GET /api/v1/str")


def metrics(url: str) -> dict[str, float]:
    """Return the metrics of the server, none while it accepts no connection."""
    try:
        text = get(f"{url}/metrics").text
    except httpx.TransportError:
        return {}
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("progress_server"))
    return {name: float(value) for name, _, value in rows}
