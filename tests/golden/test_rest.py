"""The REST API: OpenAPI document, every endpoint, and a problem per status."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.operations import OperationSnapshot
from otel_progress.previews.stores import open_store
from otel_progress.server.static import page_files
from tests.support.golden import server as web
from tests.support.golden.files import Golden
from tests.support.golden.sample_journal import (
    PICTURE,
    TEXT,
    open_scene_journal,
    write_scene,
    write_with_content,
)

if TYPE_CHECKING:
    import httpx

    from tests.support.rest_client import Client

API = "/api/v1"
ONE = f"{API}/operations/friday-42"
TOKEN = "0123456789abcdef-token"
ORIGIN = "https://board.example.org"

ANSWERS = {
    "operations": ("GET", f"{API}/operations"),
    "operations-page": ("GET", f"{API}/operations?limit=2&sort=started"),
    "operations-filtered": (
        "GET",
        f"{API}/operations?status=running&type=setlist&metadata=customer%3Dacme&q=fri",
    ),
    "operations-condition": (
        "GET",
        f"{API}/operations?condition=abandoned&condition=paused&batch=thumbnails&sort=-name",
    ),
    "history": ("GET", f"{API}/history"),
    "history-page": ("GET", f"{API}/history?limit=2&type=backup&since=1700000061"),
    "operation": ("GET", ONE),
    "operation-small": ("GET", f"{ONE}?levels=false"),
    "operation-text": ("GET", f"{API}/operations/{quote(TEXT, safe='')}"),
    "progress": ("GET", f"{ONE}/progress"),
    "levels": ("GET", f"{ONE}/levels?depth=1"),
    "levels-below": ("GET", f"{ONE}/levels?path=song%3A07&depth=1"),
    "events": ("GET", f"{ONE}/events"),
    "events-page": ("GET", f"{ONE}/events?limit=1&outcome=failed"),
    "logs": ("GET", f"{ONE}/logs"),
    "logs-page": ("GET", f"{ONE}/logs?limit=1&path=song%3A07"),
    "logs-after": ("GET", f"{ONE}/logs?after=2&since=1700000001"),
    "resources": ("GET", f"{ONE}/resources"),
    "resources-page": ("GET", f"{ONE}/resources?limit=1"),
    "previews": ("GET", f"{ONE}/previews"),
    "previews-page": ("GET", f"{ONE}/previews?limit=1&path=song%3A07"),
    "preview": ("GET", f"{ONE}/previews/4"),
    "export": ("GET", f"{ONE}/export"),
    "export-jsonl": ("GET", f"{ONE}/export?format=jsonl"),
    "export-csv": ("GET", f"{ONE}/export?format=csv"),
    "batches": ("GET", f"{API}/batches"),
    "batches-page": ("GET", f"{API}/batches?limit=1"),
    "batch": ("GET", f"{API}/batches/thumbnails"),
    "stages": ("GET", f"{API}/stages"),
    "healthz": ("GET", "/healthz"),
    "readyz": ("GET", "/readyz"),
    "head": ("HEAD", ONE),
    "cancel": ("POST", f"{ONE}/cancel"),
    "delete": ("DELETE", f"{API}/operations/done-1"),
    "login-form": ("GET", "/login"),
    "page": ("GET", "/"),
    "docs": ("GET", "/docs"),
    "log-in": ("POST", "/login"),
    "log-out": ("POST", "/logout"),
}
"""Successful requests by the name of their golden file."""

Asked = tuple[str, str, dict[str, Any]]
PROBLEMS: dict[str, Asked] = {
    "400-body": (
        "POST",
        f"{ONE}/cancel",
        {"content": b"\xff", "headers": {"Content-Type": "application/json"}},
    ),
    "400-query": ("GET", f"{API}/stream?operation=%FF", {}),
    "403-origin": ("GET", ONE, {"headers": {"Origin": "https://evil.example.org"}}),
    "404-path": ("GET", "/nothing", {}),
    "404-operation": ("GET", f"{API}/operations/missing", {}),
    "404-level": ("GET", f"{ONE}/levels?path=song%3A99", {}),
    "404-batch": ("GET", f"{API}/batches/missing", {}),
    "404-preview": ("GET", f"{ONE}/previews/99", {}),
    "404-preview-place": ("GET", f"{ONE}/previews/3", {}),
    "404-file": ("GET", "/static/missing.js", {}),
    "405": ("PUT", ONE, {}),
    "409-cancel": ("POST", f"{API}/operations/done-1/cancel", {}),
    "409-delete": ("DELETE", ONE, {}),
    "409-delete-lost": ("DELETE", f"{API}/operations/lost-1", {}),
    "410-preview": ("GET", f"{ONE}/previews/4?digest={0:064x}", {}),
    "413": ("POST", f"{ONE}/cancel", {"content": b"x" * 2_000_000}),
    "414": ("GET", f"{ONE}?x={'y' * 60_000}", {}),
    "421": ("GET", ONE, {"headers": {"Host": "evil.example.org"}}),
    "422-limit": ("GET", f"{API}/operations?limit=0", {}),
    "422-status": ("GET", f"{API}/operations?status=broken&sort=color", {}),
    "422-unknown": ("GET", f"{API}/operations?colour=red", {}),
    "422-since": ("GET", f"{API}/history?since=soon", {}),
    "422-cursor": ("GET", f"{API}/operations?cursor=nonsense", {}),
    "422-events-cursor": ("GET", f"{ONE}/events?cursor=nonsense", {}),
    "422-batches-cursor": ("GET", f"{API}/batches?cursor=nonsense", {}),
    "422-stream-levels": ("GET", f"{API}/stream?levels=true", {}),
    "422-stream-boolean": ("GET", f"{API}/stream?levels=maybe", {}),
    "422-stream-batches": ("GET", f"{API}/stream?batch=a&batch=b", {}),
    "422-stream-empty": ("GET", f"{API}/stream?operation=", {}),
    "426": ("GET", f"{API}/ws", {}),
}
"""Refused requests by the name of their golden file, which starts with the status."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of an application over the state, with a controller."""
    store = open_store(str(tmp_path / "previews"), tmp_path / "progress.db")
    write_with_content(tmp_path / "progress.db", store)
    with (
        open_scene_journal(tmp_path / "progress.db") as journal,
        web.asking(journal, controller=journal, previews=store) as made,
    ):
        yield made


