"""Downloads and uploads of HTTP libraries, with a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import io
import shutil
import urllib.request
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.integrations.files import wrap_file
from otel_progress.integrations.http import wrap_response
from otel_progress.testing import Recorder
from tests.support.download_server import BODY, GZIP_BODY, DownloadServer, serving_downloads

SIZE = len(BODY)
WIRE = {"gzip": len(GZIP_BODY)}
"""Bytes on the wire of the paths that differ from the others."""


@pytest.fixture(scope="module")
def server() -> Iterator[DownloadServer]:
    with serving_downloads() as running:
        yield running


@pytest.fixture
def op(recorder: Recorder) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise."""
    assert recorder.runtime is not None
    with progress.operation("downloads", id="downloads-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


def get_only_level() -> LevelSnapshot:
    operation = progress.get_operation("downloads-1")
    assert operation is not None
    (level,) = operation.levels
    return level


def assert_level(status: Status, current: int | None, total: int | None) -> None:
    level = get_only_level()
    assert level.status is status, level
    assert level.total == total
    if current is not None:
        assert level.current == current


# --- ways to read, by library --------------------------------------------------------------------


def with_requests(read: Callable[[Any], bytes]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        requests = pytest.importorskip("requests", reason="this test runs the real library")
        with (
            requests.Session() as session,
            wrap(session.get(url, stream=True, headers=headers, timeout=30)) as response,
        ):
            return read(response)

    return download


def with_httpx(read: Callable[[Any], bytes]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        httpx = pytest.importorskip("httpx", reason="this test runs the real library")
        with (
            httpx.Client(follow_redirects=True, trust_env=False, verify=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            assert wrap(response) is response
            return read(response)

    return download


def with_async_httpx(read: Callable[[Any], Any]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        httpx = pytest.importorskip("httpx", reason="this test runs the real library")

        async def run() -> bytes:
            async with (
                httpx.AsyncClient(follow_redirects=True, trust_env=False, verify=False) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                return await read(wrap(response))

        return asyncio.run(run())

    return download


def with_aiohttp(read: Callable[[Any], Any]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        aiohttp = pytest.importorskip("aiohttp", reason="this test runs the real library")

        async def run() -> bytes:
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
                return await read(wrap(response))

        return asyncio.run(run())

    return download


def with_urllib3(read: Callable[[Any], bytes]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        urllib3 = pytest.importorskip("urllib3", reason="this test runs the real library")
        with urllib3.PoolManager(retries=urllib3.Retry(raise_on_status=False)) as pool:
            response = wrap(pool.request("GET", url, headers=headers, preload_content=False))
            try:
                return read(response)
            finally:
                response.close()

    return download


def with_urllib(read: Callable[[Any], bytes]) -> Callable[..., bytes]:
    def download(url: str, wrap: Callable[[Any], Any], headers: dict[str, str]) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(url, headers=headers)
        with wrap(opener.open(request, timeout=30)) as response:
            return read(response)

    return download


def copy(file: Any) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(file, target, 10_000)
    return target.getvalue()


def read_parts(file: Any) -> bytes:
    return b"".join(iter(lambda: file.read(10_000), b""))


def read_into(file: Any) -> bytes:
    buffer, result = bytearray(10_000), b""
    while size := file.readinto(buffer):
        result += buffer[:size]
    return result


async def join(parts: Any) -> bytes:
    return b"".join([part async for part in parts])


async def join_chunks(parts: Any) -> bytes:
    return b"".join([part async for part, _ in parts])


async def read_async_parts(content: Any) -> bytes:
    result = b""
    while part := await content.read(10_000):
        result += part
    return result


READS: dict[str, Callable[..., bytes]] = {
    "requests-iter_content": with_requests(lambda response: b"".join(response.iter_content(10_000))),
    "requests-iter_content_none": with_requests(lambda response: b"".join(response.iter_content(None))),
    "requests-content": with_requests(lambda response: response.content),
    "requests-iter": with_requests(b"".join),
    "requests-raw": with_requests(
        lambda response: b"".join(iter(lambda: response.raw.read(10_000, decode_content=True), b""))
    ),
    "httpx-iter_bytes": with_httpx(lambda response: b"".join(response.iter_bytes())),
    "httpx-iter_bytes_size": with_httpx(lambda response: b"".join(response.iter_bytes(10_000))),
    "httpx-read": with_httpx(lambda response: response.read()),
    "httpx-async-iter_bytes": with_async_httpx(lambda response: join(response.aiter_bytes())),
    "httpx-async-read": with_async_httpx(lambda response: response.aread()),
    "aiohttp-read": with_aiohttp(lambda response: response.read()),
    "aiohttp-iter_chunked": with_aiohttp(lambda response: join(response.content.iter_chunked(10_000))),
    "aiohttp-iter_any": with_aiohttp(lambda response: join(response.content.iter_any())),
    "aiohttp-iter_chunks": with_aiohttp(lambda response: join_chunks(response.content.iter_chunks())),
    "aiohttp-read_parts": with_aiohttp(lambda response: read_async_parts(response.content)),
    "urllib3-stream": with_urllib3(lambda response: b"".join(response.stream(10_000, decode_content=True))),
    "urllib3-read": with_urllib3(lambda response: response.read(decode_content=True)),
    "urllib3-data": with_urllib3(lambda response: response.data),
    "urllib3-data_after_read": with_urllib3(lambda response: response.read(1000) + response.data),
}
PLAIN_READS: dict[str, Callable[..., bytes]] = {
    "requests-raw-copy": with_requests(lambda response: copy(response.raw)),
    "requests-raw-readinto": with_requests(lambda response: read_into(response.raw)),
    "httpx-iter_raw": with_httpx(lambda response: b"".join(response.iter_raw())),
    "httpx-async-iter_raw": with_async_httpx(lambda response: join(response.aiter_raw())),
    "urllib3-copy": with_urllib3(copy),
    "urllib3-read_parts": with_urllib3(read_parts),
    "urllib-read": with_urllib(lambda response: response.read()),
    "urllib-read_parts": with_urllib(read_parts),
    "urllib-readinto": with_urllib(read_into),
    "urllib-copy": with_urllib(copy),
    "urllib-lines": with_urllib(b"".join),
}
"""Ways that do not decompress."""
ALL_READS = READS | PLAIN_READS
ONE_OF_EACH = (
    "requests-iter_content",
    "httpx-iter_bytes",
    "httpx-async-iter_bytes",
    "aiohttp-iter_chunked",
    "urllib3-stream",
    "urllib-copy",
)


@pytest.mark.parametrize("way", ALL_READS)
def test_wrap_response_counts_each_byte_and_completes(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/folder/file.bin?token=x", wrap_response, {}) == BODY
    assert_level(Status.COMPLETED, SIZE, SIZE)
    info = get_only_level().info
    assert (info.type, info.name, info.unit) == ("download", "file.bin", "B")


@pytest.mark.parametrize("way", READS)
def test_wrap_response_of_compressed_body_counts_bytes_on_the_wire(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    assert READS[way](f"{server.url}/gzip", wrap_response, {"Accept-Encoding": "gzip"}) == BODY
    assert_level(Status.COMPLETED, len(GZIP_BODY), len(GZIP_BODY))


@pytest.mark.parametrize("path", ["chunked", "no-length"])
@pytest.mark.parametrize("way", [*ONE_OF_EACH, "urllib3-read", "requests-content", "urllib-read"])
def test_wrap_response_without_length_counts_and_completes(
    way: str, path: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/{path}", wrap_response, {}) == BODY
    assert_level(Status.COMPLETED, SIZE, None)


@pytest.mark.parametrize("way", ONE_OF_EACH[:-1])
def test_wrap_response_of_compressed_chunks_completes(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/chunked-gzip", wrap_response, {"Accept-Encoding": "gzip"}) == BODY
    assert_level(Status.COMPLETED, None, None)


@pytest.mark.parametrize(
    "way", [*ONE_OF_EACH, "urllib-read", "urllib-readinto", "aiohttp-read", "urllib3-data"]
)
def test_wrap_response_of_broken_connection_fails(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    with contextlib.suppress(Exception):  # Some libraries raise, and others return a part.
        assert ALL_READS[way](f"{server.url}/truncated", wrap_response, {}) != BODY
    level = get_only_level()
    assert level.status is Status.FAILED
    assert level.current <= SIZE // 2
    assert level.error is not None


@pytest.mark.parametrize("way", ONE_OF_EACH)
def test_wrap_response_of_resumed_download_starts_at_the_range(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    headers = {"Range": "bytes=150000-", "Accept-Encoding": "identity"}
    assert ALL_READS[way](f"{server.url}/file.bin", wrap_response, headers) == BODY[150_000:]
    assert_level(Status.COMPLETED, SIZE, SIZE)
    assert get_only_level().resumed_from == 150_000


@pytest.mark.parametrize("way", ONE_OF_EACH)
def test_wrap_response_of_part_counts_the_part(way: str, server: DownloadServer, op: progress.Level) -> None:
    assert op.recording
    headers = {"Range": "bytes=1000-1999", "Accept-Encoding": "identity"}
    assert ALL_READS[way](f"{server.url}/file.bin", wrap_response, headers) == BODY[1000:2000]
    assert_level(Status.COMPLETED, 1000, 1000)
    assert get_only_level().resumed_from == 0


@pytest.mark.parametrize("way", ONE_OF_EACH)
def test_wrap_response_after_redirect_counts_the_last_response(
    way: str, server: DownloadServer, op: progress.Level
) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/redirect", wrap_response, {}) == BODY
    assert_level(Status.COMPLETED, SIZE, SIZE)
    assert get_only_level().info.name == "file.bin"


@pytest.mark.parametrize("way", ONE_OF_EACH)
def test_wrap_response_without_body_completes(way: str, server: DownloadServer, op: progress.Level) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/empty", wrap_response, {}) == b""
    assert_level(Status.COMPLETED, 0, 0)


def test_wrap_response_of_head_completes(server: DownloadServer, op: progress.Level) -> None:
    requests = pytest.importorskip("requests", reason="this test runs the real library")
    httpx = pytest.importorskip("httpx", reason="this test runs the real library")
    assert op.recording
    with wrap_response(requests.head(f"{server.url}/file.bin", stream=True, timeout=30)) as response:
        assert response.headers["Content-Length"] == str(SIZE)
    assert_level(Status.COMPLETED, 0, 0)
    wrap_response(httpx.head(f"{server.url}/file.bin", trust_env=False, verify=False))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{server.url}/file.bin", method="HEAD")
    with wrap_response(opener.open(request, timeout=30)) as answer:
        assert answer.read() == b""
    operation = progress.get_operation("downloads-1")
    assert operation is not None
    assert [(level.status, level.current, level.total) for level in operation.levels] == [
        (Status.COMPLETED, 0, 0)
    ] * 3


@pytest.mark.parametrize("way", ONE_OF_EACH[:-1])
def test_wrap_response_with_error_status_fails(way: str, server: DownloadServer, op: progress.Level) -> None:
    assert op.recording
    assert ALL_READS[way](f"{server.url}/missing", wrap_response, {}) == b"not found"
    level = get_only_level()
    assert (level.status, level.current) == (Status.FAILED, 9)
    assert level.error is not None
    assert level.error.message == "HTTP status 404"


def test_wrap_response_closed_early_is_cancelled(server: DownloadServer, op: progress.Level) -> None:
    assert op.recording
    for way in (
        with_requests(lambda response: next(response.iter_content(1000))),
        with_httpx(lambda response: next(response.iter_bytes(1000))),
        with_urllib3(lambda response: response.read(1000)),
        with_urllib(lambda response: response.read(1000)),
        with_aiohttp(lambda response: response.content.readexactly(1000)),
    ):
        assert len(way(f"{server.url}/file.bin", wrap_response, {})) == 1000
    operation = progress.get_operation("downloads-1")
    assert operation is not None
    assert [level.status for level in operation.levels] == [Status.CANCELLED] * 5
    assert {level.message for level in operation.levels} == {"stopped before the end"}


@pytest.mark.parametrize("end", ["close", "release"])
def test_wrap_response_of_aiohttp_ends_when_it_is_closed(
    end: str, server: DownloadServer, op: progress.Level
) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="this test runs the real library")
    assert op.recording

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            response = wrap_response(await session.get(f"{server.url}/file.bin"))
            await response.content.readexactly(1000)
            getattr(response, end)()
            assert get_only_level().status is Status.CANCELLED
            assert response.closed
            reference = weakref.ref(response)
            del response
            assert reference() is None

    asyncio.run(run())


def test_wrap_response_of_urllib3_that_is_drained_completes(
    server: DownloadServer, op: progress.Level
) -> None:
    urllib3 = pytest.importorskip("urllib3", reason="this test runs the real library")
    assert op.recording
    with urllib3.PoolManager() as pool:
        response = wrap_response(pool.request("GET", f"{server.url}/file.bin", preload_content=False))
        response.drain_conn()
    assert_level(Status.COMPLETED, SIZE, SIZE)


def test_wrap_response_of_urllib3_parses_json(server: DownloadServer, op: progress.Level) -> None:
    urllib3 = pytest.importorskip("urllib3", reason="this test runs the real library")
    assert op.recording
    with urllib3.PoolManager() as pool:
        response = wrap_response(pool.request("GET", f"{server.url}/json", preload_content=False))
        assert response.json() == {"rows": [1, 2]}
    assert_level(Status.COMPLETED, 16, 16)


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_wrap_response_of_cancelled_task_is_cancelled(
    library: str, server: DownloadServer, recorder: Recorder
) -> None:
    with_library = {"httpx": with_async_httpx, "aiohttp": with_aiohttp}[library]

    async def read(response: Any) -> bytes:
        parts = response.aiter_bytes(1000) if library == "httpx" else response.content.iter_chunked(1000)
        async for _ in parts:
            raise asyncio.CancelledError
        return b""

    assert recorder.runtime is not None
    with pytest.raises(asyncio.CancelledError), progress.operation("downloads", id="downloads-1"):
        with_library(read)(f"{server.url}/file.bin", wrap_response, {})
    gc.collect()
    assert get_only_level().status is Status.CANCELLED


def test_wrap_response_of_resumed_async_download_without_operation_does_not_wait(
    server: DownloadServer, recorder: Recorder
) -> None:
    """The event loop must not wait for the journal, so the level has the rest only."""
    assert recorder.runtime is not None
    headers = {"Range": "bytes=150000-", "Accept-Encoding": "identity"}
    for way in ("httpx-async-iter_bytes", "httpx-iter_bytes"):
        assert ALL_READS[way](f"{server.url}/file.bin", wrap_response, headers) == BODY[150_000:]
    later, earlier = progress.get_history()
    assert (earlier.root.current, earlier.root.total, earlier.root.resumed_from) == (50_000, 50_000, 0)
    assert (later.root.current, later.root.total, later.root.resumed_from) == (SIZE, SIZE, 150_000)


def test_wrap_response_that_was_read_completes(server: DownloadServer, op: progress.Level) -> None:
    requests = pytest.importorskip("requests", reason="this test runs the real library")
    httpx = pytest.importorskip("httpx", reason="this test runs the real library")
    assert op.recording
    assert wrap_response(requests.get(f"{server.url}/file.bin", timeout=30)).content == BODY
    assert wrap_response(httpx.get(f"{server.url}/file.bin", trust_env=False, verify=False)).content == BODY
    operation = progress.get_operation("downloads-1")
    assert operation is not None
    assert [(level.status, level.current) for level in operation.levels] == [(Status.COMPLETED, SIZE)] * 2


def test_wrap_response_of_file_url_completes(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    (tmp_path / "file.bin").write_bytes(BODY)
    with wrap_response(urllib.request.urlopen((tmp_path / "file.bin").as_uri())) as response:
        assert response.read() == BODY
    assert_level(Status.COMPLETED, SIZE, SIZE)


def test_wrap_response_with_arguments_uses_them(server: DownloadServer, op: progress.Level) -> None:
    requests = pytest.importorskip("requests", reason="this test runs the real library")
    assert op.recording
    response = requests.get(f"{server.url}/chunked", stream=True, timeout=30)
    wrapped = wrap_response(response, "video", type="fetch", total=SIZE, mirror="a")
    assert wrapped.content == BODY
    level = get_only_level()
    assert (level.info.type, level.info.name, dict(level.metadata)) == ("fetch", "video", {"mirror": "a"})
    assert_level(Status.COMPLETED, SIZE, SIZE)


def test_wrap_response_of_invalid_object_returns_it_and_logs(
    op: progress.Level, caplog: pytest.LogCaptureFixture
) -> None:
    assert op.recording
    assert wrap_response("https://example.com/?token=x") == "https://example.com/?token=x"
    assert "Invalid response of the type str" in caplog.text
    assert "token" not in caplog.text


@pytest.mark.parametrize("way", ONE_OF_EACH)
def test_wrap_response_without_configuration_changes_nothing(way: str, server: DownloadServer) -> None:
    def wrap(response: Any) -> Any:
        before = dict(getattr(response, "__dict__", {}))
        assert wrap_response(response) is response
        assert dict(getattr(response, "__dict__", {})) == before
        return response

    assert ALL_READS[way](f"{server.url}/file.bin", wrap, {}) == BODY


def test_wrap_response_header_values_never_raise(op: progress.Level) -> None:
    assert op.recording

    class Response(io.BytesIO):
        status = "broken"
        url = "http://[broken"
        headers = {"Content-Length": "many", "Content-Range": "bytes 9-1/0"}  # noqa: RUF012

    with wrap_response(Response(BODY)) as response:
        assert response.read() == BODY
    assert_level(Status.COMPLETED, SIZE, None)


# --- uploads -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "upload.bin"
    path.write_bytes(BODY)
    return path


def assert_upload(server: DownloadServer, length: str | None = str(SIZE)) -> None:
    _, headers, body = server.uploads.pop()
    assert body == BODY
    assert {name.lower(): value for name, value in headers.items()}.get("content-length") == length
    assert_level(Status.COMPLETED, SIZE, SIZE)


@pytest.mark.parametrize("in_memory", [False, True])
def test_requests_upload_of_wrapped_file_has_content_length(
    in_memory: bool, path: Path, server: DownloadServer, op: progress.Level
) -> None:
    requests = pytest.importorskip("requests", reason="this test runs the real library")
    assert op.recording
    opened: Any = io.BytesIO(BODY) if in_memory else path.open("rb")
    with wrap_file(opened, type="upload") as file:
        assert requests.put(server.url, data=file, timeout=30).text == "stored"
    assert_upload(server)


def test_requests_multipart_of_wrapped_file_counts(
    path: Path, server: DownloadServer, op: progress.Level
) -> None:
    requests = pytest.importorskip("requests", reason="this test runs the real library")
    assert op.recording
    with wrap_file(path.open("rb")) as file:
        requests.post(server.url, files={"file": file}, timeout=30)
    assert BODY in server.uploads.pop()[2]
    assert_level(Status.COMPLETED, SIZE, SIZE)


@pytest.mark.parametrize("in_memory", [False, True])
def test_httpx_upload_of_wrapped_file_has_content_length(
    in_memory: bool, path: Path, server: DownloadServer, op: progress.Level
) -> None:
    httpx = pytest.importorskip("httpx", reason="this test runs the real library")
    assert op.recording
    opened: Any = io.BytesIO(BODY) if in_memory else path.open("rb")
    with httpx.Client(trust_env=False, verify=False) as client, wrap_file(opened, type="upload") as file:
        assert client.put(server.url, content=file).text == "stored"
    assert_upload(server)


def test_httpx_multipart_of_wrapped_file_counts(
    path: Path, server: DownloadServer, op: progress.Level
) -> None:
    httpx = pytest.importorskip("httpx", reason="this test runs the real library")
    assert op.recording
    with httpx.Client(trust_env=False, verify=False) as client, wrap_file(path.open("rb")) as file:
        client.post(server.url, files={"file": file})
    assert BODY in server.uploads.pop()[2]
    assert_level(Status.COMPLETED, SIZE, SIZE)


@pytest.mark.parametrize("in_memory", [False, True])
def test_aiohttp_upload_of_wrapped_file_counts(
    in_memory: bool, path: Path, server: DownloadServer, op: progress.Level
) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="this test runs the real library")
    assert op.recording
    opened: Any = io.BytesIO(BODY) if in_memory else path.open("rb")

    async def upload() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # aiohttp warns about large bodies in memory
            async with aiohttp.ClientSession() as session:
                with wrap_file(opened, type="upload") as file:
                    async with session.put(server.url, data=file) as response:
                        assert await response.text() == "stored"

    asyncio.run(upload())
    assert_upload(server)


def test_urllib_upload_of_wrapped_file_counts(path: Path, server: DownloadServer, op: progress.Level) -> None:
    assert op.recording
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with wrap_file(path.open("rb"), type="upload") as file:
        request = urllib.request.Request(
            server.url, data=file, method="PUT", headers={"Content-Length": str(SIZE)}
        )
        assert opener.open(request, timeout=30).read() == b"stored"
    assert_upload(server)


@pytest.mark.skipif(importlib.util.find_spec("requests") is None, reason="requests is not installed")
def test_requests_upload_retried_counts_each_byte_once(
    path: Path, server: DownloadServer, op: progress.Level
) -> None:
    """A redirect or an authentication sends the file again from its start."""
    import requests

    assert op.recording
    with wrap_file(path.open("rb"), type="upload") as file:
        for _ in range(2):
            file.seek(0)
            requests.put(server.url, data=file, timeout=30)
    server.uploads.pop()
    assert_upload(server)
