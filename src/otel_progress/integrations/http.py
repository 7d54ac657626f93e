"""HTTP responses that count their bytes.

Supports requests, httpx, aiohttp, urllib3 and urllib.
"""

from __future__ import annotations

import io
import re
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, partial
from typing import Any, Final, TypeVar

from otel_progress.diagnostics import log_warning
from otel_progress.integrations.files import METHODS, ProgressFile, make_read
from otel_progress.integrations.transfer import Transfer, find_parent, get_url_name, wrap_safely

R = TypeVar("R")


def wrap_response(
    response: R,
    name: str | None = None,
    *,
    type: str = "download",
    total: int | None = None,
    weight: float | None = None,
    **metadata: object,
) -> R:
    """Return a response that counts the bytes of its body, as a level.

    ``response`` is that of requests (with ``stream=True``), httpx (sync or async, from ``stream``),
    aiohttp, urllib3 (with ``preload_content=False``) or ``urllib.request.urlopen``. All ways to
    read the body count. The result is the same object for requests, httpx and aiohttp, and one
    like it for the others. ``name`` defaults to the last part of the URL without its query.
    ``total`` is a number of bytes and defaults to the header ``Content-Length``.

    Bytes are counted as they are transferred, so a compressed body fits the header. If the
    response is the end of a larger file (status 206), the bytes before it count as done earlier.

    The level is a child of the current level, or an operation. It is completed at the end of the
    body. It fails if the connection breaks, if bytes are missing at the end, or if the status is
    400 or higher. It is cancelled if the response is closed before the end. Without
    :func:`otel_progress.configure` the response is unchanged. Raises only for invalid arguments in
    strict mode.
    """
    return wrap_safely(lambda: _wrap(response, name, type, total, weight, metadata), response)


def _wrap(
    response: Any, name: str | None, type: str, total: Any, weight: Any, metadata: dict[str, object]
) -> object:
    kind = _find_kind(response)
    if kind is None:
        log_warning(
            "Invalid response of the type %s: expected one of requests, httpx, aiohttp, urllib3 or urllib.",
            response.__class__.__name__,
        )
        return response
    size = _BodySize(response)
    is_async = kind is _wrap_aiohttp or (kind is _wrap_httpx and hasattr(response.stream, "__aiter__"))
    start = size.start
    if start and is_async and find_parent() is None:
        # Why: resume_from of an operation waits for the journal, which would block the event loop.
        size.total, start = (None if size.total is None else size.total - start), 0
    if name is None:
        name = get_url_name(_get_url(response))
    transfer = Transfer(
        type, name, total=size.total if total is None else total, weight=weight, metadata=metadata
    )
    if not transfer.is_running:
        return response
    if start:
        transfer.resume_from(start)
    return kind(response, BodyMeter(transfer, size.status))