@pytest.mark.parametrize("name", ANSWERS)
def test_endpoint_returns_golden_response(golden: Golden, client: Client, name: str) -> None:
    """Status, headers and document of each endpoint."""
    method, url = ANSWERS[name]
    golden.text(f"rest/{name}.txt", _shown(client.request(method, url)))


@pytest.mark.parametrize("name", PROBLEMS)
def test_refused_request_returns_golden_problem(golden: Golden, client: Client, name: str) -> None:
    """Status, headers and document of each refusal."""
    method, url, options = PROBLEMS[name]
    answer = client.request(method, url, **options)
    assert str(answer.status_code) == name[:3]
    golden.text(f"problems/{name}.txt", _shown(answer))


def test_conditional_and_cross_origin_requests_return_golden_headers(golden: Golden, client: Client) -> None:
    """A known ETag gives 304, an allowed origin its headers, a preflight success."""
    tag = client.get(ONE).headers["etag"]
    golden.text("rest/not-modified.txt", _shown(client.get(ONE, headers={"If-None-Match": tag})))
    digest = client.json(f"{ONE}/previews")["previews"][-1]["digest"]
    golden.text("rest/preview-digest.txt", _shown(client.get(f"{ONE}/previews/4?digest={digest}")))
    golden.text(
        "rest/preview-not-modified.txt",
        _shown(client.get(f"{ONE}/previews/4", headers={"If-None-Match": f'"{digest}"'})),
    )
    golden.text("rest/cross-origin.txt", _shown(client.get("/healthz", headers={"Origin": ORIGIN})))
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    golden.text("rest/preflight.txt", _shown(client.request("OPTIONS", ONE, headers=asked)))


def test_read_only_server_refuses_control_requests(golden: Golden, tmp_path: Path) -> None:
    """Without a controller, control requests are refused.

    Without a store, previews have no content.
    """
    write_with_content(
        tmp_path / "progress.db", open_store(str(tmp_path / "previews"), tmp_path / "progress.db")
    )
    with open_scene_journal(tmp_path / "progress.db") as journal, web.asking(journal) as client:
        golden.text("problems/501-cancel.txt", _shown(client.post(f"{ONE}/cancel")))
        golden.text("problems/501-delete.txt", _shown(client.delete(ONE)))
        golden.text("problems/404-preview-content.txt", _shown(client.get(f"{ONE}/previews/4")))


