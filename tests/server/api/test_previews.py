"""Previews over REST: the list, and the content with its headers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")
pytest.importorskip("PIL.Image", reason="pillow is not installed: it makes the previews")

from PIL import Image

import otel_progress as progress
from otel_progress.journal import open_journal
from otel_progress.previews.stores import open_store
from otel_progress.server import ServerSettings, create_app
from otel_progress.testing import Recorder, recording
from tests.support.api_server import PATIENCE_S, get, serving, stream, until
from tests.support.rest_client import Client
from tests.support.sample_operations import EVIL_ID
from tests.support.server_threads import threads_end

EVIL = "<script>alert(1)</script>"
ONE = "/api/v1/operations/render-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a journal and previews of three media types."""
    folder = tmp_path_factory.mktemp("previews")
    with recording(store=f"sqlite:///{folder}/progress.db", preview_at="always", strict=False) as recorder:
        with progress.operation("render", id="render-1", total=4) as op, op.level("frame", 7) as frame:
            op.increment()
            for level, value in (
                (op, Image.new("RGB", (600, 300), "red")),
                (frame, EVIL),
                (op, {"html": EVIL}),
            ):
                level.preview(value, "latent")
                assert recorder.runtime._previews is not None
                assert recorder.runtime._previews.flush(PATIENCE_S)
        with progress.operation("render", id=EVIL_ID, total=1) as op:
            op.preview("evil", EVIL)
        with progress.operation("render", id="nothing", total=1):
            pass
        # A shutdown waits only for a few seconds.
        assert recorder.runtime.force_flush(PATIENCE_S)
    return folder


@pytest.fixture
def journal(folder: Path) -> Iterator[Any]:
    """The journal, opened read-only."""
    journal = open_journal(f"sqlite:///{folder}/progress.db", read_only=True)
    yield journal
    journal.close()


@pytest.fixture
def open_client(journal: Any, folder: Path) -> Iterator[Callable[..., Client]]:
    """Build clients of applications with a store next to the journal, or a given one."""
    apps = []

    def build(location: str | None = "auto", **settings: Any) -> Client:
        store = None if location is None else open_store(location, folder / "progress.db")
        apps.append(create_app(journal, settings=ServerSettings(**settings), previews=store))
        return Client(apps[-1])

    with threads_end():
        yield build
        for app in apps:
            app.state.services.reader_pool.close()


def test_preview_list_has_urls_but_no_locations(open_client: Callable[..., Client]) -> None:
    """The URL leads to the content."""
    client = open_client()
    document = client.json(f"{ONE}/previews")
    picture, text, data = document["previews"]
    assert (picture["number"], picture["name"], picture["media_type"], picture["path"]) == (
        1,
        "latent",
        "image/png",
        "",
    )
    assert (picture["width"], picture["height"], picture["ratio"]) == (512, 256, 0.25)
    assert (text["path"], text["width"], data["media_type"]) == ("frame:7", None, "application/json")
    assert not any("location" in one or "file:" in str(one) for one in document["previews"])
    for one in document["previews"]:
        content = client.get(f"/{one['url']}").content
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (one["digest"], one["size_bytes"])
    assert [one["number"] for one in client.json(f"{ONE}/previews?path=frame:7")["previews"]] == [2]
    assert [one["number"] for one in client.json(f"{ONE}/previews?limit=1")["previews"]] == [3]
    assert client.json("/api/v1/operations/nothing/previews")["previews"] == []
    assert client.json(ONE)["previews"] == 3


@pytest.mark.parametrize(
    ("number", "media_type"), [(1, "image/png"), (2, "text/plain; charset=utf-8"), (3, "application/json")]
)
def test_preview_content_cannot_be_executed(
    open_client: Callable[..., Client], number: int, media_type: str
) -> None:
    """The browser gets one media type, and may not sniff or run it."""
    answer = open_client().get(f"{ONE}/previews/{number}")
    assert answer.status_code == 200
    headers = answer.headers
    assert headers.get_list("content-type") == [media_type]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-disposition"].startswith(f'inline; filename="preview-{number}.')
    assert "access-control-allow-origin" not in headers


def test_preview_is_shown_on_other_origins_only_if_one_is_allowed(open_client: Callable[..., Client]) -> None:
    """Such as the origin of Grafana."""
    client = open_client(allowed_origins=("https://grafana.example.org",))
    assert client.get(f"{ONE}/previews/1").headers["cross-origin-resource-policy"] == "cross-origin"


