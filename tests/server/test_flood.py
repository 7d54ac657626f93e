"""A thousand connections that mean no good: memory stays bounded, the API answers, and in the end they are all let go."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from servers import poll

psutil = pytest.importorskip("psutil")
resource = pytest.importorskip("resource")

SLOW, SILENT, HALF = 500, 250, 250
GROWTH = 150 * 1024 * 1024
"""What the process may grow by, in bytes: 500 clients with 64 KiB waiting, 64 KiB in hand, and their tasks and connections."""


def test_a_flood_of_connections() -> None:
    """500 clients that follow everything and never read, 250 that say nothing, 250 that say half of something."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SLOW + SILENT + HALF + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system allows {hard} open files: the flood needs {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    program = str(Path(__file__).with_name("flooded.py"))
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        process = psutil.Process(server.pid)
        poll(lambda: answers(url))
        before = process.memory_info().rss
        clients: list[socket.socket] = []
        try:
            flood(port, clients)
            asked = [answers(url) for _ in range(20)]
            grown = process.memory_info().rss - before
            counted = metrics(url)
            assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"
            assert sum(asked) >= 18, "an ordinary request has its turn among all these"
            poll(lambda: metrics(url).get('progress_server_clients{transport="sse"}') == 0.0, what="end of the slow clients")
            poll(lambda: len(process.net_connections()) < 20, what="end of the connections")
            counted = metrics(url)
        finally:
            for client in clients:
                client.close()
            server.stdin.close()  # type: ignore[union-attr]
            server.wait(timeout=60)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    refused = {name: number for name, number in counted.items() if "refused" in name and number}
    assert refused['progress_server_refused_total{reason="slow"}'] >= 400
    assert refused['progress_server_refused_total{reason="head"}'] >= 300
    assert server.returncode == 0


def flood(port: int, clients: list[socket.socket]) -> None:
    """Open all connections, each put into ``clients`` at once, so that it is closed whatever happens; nothing is ever read."""
    for number in range(SLOW + SILENT + HALF):
        client = socket.socket()
        clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30.0)
        client.connect(("127.0.0.1", port))
        if number < SLOW:
            client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        elif number < SLOW + HALF:
            client.sendall(b"GET /api/v1/str")


def answers(url: str) -> bool:
    """Tell whether an ordinary request is answered; one refused for want of room is not."""
    try:
        return httpx.get(f"{url}/healthz", timeout=10.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def metrics(url: str) -> dict[str, float]:
    """Return the server's own metrics; nothing while there is no room."""
    try:
        text = httpx.get(f"{url}/metrics", timeout=10.0, trust_env=False).text
    except httpx.TransportError:
        return {}
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("progress_server"))
    return {name: float(value) for name, _, value in rows}