class BrokenJournal(SqliteJournal):
    """A journal with an unreadable file or an internal error."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(path)
        self.error = error

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Raise the error."""
        del operation_id
        raise self.error


@pytest.mark.parametrize(
    ("status", "error"),
    [("503-journal", JournalError("progress.db cannot be read.")), ("500", RuntimeError("secret"))],
)
def test_unreadable_journal_returns_golden_problem(
    golden: Golden, tmp_path: Path, status: str, error: Exception
) -> None:
    """A journal error gives 503. Any other error gives 500 without details."""
    with closing(BrokenJournal(tmp_path / "progress.db", error)) as journal, web.asking(journal) as client:
        golden.text(f"problems/{status}.txt", _shown(client.get(ONE)))


def test_server_with_token_refuses_unauthorized_requests(golden: Golden, tmp_path: Path) -> None:
    """Without the token the status is 401.

    With the cookie, a request from another page gets 403.
    """
    write_scene(tmp_path / "progress.db")
    with open_scene_journal(tmp_path / "progress.db") as journal, web.asking(journal, token=TOKEN) as asked:
        golden.text("problems/401.txt", _shown(asked.get(ONE)))
        golden.text("problems/401-page.txt", _shown(asked.get("/", headers={"Accept": "text/html"})))
        golden.text("problems/401-log-in.txt", _shown(asked.post("/login", data={"token": "wrong"})))
        golden.text("problems/401-stream.txt", _shown(asked.get(f"{API}/stream")))
        golden.text(
            "rest/token.txt", _shown(asked.get("/readyz", headers={"Authorization": f"Bearer {TOKEN}"}))
        )
        login = asked.post("/login", data={"token": TOKEN})
        golden.text("rest/log-in-token.txt", _shown(login))
        cookie = login.headers["set-cookie"].partition(";")[0]
        golden.text(
            "problems/403-forgery.txt", _shown(asked.post(f"{ONE}/cancel", headers={"Cookie": cookie}))
        )


def test_openapi_equals_golden_file(golden: Golden, client: Client) -> None:
    """The complete OpenAPI document."""
    golden.needs("fastapi", "pydantic")
    golden.json("openapi.json", web.openapi(client))


def test_server_metrics_equal_golden_file(golden: Golden, client: Client) -> None:
    """The server's metrics with its own counters, without the size of the journal."""
    client.get(f"{API}/stream?levels=true")
    client.get(ONE, headers={"Host": "evil.example.org"})
    answer = client.get("/metrics")
    lines = [
        line
        for line in answer.text.splitlines(keepends=True)
        if not line.startswith("progress_journal_bytes ")
    ]
    golden.text("metrics/server.txt", "".join(lines))


def test_page_files_equal_golden_file(golden: Golden) -> None:
    """Name, media type and hash of each file served to browsers."""
    golden.lines(
        "page.txt", [f"{name} {file.media_type} {file.tag}" for name, file in sorted(page_files().items())]
    )


def _shown(answer: httpx.Response) -> str:
    """Return status, headers and body as text.

    Of pages only the media type, as their files have golden files.
    """
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("content-length", "date", "server")
    }
    if "set-cookie" in headers:
        cookie = re.sub(r"expires=[^;]*", "expires=DATE", headers["set-cookie"])
        headers["set-cookie"] = re.sub(r"=\d+\.[\w-]{16}\.[0-9a-f]{64}", "=SESSION", cookie)
    kind = headers.get("content-type", "")
    if kind.startswith("text/html"):
        headers["etag"], body = "TAG", "HTML"
    elif "json" in kind and not kind.startswith("application/jsonl") and answer.content:
        body = json.dumps(json.loads(answer.text), indent=2, ensure_ascii=False)
    else:
        body = repr(answer.content) if answer.content == PICTURE else answer.text
    return "\n".join(
        [str(answer.status_code), *(f"{name}: {headers[name]}" for name in sorted(headers)), "", body, ""]
    )