def test_only_a_preview_with_digest_is_cached_permanently(open_client: Callable[..., Client]) -> None:
    """Without a digest it is validated with its ETag."""
    client = open_client()
    (url, digest), *_ = [(one["url"], one["digest"]) for one in client.json(f"{ONE}/previews")["previews"]]
    assert client.get(f"/{url}").headers["cache-control"] == "private, max-age=31536000, immutable"
    answer = client.get(f"{ONE}/previews/1")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["etag"] == f'"{digest}"'
    again = client.get(f"{ONE}/previews/1", headers={"If-None-Match": f'"{digest}"'})
    assert (again.status_code, again.content) == (304, b"")
    head = client.request("HEAD", f"{ONE}/previews/1")
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "image/png")


def test_missing_preview_is_a_problem(open_client: Callable[..., Client]) -> None:
    """Unknown numbers and digests of other runs have different problems."""
    client = open_client()
    assert "The newest one is 3." in client.problem(404, f"{ONE}/previews/4")["detail"]
    assert "The operation has none." in client.problem(404, "/api/v1/operations/nothing/previews/1")["detail"]
    assert "another run" in client.problem(410, f"{ONE}/previews/1?digest={'0' * 64}")["detail"]
    for bad in ("first", "-1", "1.5", str(2**64)):
        client.problem(422, f"{ONE}/previews/{bad}")
    client.problem(422, f"{ONE}/previews/1?digest=../../etc/passwd")
    client.problem(422, f"{ONE}/previews/1?size=9")
    client.problem(422, f"{ONE}/previews/..%2f1")


def test_preview_url_of_an_id_with_special_characters_works(open_client: Callable[..., Client]) -> None:
    """The id contains every character with a meaning in URLs."""
    client = open_client()
    from urllib.parse import quote

    (one,) = client.json(f"/api/v1/operations/{quote(EVIL_ID, safe='')}/previews")["previews"]
    assert one["name"] == EVIL
    answer = client.get(f"/{one['url']}")
    assert (answer.content, answer.headers["content-type"]) == (b"evil", "text/plain; charset=utf-8")


def test_location_outside_the_store_is_not_served(open_client: Callable[..., Client], tmp_path: Path) -> None:
    """The problem does not contain the location."""
    for client in (open_client(str(tmp_path)), open_client("memory:"), open_client(None)):
        detail = client.problem(404, f"{ONE}/previews/1")["detail"]
        assert "OTEL_PROGRESS_PREVIEWS" in detail
        assert "/" not in detail
        assert len(client.json(f"{ONE}/previews")["previews"]) == 3


def test_previews_require_the_token(open_client: Callable[..., Client]) -> None:
    """The query does not accept it."""
    token = "correct-horse-battery"
    client = open_client(token=token)
    for path in (f"{ONE}/previews", f"{ONE}/previews/1"):
        client.problem(401, path)
        client.problem(401, f"{path}?access_token={token}")
        assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        client.problem(421, path, headers={"Host": "evil.example.org"})


def test_changed_or_deleted_content_is_not_served(
    open_client: Callable[..., Client], journal: Any, folder: Path
) -> None:
    """Replaced content and links are refused."""
    client = open_client()
    store = open_store("auto", folder / "progress.db")
    path = store.path_of(journal.previews("render-1")[1].location)  # type: ignore[attr-defined]
    before = path.read_bytes()
    try:
        path.write_bytes(b"<html>owned</html>")
        assert "has changed since it was stored" in client.problem(410, f"{ONE}/previews/2")["detail"]
        path.unlink()
        assert "no longer stored" in client.problem(410, f"{ONE}/previews/2")["detail"]
        path.symlink_to("/etc/passwd")
        client.problem(410, f"{ONE}/previews/2")
        path.unlink()
        os.mkfifo(path)
        client.problem(410, f"{ONE}/previews/2")
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(before)
    assert client.get(f"{ONE}/previews/2").content == before


def test_server_of_the_process_serves_previews_in_memory() -> None:
    """The store is in memory."""
    with (
        recording(server_port=0, preview_at="always") as recorder,
        progress.operation("render", id="r", total=1) as op,
    ):
        op.preview("in memory")
        assert recorder.runtime._previews is not None
        assert recorder.runtime._previews.flush(PATIENCE_S)
        answer = get(recorder.runtime._previews.address("r", 1))
    assert (answer.status_code, answer.text) == (200, "in memory")


def test_stream_sends_each_new_preview(recorder: Recorder) -> None:
    """The snapshot contains the number of the last one."""
    with progress.operation("render", id="one", total=1) as op, serving(recorder) as server:
        op.preview("before", at="always")
        assert recorder.runtime._previews is not None
        assert recorder.runtime._previews.flush(PATIENCE_S)
        with stream(server, "?operation=one&levels=true") as told:
            assert "preview" not in [one.kind for one in until(told, "ready")]
            op.preview("after", "latent", at="always")
            assert recorder.runtime._previews.flush(PATIENCE_S)
            document = until(told, "preview")[-1].document
            assert (document["number"], document["name"], document["operation_id"]) == (2, "latent", "one")
            assert "location" not in document