class BodyMeter:
    """Counts the body of a response, and ends its level.

    The level fails by the status of the response, or if bytes are missing at the end.
    """

    __slots__ = ("_get_received", "_received", "_status", "_transfer")

    def __init__(self, transfer: Transfer, status: int | None) -> None:
        self._transfer = transfer
        self._status = status
        self._get_received: Callable[[], int] | None = None
        self._received = 0

    def read_received_with(self, get_received: Callable[[], int]) -> None:
        """Use a function that returns the number of bytes which were transferred so far."""
        self._get_received = get_received

    def count(self, size: int) -> None:
        """Count a part of the body, with ``size`` bytes after decompression."""
        received = self._read_received()
        if received > self._received:
            self._transfer.add(received - self._received)
            self._received = received
        elif not self._received:  # unknown, for example for a chunked body
            self._transfer.add(size)

    def count_text(self, text: str) -> None:
        """Count a text. A body consists of bytes, so this is one of a foreign response."""
        self.count(len(text))

    def _read_received(self) -> int:
        if self._get_received is None:
            return 0
        try:
            return int(self._get_received())
        except Exception:  # A foreign function may raise any exception.
            return 0

    def get_position(self) -> None:
        """Return None, because a body has no position."""

    def seek_from(self, before: None) -> None:
        """Do nothing, because a body cannot be read twice."""

    def finish(self) -> None:
        """End the level at the end of the body."""
        self.count(0)
        if self._status is not None and self._status >= 400:
            self._transfer.fail(f"HTTP status {self._status}")
        elif self._transfer.is_incomplete:
            done, total = self._transfer.done, self._transfer.total
            self._transfer.fail(f"the connection ended after {done} of {total} bytes")
        else:
            self._transfer.end()

    def fail(self, error: BaseException) -> None:
        """End the level after a read raised."""
        if isinstance(error, Exception) and not isinstance(error, (io.UnsupportedOperation, TypeError)):
            self._transfer.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the level because the response was closed."""
        if error is not None:
            self._transfer.end(error)
        elif self._transfer.has_reached_total or (self._status is not None and self._status >= 400):
            self.finish()
        else:
            self._transfer.cancel()


class _BodySize:
    """Size of a body by the status and the headers of its response."""

    def __init__(self, response: Any) -> None:
        headers = getattr(response, "headers", None)
        self.status: int | None = _to_number(
            getattr(response, "status_code", None) or getattr(response, "status", None)
        )
        self.total: int | None = None
        self.start = 0
        """Number of bytes that an earlier response has transferred."""
        if _get_method(response) == "HEAD" or self.status in (204, 304):
            self.total = 0
            return
        if headers is None or _get_header(headers, "Transfer-Encoding").strip().lower() == "chunked":
            return
        self.total = _to_number(_get_header(headers, "Content-Length"))
        content_range = _CONTENT_RANGE.fullmatch(_get_header(headers, "Content-Range").strip())
        if self.status == 206 and content_range is not None:
            first, last = int(content_range[1]), int(content_range[2])
            if first <= last and content_range[3] in ("*", str(last + 1)):
                self.start, self.total = first, last + 1


_CONTENT_RANGE: Final = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def _get_header(headers: Any, name: str) -> str:
    try:
        return str(headers.get(name) or "")
    except Exception:  # Foreign headers may raise any exception.
        return ""


def _to_number(value: object) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _get_method(response: Any) -> str:
    request = getattr(response, "_request", None) or getattr(response, "request", None)
    method = getattr(request, "method", None) or getattr(response, "method", None)
    return str(method or getattr(response, "_method", "")).upper()


def _get_url(response: Any) -> object:
    url = getattr(response, "url", None)
    if url is None:
        get_url = getattr(response, "geturl", None)
        url = get_url() if callable(get_url) else None
    return url or ""


# --- libraries -----------------------------------------------------------------------------------


def _find_kind(response: object) -> Callable[[Any, BodyMeter], Any] | None:
    """Return the function that wraps responses of a library.

    It imports no library.
    """
    for base in response.__class__.__mro__:
        wrap = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if wrap is not None:
            return wrap
    has_headers = hasattr(response, "headers") or hasattr(response, "getheaders")
    return _wrap_file_like if has_headers and hasattr(response, "read") else None


def _wrap_file_like(response: Any, meter: BodyMeter) -> Any:
    wrapped = ProgressFile(response, meter)
    is_closed = getattr(response, "isclosed", None)
    if callable(is_closed) and is_closed():  # It has no body.
        meter.finish()
    return wrapped


class ProgressBody(ProgressFile):
    """Body of urllib3 that counts what is read."""

    _methods = METHODS | {
        "read": lambda method, meter, body: partial(_read_body, make_read(method, meter, body), meter, body),
        "stream": lambda method, meter, _: partial(_iterate_body, method, meter),
        "read_chunked": lambda method, meter, _: partial(_iterate_body, method, meter),
        "drain_conn": lambda method, meter, _: partial(_drain_body, method, meter),
    }

    @property
    def data(self) -> bytes:
        """Whole body. It is read at the first access."""
        try:
            data: bytes = self._file.data
        except BaseException as error:
            self._meter.fail(error)
            raise
        self._meter.count(len(data or b""))
        self._meter.finish()
        return data

    def json(self) -> Any:
        """Return the whole body as parsed JSON."""
        decode = self._file.json
        _ = self.data  # the response stores it
        return decode()


def _drain_body(drain: Callable[[], None], meter: BodyMeter, /) -> None:
    drain()
    meter.finish()


def _read_body(
    read: Callable[..., bytes], meter: BodyMeter, body: Any, /, *args: Any, **options: Any
) -> bytes:
    data = read(*args, **options)
    if data and body.closed:  # at the end
        meter.finish()
    return data


def _iterate_body(
    iterate: Callable[..., Iterator[bytes]], meter: BodyMeter, /, *args: Any, **options: Any
) -> Iterator[bytes]:
    try:
        for chunk in iterate(*args, **options):
            meter.count(len(chunk))
            yield chunk
    except GeneratorExit:
        raise
    except BaseException as error:
        meter.fail(error)
        raise
    meter.finish()


def _wrap_urllib3(response: Any, meter: BodyMeter) -> Any:
    meter.read_received_with(response.tell)
    body = ProgressBody(response, meter)
    if response.closed:  # It has no body, or was read.
        meter.finish()
    return body


def _wrap_requests(response: Any, meter: BodyMeter) -> Any:
    if getattr(response, "_content_consumed", False) or response.raw is None:
        meter.count(len(response.content or b""))
        meter.finish()
        return response
    if _find_kind(response.raw) is _wrap_urllib3:
        response.raw = _wrap_urllib3(response.raw, meter)
    else:  # of an adapter of its own
        response.raw = ProgressFile(response.raw, meter)
    return response


def _wrap_httpx(response: Any, meter: BodyMeter) -> Any:
    if response.is_stream_consumed or response.is_closed:
        meter.count(response.num_bytes_downloaded)
        meter.finish()
        return response
    sync_stream, async_stream = _make_httpx_streams()
    make = async_stream if hasattr(response.stream, "__aiter__") else sync_stream
    response.stream = make(response.stream, meter)
    return response


@cache
def _make_httpx_streams() -> tuple[Any, Any]:
    """Return the classes of streams. They need httpx as their base."""
    import httpx

    class SyncStream(httpx.SyncByteStream):
        def __init__(self, stream: Any, meter: BodyMeter) -> None:
            self._stream = stream
            self._meter = meter

        def __iter__(self) -> Iterator[bytes]:
            try:
                for chunk in self._stream:
                    self._meter.count(len(chunk))
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                self._meter.fail(error)
                raise
            self._meter.finish()

        def close(self) -> None:
            self._stream.close()
            self._meter.end(None)

    class AsyncStream(httpx.AsyncByteStream):
        def __init__(self, stream: Any, meter: BodyMeter) -> None:
            self._stream = stream
            self._meter = meter

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for chunk in self._stream:
                    self._meter.count(len(chunk))
                    yield chunk
            except GeneratorExit:
                raise
            except BaseException as error:
                self._meter.fail(error)
                raise
            self._meter.finish()

        async def aclose(self) -> None:
            await self._stream.aclose()
            self._meter.end(None)

    return SyncStream, AsyncStream


def _wrap_aiohttp(response: Any, meter: BodyMeter) -> Any:
    content = response.content
    if content is None:
        meter.finish()
        return response
    meter.read_received_with(lambda: content.total_raw_bytes)
    response.content = ProgressReader(content, meter)
    if content.at_eof():
        meter.finish()
    for name in ("close", "release"):
        setattr(response, name, partial(_close_aiohttp, name, weakref.ref(response), meter))
    return response


def _close_aiohttp(name: str, reference: weakref.ref[Any], meter: BodyMeter) -> Any:
    """Close or release a response, and end its level."""
    # Why a weak reference: a response that is not closed warns as soon as it is unused.
    response = reference()
    try:
        return None if response is None else getattr(type(response), name)(response)
    finally:
        meter.end(None)


class ProgressReader:
    """Stream reader of aiohttp that counts what is read.

    aiohttp receives in advance, so the count may be ahead of what was read by its buffer.
    """

    def __init__(self, reader: Any, meter: BodyMeter) -> None:
        self._reader = reader
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        if name in ("_reader", "_meter"):  # before __init__
            raise AttributeError(name)
        value = getattr(self._reader, name)
        return partial(self._read, value) if name in _READER_METHODS else value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._reader.__class__

    async def _read(self, method: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        try:
            data = await method(*args, **options)
        except BaseException as error:
            self._meter.fail(error)
            raise
        self._meter.count(len(data[0]) if isinstance(data, tuple) else len(data))
        if self._reader.at_eof():
            self._meter.finish()
        return data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate(self.readline)

    def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Yield parts of at most ``n`` bytes."""
        return self._iterate(partial(self.read, n))

    def iter_any(self) -> AsyncIterator[bytes]:
        """Yield parts as they are received."""
        return self._iterate(self.readany)

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield parts, and whether each one is the end of an HTTP chunk."""
        while (part := await self.readchunk()) != (b"", False):
            yield part

    async def _iterate(self, read: Callable[[], Any]) -> AsyncIterator[bytes]:
        while data := await read():
            yield data


_READER_METHODS: Final = frozenset({"read", "readany", "readchunk", "readexactly", "readline", "readuntil"})
"""Methods of a stream reader that return data."""


_KINDS: Final[dict[tuple[str, str], Callable[[Any, BodyMeter], Any]]] = {
    ("aiohttp", "ClientResponse"): _wrap_aiohttp,
    ("httpx", "Response"): _wrap_httpx,
    ("requests", "Response"): _wrap_requests,
    ("urllib3", "HTTPResponse"): _wrap_urllib3,
}
"""Functions that wrap responses, by the package and the name of their class."""
