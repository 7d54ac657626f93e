"""Servers that receive reports: HTTP, HTTPS, and a socket of a service manager."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.servers import poll, require


@dataclass
class ReportServer:
    """Received requests as (path, body, headers), and the status of answers."""

    url: str = ""
    status: int = 200
    location: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Answers wait for it."""

    def __post_init__(self) -> None:
        self.released.set()

    @property
    def paths(self) -> list[str]:
        """Paths of the requests without their queries."""
        return [path.partition("?")[0] for path, _, _ in list(self.requests)]

    def wait_for(self, number: int) -> None:
        """Wait for a number of requests."""
        poll(lambda: len(self.requests) >= number, what=f"{number} requests")


@contextmanager
def receiving_reports(context: ssl.SSLContext | None = None) -> Iterator[ReportServer]:
    """Run a server on a free loopback port."""
    received = ReportServer()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            received.requests.append((self.path, body, dict(self.headers)))
            received.released.wait(60.0)
            self.send_response(received.status)
            if received.location:
                self.send_header("Location", received.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        def get_request(self) -> tuple[socket.socket, object]:
            connection, address = super().get_request()
            return (context.wrap_socket(connection, server_side=True) if context else connection), address

        def handle_error(self, *_: object) -> None:
            """Ignore connections that the client breaks."""

    with Server(("127.0.0.1", 0), Handler) as server:
        received.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield received
        finally:
            received.released.set()
            server.shutdown()
            thread.join()


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a certificate for the loopback address, and a server's context."""
    key, certificate = folder / "key.pem", folder / "ca.pem"
    subprocess.run(
        [
            require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", str(key), "-out", str(certificate),
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


@contextmanager
def service_manager(address: str) -> Iterator[socket.socket]:
    """Bind the socket of a service manager. ``@`` starts an abstract name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30.0)
        manager.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        yield manager
