"""A thousand connections that mean no good: memory stays bounded, the API answers, and in the end they are all let go."""

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
"""What the process may grow by, in bytes. 500 clients with 64 KiB waiting, two pieces in hand, their tasks and connections come to 120 MiB;
without bounds they would come to that much in each second."""


def test_a_flood_of_connections() -> None:
    """500 clients that follow everything and never read, 250 that say nothing, 250 that say half of something."""
    program = str(PROGRAMS / "limited_server.py")
    pipe, clients = subprocess.PIPE, list[socket.socket]()
    with (
        many_files(SLOW + SILENT + HALF + 200),
        subprocess.Popen([sys.executable, program], stdin=pipe, stdout=pipe, text=True) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            counted = flooded(int(server.stdout.readline()), psutil.Process(server.pid), clients)
        finally:
            for client in clients:
                client.close()
            server.stdin.close()
            server.wait(timeout=60)
    refused = {name: number for name, number in counted.items() if "refused" in name and number}
    assert refused['progress_server_refused_total{reason="slow"}'] >= 400
    assert refused['progress_server_refused_total{reason="head"}'] >= 300
    assert server.returncode == 0


def flooded(port: int, process: Any, clients: list[socket.socket]) -> dict[str, float]:
    """Flood a server while it is asked ordinary things; return its metrics once it has let go of everybody."""
    url = f"http://127.0.0.1:{port}"
    poll(lambda: answers(f"{url}/healthz"))
    before = process.memory_info().rss
    flood(port, clients)
    asked = [answers(f"{url}/healthz") for _ in range(20)]
    grown = process.memory_info().rss - before
    assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"
    assert sum(asked) >= 18, "an ordinary request has its turn among all these"
    poll(
        lambda: metrics(url).get('progress_server_clients{transport="sse"}') == 0.0,
        120.0,
        "end of the slow clients",
    )
    poll(lambda: len(process.net_connections()) < 20, 120.0, "end of the connections")
    return poll(lambda: metrics(url), what="metrics")


@contextmanager
def many_files(wanted: int) -> Iterator[None]:
    """Let this process, and those it starts, have so many files open within the block."""
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
    """Open all connections, each put into ``clients`` at once, so that it is closed whatever happens; nothing is ever read."""
    for number in range(SLOW + SILENT + HALF):
        client = socket.socket()
        clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", port))
        # Where this process stood still, a connection may have been cut off before it said anything.
        with suppress(ConnectionError):
            if number < SLOW:
                client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            elif number < SLOW + HALF:
                client.sendall(b"GET /api/v1/str")


def metrics(url: str) -> dict[str, float]:
    """Return the server's own metrics; nothing while there is no room."""
    try:
        text = get(f"{url}/metrics").text
    except httpx.TransportError:
        return {}
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("progress_server"))
    return {name: float(value) for name, _, value in rows}
