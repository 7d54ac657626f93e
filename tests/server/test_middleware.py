"""What the server lets in and sends out: limits of a request, headers of an answer, methods, files, and where it is mounted."""

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


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_body_is_bounded_however_it_comes(client: Client) -> None:
    """A body beyond the limit is refused, also when its length is not told before."""
    document = client.problem(413, CANCEL, "POST", content=b"x" * 70_000)
    assert "65536 bytes" in document["detail"]
    chunk = {"type": "http.request", "body": b"x" * 10_000, "more_body": True}
    sent = asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), *[chunk] * 7))
    assert sent[0]["status"] == 413
    assert refusals(client) == {"body": 2}


def test_a_slow_body_is_given_up(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """A client that begins a body and falls silent is answered in bounded time."""
    client = serve(journal, controller=journal, limits=Limits(body_s=0.05))
    part = {"type": "http.request", "body": b"{", "more_body": True}
    sent = asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), part))
    assert sent[0]["status"] == 408


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(
    client: Client, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted as trouble and nothing asked of the worker when the connection breaks."""
    monkeypatch.setattr(diagnostics, "internal_error_counts", Counter())
    part = {"type": "http.request", "body": b'{"reason": "half', "more_body": True}
    asyncio.run(raw_request(client.app, scope_of(CANCEL, "POST"), part, {"type": "http.disconnect"}))
    assert not diagnostics.internal_error_counts
    assert not journal.cancel_requests("instance-1")


def test_an_address_is_bounded(client: Client) -> None:
    """A path or query beyond the limit is refused before it is read."""
    client.problem(414, f"{LIST}?q={'x' * 9_000}")
    client.problem(414, f"/api/v1/operations/{'x' * 9_000}")


# --- what goes out ------------------------------------------------------------------------------------------------


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
def test_every_answer_has_the_safe_headers(client: Client, method: str, path: str) -> None:
    """Errors, pages and documents alike; and what says nothing of caching is not kept."""
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
def test_other_methods_are_refused_with_those_that_work(
    client: Client, method: str, path: str, allow: str
) -> None:
    """405, and Allow has every method of the path."""
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", [LIST, "/healthz", "/api/v1/operations/friday-42", "/nope", "/docs"])
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    """Same status and headers; no byte of a body."""
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
def test_paths_cannot_leave_the_table_of_files(client: Client, path: str) -> None:
    """A request names an entry of the table, or there is nothing."""
    sent = asyncio.run(raw_request(client.app, scope_of(path), {"type": "http.request", "body": b""}))
    assert sent[0]["status"] == 404


def test_files_are_asked_for_once(client: Client) -> None:
    """A file has its type and an ETag; who has it is told so."""
    answer = client.get("/static/docs.js")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == (
        "text/javascript; charset=utf-8",
        "no-cache",
    )
    assert client.get("/static/docs.js", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_the_docs_page_asks_no_other_host(client: Client) -> None:
    """The page that describes the API works without the internet, and under any prefix."""
    import re

    page = client.get("/docs").text + client.get("/static/docs.css").text
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page)
    assert links
    assert [link for link in links if "//" in link or (link.startswith("/") and link != "/")] == []
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")


# --- where it is mounted ------------------------------------------------------------------------------------------


def test_mounted_under_a_prefix(journal: SqliteJournal) -> None:
    """In another application it answers below the prefix, ids with slashes included, though no lifespan was run for it."""
    app = create_app(journal, settings=ServerSettings(token=TOKEN), controller=journal)
    client = Client(Starlette(routes=[Mount("/work/progress", app)]), headers=BEARER)
    assert client.json("/work/progress/api/v1/operations/friday-42")["operation_id"] == "friday-42"
    assert client.json("/work/progress/api/v1/batches/b%2F1")["id"] == "b/1"
    login = client.post("/work/progress/login", data={"token": TOKEN})
    assert "path=/work/progress;" in f"{login.headers['set-cookie'].lower()};"
    assert client.get("/work/progress/docs").status_code == 200
    assert client.problem(404, "/work/progress/nope")["detail"].startswith("There is nothing at this path")
    stream = scope_of(f"/work/progress/api/v1/stream?access_token={TOKEN}", root_path="/work/progress")
    assert security.is_authorised(stream, ServerSettings(token=TOKEN))
    app.state.services.reader_pool.close()


def test_behind_a_proxy_that_takes_the_prefix_off(journal: SqliteJournal, serve: Callable[..., Any]) -> None:
    """With root_path the links of the document and the path of the cookie have the prefix, and requests come without."""
    client = serve(journal, token=TOKEN, root_path="/progress")
    client.headers = BEARER
    assert client.json("/api/v1/operations/friday-42")["operation_id"] == "friday-42"
    assert client.json("/openapi.json")["servers"][0]["url"] == "/progress"
    assert "Path=/progress" in client.post("/login", data={"token": TOKEN}).headers["set-cookie"]


def test_streams_start_without_a_lifespan(journal: SqliteJournal) -> None:
    """Where a parent runs no lifespan for it, the first client of a stream sets it going."""
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
