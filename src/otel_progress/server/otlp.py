"""Endpoints of the OTLP receiver: ``/v1/logs``, ``/v1/traces``, ``/v1/metrics``.

A response follows the OTLP specification: 200 with the number of rejected records, 400 for an
invalid body, and 503 with ``Retry-After`` while the server is busy. Senders repeat only the latter.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.server.counters import ServerCounters
from otel_progress.server.problems import Problem, quote_text
from otel_progress.server.reader_pool import ReaderPool
from otel_progress.server.settings import Limits

if TYPE_CHECKING:
    from otel_progress.receivers.receiver import Receipt, Receiver
    from otel_progress.receivers.telemetry import Encoding, Signal

OTLP_PATHS: Final = frozenset({"/v1/logs", "/v1/traces", "/v1/metrics"})
"""Paths of the endpoints. Each endpoint reads its body itself."""


_ENCODINGS: Final[dict[str, Encoding]] = {
    "application/x-protobuf": "protobuf",
    "application/json": "json",
}


_MEDIA_TYPES: Final[dict[Encoding, str]] = {encoding: name for name, encoding in _ENCODINGS.items()}


_GZIP: Final = 16 + zlib.MAX_WBITS


_RETRY: Final = {"Retry-After": "1"}


_DRAINED_BODIES: Final = 4
"""A refused body is read up to this multiple of the limit. Why: a client that is still sending does
not receive a response before the connection closes.
"""


_RPC_CODES: Final = {400: 3, 408: 4, 413: 3, 415: 3, 503: 14}
"""Codes of gRPC in the bodies of errors, by HTTP status."""


class OtlpEndpoint:
    """Endpoints of one application. Requests are decoded and stored in threads."""

    def __init__(self, receiver: Receiver, counts: ServerCounters, limits: Limits) -> None:
        self._receiver = receiver
        self._counts = counts
        self._limits = limits
        self._pool = ReaderPool(replace(limits, readers=limits.otlp_threads), counts)
        self._open = 0

    def build_routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the endpoints."""
        endpoints = (self.receive_logs, self.receive_traces, self.receive_metrics)
        return [
            Route(path, endpoint, methods=["POST"])
            for path, endpoint in zip(("/v1/logs", "/v1/traces", "/v1/metrics"), endpoints, strict=True)
        ]

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()

    async def receive_logs(self, request: Request) -> Response:
        """Receive an ``ExportLogsServiceRequest``."""
        return await self._receive(request, "logs")

    async def receive_traces(self, request: Request) -> Response:
        """Receive an ``ExportTraceServiceRequest``."""
        return await self._receive(request, "traces")

    async def receive_metrics(self, request: Request) -> Response:
        """Accept and ignore an ``ExportMetricsServiceRequest``."""
        return await self._receive(request, "metrics")

    async def _receive(self, request: Request, signal: Signal) -> Response:
        encoding = _ENCODINGS.get(_parse_media_type(request.headers.get("content-type", "")))
        if encoding is None:
            await self._drain(request)
            shown = quote_text(request.headers.get("content-type", ""))
            expected = " or ".join(_ENCODINGS)
            raise Problem(415, f"Invalid content type {shown!r}: expected {expected}.")
        try:
            if signal == "metrics":
                await self._drain(request)
                return _build_response(encoding, b"" if encoding == "protobuf" else b"{}")
            receipt = await self._receive_records(request, signal, encoding)
        except Problem as problem:
            return _build_error(encoding, problem)
        return _build_receipt(signal, encoding, receipt)

    async def _receive_records(self, request: Request, signal: Signal, encoding: Encoding) -> Receipt:
        compression = request.headers.get("content-encoding", "identity").strip().lower()
        if compression not in {"identity", "gzip"}:
            await self._drain(request)
            raise Problem(
                415, f"Invalid content encoding {quote_text(compression)!r}: expected gzip or none."
            )
        if self._open >= self._limits.otlp_requests:
            await self._drain(request)
            self._counts.count_refusal("busy")
            raise Problem(503, "Too many requests are being received. Try again later.", headers=_RETRY)
        self._open += 1
        try:
            body = await self._read_body(request)
            receipt = await self._pool.run(self._store, signal, body, encoding, compression == "gzip")
        except (Problem, ClientDisconnect):
            raise
        except JournalError as error:
            raise Problem(503, str(error), headers=_RETRY) from error
        except Exception as error:
            # Why not 500: senders drop the records of such a request, and repeat one with 503.
            report_internal_error("receiver", "A request could not be stored", error=error)
            raise Problem(503, "Internal error of the receiver. See its log.", headers=_RETRY) from error
        finally:
            self._open -= 1
        if signal != "metrics":
            self._counts.count_records(signal, "accepted", receipt.accepted)
            self._counts.count_records(signal, "rejected", receipt.rejected)
            self._counts.count_records("logs", "dropped", receipt.dropped)
        return receipt

    def _store(self, signal: Signal, body: bytes, encoding: Encoding, is_compressed: bool) -> Receipt:
        """Decompress, decode and store a request. Runs in a thread."""
        from otel_progress.receivers.telemetry import InvalidRequestError

        try:
            if is_compressed:
                body = _inflate(body, self._limits.otlp_inflated_bytes)
            return self._receiver.receive(signal, body, encoding)
        except InvalidRequestError as error:
            raise Problem(400, str(error)) from error

    async def _read_body(self, request: Request) -> bytes:
        """Return the body. Raises Problem if it is too long or too slow."""
        body, max_bytes = bytearray(), self._limits.otlp_body_bytes
        total = 0

        def add(part: bytes) -> None:
            nonlocal total
            total += len(part)
            if total <= max_bytes:
                body.extend(part)
            else:
                body.clear()

        await read_parts(request.receive, add, _DRAINED_BODIES * max_bytes, self._limits.body_s)
        if total > max_bytes:
            raise Problem(413, f"Body too long: expected at most {max_bytes} bytes. Send smaller batches.")
        return bytes(body)

    async def _drain(self, request: Request) -> None:
        """Read the body without storing it."""
        await drain_body(request.receive, self._limits)


