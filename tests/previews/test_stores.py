"""Where previews are kept: the same behaviour of a folder, of memory, and of what fsspec reaches."""

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


def test_content_comes_back_until_it_is_deleted(store: Store) -> None:
    """What was written is read again by its location alone, as often as asked, and is gone once deleted."""
    location = store.write(RUN, DIGEST, "image/png", CONTENT)
    assert location == store.write(RUN, DIGEST, "image/png", CONTENT)
    other = store.write(RUN, "f" * 64, "text/plain; charset=utf-8", b"")
    assert location.startswith(f"{store.base}/")
    assert (store.read(location), store.read(other)) == (CONTENT, b"")
    store.touch([RUN, "unknown"])
    assert store.delete([location, location]) == 1
    assert store.delete([location]) == 0
    with pytest.raises(PreviewError, match="no longer kept"):
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
def test_nothing_else_is_read_or_deleted(store: Store, elsewhere: str) -> None:
    """A location that is none of the store's own making is neither read nor deleted, and is not repeated."""
    location = elsewhere.format(base=store.base)
    with pytest.raises(PreviewError, match="in another place") as refused:
        store.read(location)
    assert "passwd" not in str(refused.value)
    assert store.delete([location]) == 0


def test_a_run_of_any_name_stays_below_the_base(store: Store) -> None:
    """Ids that this package did not make become digests: no folder is left."""
    location = store.write("../../../etc", DIGEST, "image/png", CONTENT)
    assert ".." not in location
    assert store.read(location) == CONTENT


def test_files_belong_to_their_owner_alone(tmp_path: Path) -> None:
    """Folders and files of previews can be read by nobody else, whatever the umask, and no half-written one stays."""
    before = os.umask(0)
    try:
        store = LocalStore(tmp_path / "one" / "previews")
        location = store.write(RUN, DIGEST, "image/png", CONTENT)
    finally:
        os.umask(before)
    path = store.path_of(location)
    assert path is not None
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    """A link, a pipe or a folder in the place of content is no content."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    store = LocalStore(tmp_path / "previews")
    path = store.path_of(store.write(RUN, DIGEST, "image/png", CONTENT))
    assert path is not None
    location = f"{store.base}/{RUN}/{path.name}"
    for put in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), path.mkdir):
        path.unlink()
        put()
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


def test_memory_has_a_bound() -> None:
    """In memory the oldest content makes room; one piece is kept in any case."""
    store = MemoryStore(100)
    locations = [store.write(RUN, f"{number:064x}", "image/png", b"x" * 40) for number in range(4)]
    kept = []
    for location in locations:
        try:
            kept.append(len(store.read(location)))
        except PreviewError:
            kept.append(0)
    assert kept == [0, 0, 40, 40]
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
def test_the_setting_names_the_place(setting: str, kind: str, tmp_path: Path) -> None:
    """A folder beside the journal by default, else what was named."""
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


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL whose own package is not installed is refused at once, with what to install."""
    pytest.importorskip("fsspec", reason="fsspec is not installed: it reaches other places")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigurationError, match="pip install s3fs"):
        open_store("s3://bucket/previews", None)


@needs_fork
def test_memory_store_after_fork_under_its_lock_is_usable() -> None:
    """The child can read, because the fork waits until the other thread has released the lock."""
    store = MemoryStore()
    location = store.write("run", "a" * 64, "image/png", b"content")
    assert run_in_child_forked_under(store._lock, lambda: store.read(location)) == 0
