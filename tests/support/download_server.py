"""HTTP server of files for tests of downloads and uploads, with faults on request."""

from __future__ import annotations

import gzip
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.loopback import own_host

BODY = random.Random(7).randbytes(30_000) + bytes(170_000)
"""Body of the files, 200,000 bytes. It can be compressed."""
GZIP_BODY = gzip.compress(BODY, mtime=0)


@dataclass
class DownloadServer:
    """A running server, and what it received."""

    url: str
    uploads: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers and body of each upload."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        """Answer like GET, without a body."""
        self._reply()

    def do_GET(self) -> None:
        """Answer with the body that the path requests."""
        self._reply()

    def do_PUT(self) -> None:
        """Store an upload."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        self._send(200, b"stored")

    def do_POST(self) -> None:
        """Store an upload."""
        self.do_PUT()

    def _reply(self) -> None:
        name = urlsplit(self.path).path.strip("/").rpartition("/")[2]
        if name == "redirect":
            self.send_response(302)
            self.send_header("Location", "/file.bin")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name == "empty":
            self.send_response(204)
            self.end_headers()
        elif name == "missing":
            self._send(404, b"not found")
        elif name == "gzip":
            self._send(200, GZIP_BODY, {"Content-Encoding": "gzip"})
        elif name == "json":
            self._send(200, b'{"rows": [1, 2]}')
        elif name == "chunked":
            self._send_chunks(BODY)
        elif name == "chunked-gzip":
            self._send_chunks(GZIP_BODY, {"Content-Encoding": "gzip"})
        elif name == "no-length":
            self.close_connection = True
            self._send(200, BODY, length=False)
        elif name == "truncated":
            self._send(200, BODY, sent=len(BODY) // 2)
            self.close_connection = True
        else:
            self._send_range()

    def _send_range(self) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested is None:
            self._send(200, BODY, {"Accept-Ranges": "bytes"})
            return
        first, last = int(requested[1]), int(requested[2] or len(BODY) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(BODY)}"}
        self._send(206, BODY[first : last + 1], headers)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        length: bool = True,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    def _send_chunks(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 7000):
            part = body[start : start + 7000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving_http(handler: type[BaseHTTPRequestHandler], **attributes: Any) -> Iterator[str]:
    """Serve with a handler on a free loopback port. Yield the URL.

    ``attributes`` are set on the server, for the handler.
    """
    server = ThreadingHTTPServer((own_host(), 0), handler)
    server.daemon_threads = True
    for name, value in attributes.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{server.server_address[0]}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_downloads() -> Iterator[DownloadServer]:
    """Serve files, and accept uploads."""
    uploads: list[tuple[str, dict[str, str], bytes]] = []
    with serving_http(_Handler, uploads=uploads) as url:
        yield DownloadServer(url, uploads)
