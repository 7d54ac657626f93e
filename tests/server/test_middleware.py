"""Limits of requests, headers of responses, methods, files and mount points."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from starlette.applications import Starlette
from starlette.routing import Mount

from otel_progress import diagnostics
from otel_progress.journal import SqliteJournal
from otel_progress.server import ServerSettings, create_app, security
from otel_progress.server.middleware import HEADERS
from otel_progress.server.settings import Limits
from tests.support.rest_client import Client, raw_request, refusals, scope_of
from tests.support.server_threads import threads_end

TOKEN = "correct-horse-battery"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LIST = "/api/v1/operations"
CANCEL = "/api/v1/operations/friday-42/cancel"


# --- limits ---------------------------------------------------------------------------------------


def test_body_beyond_the_limit_is_refused(client: Client) -> None:
    """The limit also applies to a body of unknown length."""
    document = client.problem(413, CANCEL, "POST", content=b"x" * 70_000)
    assert "65536 bytes" in document["detail"]
    chunk = {"type": "http.request", "body": b"x" * 10_000, "more_body": True}
    sent = asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), *[chunk] * 7))
    assert sent[0]["status"] == 413
    assert refusals(client) == {"body": 2}


def test_body_that_is_too_slow_is_refused(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """A client that stops sending is answered in bounded time."""
    client = serve(journal, controller=journal, limits=Limits(body_s=0.05))
    part = {"type": "http.request", "body": b"{", "more_body": True}
    sent = asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), part))
    assert sent[0]["status"] == 408


def test_disconnect_during_the_body_is_not_an_error(
    client: Client, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No internal error is counted, and the reader is not called."""
    monkeypatch.setattr(diagnostics, "internal_error_counts", Counter())
    part = {"type": "http.request", "body": b'{"reason": "half', "more_body": True}
    asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), part, {"type": "http.disconnect"}))
    assert not diagnostics.internal_error_counts
    assert not journal.cancel_requests("instance-1")


def test_url_beyond_the_limit_is_refused(client: Client) -> None:
    """A path or query that is too long is refused before it is parsed."""
    client.problem(414, f"{LIST}?q={'x' * 9_000}")
    client.problem(414, f"/api/v1/operations/{'x' * 9_000}")


# --- responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", LIST),
        ("GET", "/nope"),
        ("PUT", LIST),
        ("GET", f"{LIST}?limit=x"),
        ("GET", "/healthz"),
        ("GET", "/docs"),
        ("GET", "/static/docs.js"),
        ("POST", "/login"),
        ("GET", "/metrics"),
    ],
)
def test_every_response_has_the_security_headers(client: Client, method: str, path: str) -> None:
    """Responses without caching headers are not cached."""
    answer = client.request(method, path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"] in {"no-store", "no-cache"}
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/v1/operations/x", "DELETE, GET, HEAD"),
        ("POST", LIST, "GET, HEAD"),
        ("GET", CANCEL, "POST"),
        ("BREW", "/healthz", "GET, HEAD"),
        ("DELETE", "/login", "GET, HEAD, POST"),
        ("OPTIONS", LIST, "GET, HEAD"),
    ],
)
def test_unknown_method_is_refused_with_the_allowed_methods(
    client: Client, method: str, path: str, allow: str
) -> None:
    """The status is 405, and Allow lists the methods of the path."""
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", [LIST, "/healthz", "/api/v1/operations/friday-42", "/nope", "/docs"])
def test_head_has_the_headers_of_get_and_no_body(client: Client, path: str) -> None:
    """Status and headers are the same."""
    whole, head = client.get(path), client.request("HEAD", path)
    assert head.status_code == whole.status_code
    assert head.headers["content-type"] == whole.headers["content-type"]
    sent = asyncio.run(raw_request(client.app, scope_of(path, "HEAD"), {"type": "http.request", "body": b""}))
    assert b"".join(message.get("body", b"") for message in sent) == b""


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2Fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/docs.js%00.html",
        "/static/docs.js/",
        "/static/DOCS.JS",
        "/static/",
        "/static",
    ],
)
def test_path_outside_the_table_of_files_is_not_found(client: Client, path: str) -> None:
    """A request names an entry of the table."""
    sent = asyncio.run(raw_request(client.app, scope_of(path), {"type": "http.request", "body": b""}))
    assert sent[0]["status"] == 404


def test_file_with_a_known_etag_is_not_sent_again(client: Client) -> None:
    """A file has a media type and an ETag."""
    answer = client.get("/static/docs.js")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
        "text/javascript; charset=utf-8",
        "no-cache",
    )
    assert client.get("/static/docs.js", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_docs_page_requests_no_other_host(client: Client) -> None:
    """It works without the internet, and under any prefix."""
    import re

    page = client.get("/docs").text + client.get("/static/docs.css").text
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert links
    assert [link for link in links if "//" in link or (link.startswith("/") and link != "/")] == []
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")


# --- mount points ---------------------------------------------------------------------------------


def test_application_mounted_under_a_prefix_serves_all_paths(journal: SqliteJournal) -> None:
    """Ids with slashes work, and no lifespan is needed."""
    app = create_app(journal, settings=ServerSettings(token=TOKEN), controller=journal)
    client = Client(Starlette(routes=[Mount("/work/progress", app)]), headers=BEARER)
    assert client.json("/work/progress/api/v1/operations/friday-42")["operation_id"] == "friday-42"
    assert client.json("/work/progress/api/v1/batches/b%2F1")["id"] == "b/1"
    login = client.post("/work/progress/login", data={"token": TOKEN})
    assert "path=/work/progress;" in f"{login.headers['set-cookie'].lower()};"
    assert client.get("/work/progress/docs").status_code == 200
    assert client.problem(404, "/work/progress/nope")["detail"].startswith("Unknown path")
    stream = scope_of(f"/work/progress/api/v1/stream?access_token={TOKEN}", root_path="/work/progress")
    assert security.is_authorised(stream, ServerSettings(token=TOKEN))
    app.state.services.reader_pool.close()


def test_root_path_is_in_links_and_cookie_path(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """A proxy removes the prefix from requests."""
    client = serve(journal, token=TOKEN, root_path="/progress")
    client.headers = BEARER
    assert client.json("/api/v1/operations/friday-42")["operation_id"] == "friday-42"
    assert client.json("/openapi.json")["servers"][0]["url"] == "/progress"
    assert "Path=/progress" in client.post("/login", data={"token": TOKEN}).headers["set-cookie"]


def test_stream_without_a_lifespan_starts_with_the_first_client(journal: SqliteJournal) -> None:
    """A parent application may not run the lifespan."""
    app = create_app(journal)
    parent = Starlette(routes=[Mount("/progress", app)])

    async def stream() -> tuple[int, bytes]:
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        leave = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await leave.wait()
            return {"type": "http.disconnect"}

        scope = scope_of("/progress/api/v1/stream") | {
            "type": "http",
            "asgi": {"version": "3.0"},
            "scheme": "http",
        }
        asking = asyncio.create_task(parent(scope, receive, sent.put))
        status = int((await asyncio.wait_for(sent.get(), 60))["status"])
        body = b""
        while b"friday-42" not in body:
            body += (await asyncio.wait_for(sent.get(), 60)).get("body", b"")
        leave.set()
        await asyncio.wait_for(asking, 60)
        app.state.hub.close()
        return status, body

    with threads_end():
        status, body = asyncio.run(stream())
        app.state.services.reader_pool.close()
    assert status == 200
    assert b"event: snapshot" in body
