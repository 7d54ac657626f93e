"""Server with the parts of the S3 protocol that transfers of boto3 need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.download_server import serving_http


@dataclass
class S3Server:
    """A running server with its objects."""

    url: str
    objects: dict[str, bytes]
    """Contents by ``bucket/key``."""
    broken_reads: set[str] = field(default_factory=set)
    """Objects of which the next read breaks in the middle."""
    failing_writes: set[str] = field(default_factory=set)
    """Objects of which the next write is answered with status 500."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _get_key(self) -> str:
        return urlsplit(self.path).path.strip("/")

    def _get_query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def do_HEAD(self) -> None:
        """Answer with the size of an object."""
        content = self.server.objects.get(self._get_key())
        if content is None:
            self._send(404)
        else:
            self._send(200, length=len(content))

    def do_GET(self) -> None:
        """Answer with an object, or a range of it."""
        key = self._get_key()
        content = self.server.objects.get(key)
        if content is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code><Message>missing</Message></Error>")
            return
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(content) - 1
        if requested is not None:
            first, last = int(requested[1]), min(int(requested[2] or last), last)
        part = content[first : last + 1]
        headers = {} if requested is None else {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        if key in self.server.broken_reads:
            self.server.broken_reads.discard(key)
            self._send(200 if requested is None else 206, part[: len(part) // 2], headers, len(part))
            self.close_connection = True
        else:
            self._send(200 if requested is None else 206, part, headers)

    def do_PUT(self) -> None:
        """Store an object, or a part of one."""
        key, query = self._get_key(), self._get_query()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if key in self.server.failing_writes:
            self.server.failing_writes.discard(key)
            self._send(500)
            return
        if "partNumber" in query:
            self.server.parts.setdefault(key, {})[int(query["partNumber"][0])] = body
        else:
            self.server.objects[key] = body
        self._send(200, headers={"ETag": '"etag"'})

    def do_POST(self) -> None:
        """Start or complete an upload of several parts."""
        key = self._get_key()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "uploads" in self._get_query():
            root = "InitiateMultipartUploadResult"
            self._send(200, f"<{root}><UploadId>1</UploadId></{root}>".encode())
            return
        parts = self.server.parts.pop(key)
        self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
        root = "CompleteMultipartUploadResult"
        self._send(200, f"<{root}><ETag>etag</ETag></{root}>".encode())

    def do_DELETE(self) -> None:
        """Abort an upload of several parts."""
        self._send(204)

    def _send(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """Serve objects in memory on a free loopback port."""
    server = S3Server("", {})
    with serving_http(
        _Handler,
        objects=server.objects,
        broken_reads=server.broken_reads,
        failing_writes=server.failing_writes,
        parts={},
    ) as url:
        server.url = url
        yield server