async def drain_body(receive: Receive, limits: Limits) -> None:
    """Read the body of a refused request without storing it, within limits.

    Why: a client that is still sending would not receive the response.
    """
    try:
        await read_parts(receive, lambda part: None, _DRAINED_BODIES * limits.otlp_body_bytes, limits.body_s)
    except (Problem, ClientDisconnect):
        return


async def read_parts(
    receive: Receive, handle: Callable[[bytes], None], max_bytes: int, timeout_s: float
) -> None:
    """Pass the parts of a body to ``handle``.

    Raises Problem beyond a limit, and ClientDisconnect.
    """

    async def read() -> None:
        left = max_bytes
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            left -= len(part)
            handle(part)
            if not message.get("more_body", False):
                return
            if left < 0:
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too long. Send smaller batches.")

    try:
        await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError:
        msg = f"Body too slow: expected all of it within {timeout_s:g} seconds."
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, msg) from None


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """Return the decompressed body. Raises Problem if it is invalid or too long."""
    inflated = bytearray()
    while body:
        member = zlib.decompressobj(_GZIP)
        try:
            inflated += member.decompress(body, max_bytes + 1 - len(inflated))
        except zlib.error as error:
            raise Problem(400, f"Invalid request body: expected gzip ({error}).") from error
        if len(inflated) > max_bytes:
            msg = f"Body too long: expected at most {max_bytes} bytes after decompression."
            raise Problem(413, f"{msg} Send smaller batches.")
        if not member.eof:
            raise Problem(400, "Invalid request body: expected gzip, and it ends too early.")
        body = member.unused_data
    return bytes(inflated)


def _parse_media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _build_receipt(signal: Signal, encoding: Encoding, receipt: Receipt) -> Response:
    from otel_progress.receivers import json_encoding, protobuf

    codec = protobuf if encoding == "protobuf" else json_encoding
    return _build_response(encoding, codec.encode_response(signal, receipt.rejected, receipt.reason))


def _build_error(encoding: Encoding, problem: Problem) -> Response:
    from otel_progress.receivers import json_encoding, protobuf

    codec = protobuf if encoding == "protobuf" else json_encoding
    response = _build_response(
        encoding, codec.encode_error(_RPC_CODES.get(problem.status, 2), problem.detail)
    )
    response.status_code = problem.status
    response.headers.update(problem.headers)
    return response


def _build_response(encoding: Encoding, body: bytes) -> Response:
    # Why a header: Starlette adds a character set to some media types.
    return Response(body, headers={"Content-Type": _MEDIA_TYPES[encoding]})
