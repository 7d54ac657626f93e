"""Preview stores: the same behaviour in a folder, in memory and with fsspec."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress.errors import ConfigurationError, PreviewError
from otel_progress.previews.stores import open_store
from otel_progress.previews.stores.base import Store
from otel_progress.previews.stores.local import LocalStore
from otel_progress.previews.stores.memory import MemoryStore
from tests.support.forks import needs_fork, run_in_child_forked_under

RUN = "0123456789abcdef"
CONTENT = b"\x89PNG and so on"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["folder", "memory", "fsspec memory", "fsspec folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One store of each kind."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "a b%20c#é" / "previews"), None)
    elif request.param == "memory":
        yield open_store("auto", None)
    else:
        fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
        if request.param == "fsspec memory":
            yield open_store(f"memory://previews-{uuid.uuid4().hex}", None)
            fsspec.filesystem("memory").store.clear()
        else:
            yield open_store(f"local://{tmp_path}/below", None)


def test_store_returns_content_until_it_is_deleted(store: Store) -> None:
    """The location alone identifies the content."""
    location = store.write(RUN, DIGEST, "image/png", CONTENT)
    assert location == store.write(RUN, DIGEST, "image/png", CONTENT)
    other = store.write(RUN, "f" * 64, "text/plain; charset=utf-8", b"")
    assert location.startswith(f"{store.base}/")
    assert (store.read(location), store.read(other)) == (CONTENT, b"")
    store.touch([RUN, "unknown"])
    assert store.delete([location, location]) == 1
    assert store.delete([location]) == 0
    with pytest.raises(PreviewError, match="no longer stored"):
        store.read(location)
    assert store.read(other) == b""


@pytest.mark.parametrize(
    "elsewhere",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "{base}/../../etc/passwd",
        "{base}/" + RUN + "/../" + RUN + "/" + DIGEST + ".png",
        "{base}/" + RUN + "/" + DIGEST + ".html",
        "{base}/" + RUN + "/" + DIGEST + ".png\0",
        "{base}/" + RUN + "/%2e%2e/x.png",
        "{base}//" + RUN + "/" + DIGEST + ".png",
        "{base}x/" + RUN + "/" + DIGEST + ".png",
        "{base}",
        "",
    ],
)
def test_store_with_a_foreign_location_reads_and_deletes_nothing(store: Store, elsewhere: str) -> None:
    """The error does not repeat the location."""
    location = elsewhere.format(base=store.base)
    with pytest.raises(PreviewError, match="in another store") as raised:
        store.read(location)
    assert "passwd" not in str(raised.value)
    assert store.delete([location]) == 0


def test_store_with_any_run_id_writes_below_its_base(store: Store) -> None:
    """An id in another format is replaced by its digest."""
    location = store.write("../../../etc", DIGEST, "image/png", CONTENT)
    assert ".." not in location
    assert store.read(location) == CONTENT


def test_local_store_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """The umask does not matter, and no partial file remains."""
    before = os.umask(0)
    try:
        store = LocalStore(tmp_path / "one" / "previews")
        location = store.write(RUN, DIGEST, "image/png", CONTENT)
    finally:
        os.umask(before)
    path = store.path_of(location)
    assert path is not None
    modes = [stat.S_IMODE(entry.stat().st_mode) for entry in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_local_store_does_not_read_links_pipes_or_folders(tmp_path: Path) -> None:
    """Only a regular file is content."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store = LocalStore(tmp_path / "previews")
    path = store.path_of(store.write(RUN, DIGEST, "image/png", CONTENT))
    assert path is not None
    location = f"{store.base}/{RUN}/{path.name}"
    for replace in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), path.mkdir):
        path.unlink()
        replace()
        with pytest.raises(PreviewError):
            store.read(location)
        if path.is_dir():
            break
    path.rmdir()
    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / path.name).write_bytes(b"secret")
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreviewError):
        store.read(location)
    assert store.delete([location]) == 0
    assert (tmp_path / "elsewhere" / path.name).exists()


def test_memory_store_beyond_its_limit_evicts_the_oldest_content() -> None:
    """The latest content is stored even if it exceeds the limit alone."""
    store = MemoryStore(100)
    locations = [store.write(RUN, f"{number:064x}", "image/png", b"x" * 40) for number in range(4)]
    sizes = []
    for location in locations:
        try:
            sizes.append(len(store.read(location)))
        except PreviewError:
            sizes.append(0)
    assert sizes == [0, 0, 40, 40]
    assert len(store.read(store.write(RUN, "f" * 64, "image/png", b"x" * 500))) == 500


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("auto", "LocalStore"),
        ("memory:", "MemoryStore"),
        ("file:///a%20b", "LocalStore"),
        ("~/x", "LocalStore"),
        ("memory://x", "RemoteStore"),
    ],
)
def test_open_store_selects_the_store_by_setting(setting: str, kind: str, tmp_path: Path) -> None:
    """The default is a folder next to the journal."""
    if kind == "RemoteStore":
        pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
    store = open_store(setting, tmp_path / "progress.db")
    assert type(store).__name__ == kind
    if setting == "auto":
        assert isinstance(store, LocalStore)
        assert store.folder == tmp_path / "progress-previews"
    if setting == "file:///a%20b":
        assert isinstance(store, LocalStore)
        assert store.folder == Path("/a b")


def test_open_store_without_the_library_of_a_url_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the command that installs it."""
    pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigurationError, match="pip install s3fs"):
        open_store("s3://bucket/previews", None)


@needs_fork
def test_memory_store_after_fork_under_its_lock_is_usable() -> None:
    """The fork waits until the other thread has released the lock."""
    store = MemoryStore()
    location = store.write("run", "a" * 64, "image/png", b"content")
    assert run_in_child_forked_under(store._lock, lambda: store.read(location)) == 0
