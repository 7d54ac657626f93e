"""Callbacks of fsspec with real file systems: local, in memory, and HTTP."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.testing import Recorder
from tests.support.download_server import BODY, serving_downloads

fsspec = pytest.importorskip("fsspec", reason="these tests run the real library")

from otel_progress.integrations.fsspec import ProgressCallback  # noqa: E402 - needs fsspec

FILES = {"a.bin": 1000, "b.bin": 200_000, "sub/c.bin": 50}


@pytest.fixture
def op(recorder: Recorder) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise."""
    assert recorder.runtime is not None
    with progress.operation("sync", id="sync-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


@pytest.fixture
def memory() -> Iterator[Any]:
    """A file system in memory with files in a folder."""
    fs = fsspec.filesystem("memory")
    for name, size in FILES.items():
        fs.pipe(f"/source/{name}", bytes(size))
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def get_levels() -> list[LevelSnapshot]:
    operation = progress.get_operation("sync-1")
    assert operation is not None
    return list(operation.levels)


def describe(level: LevelSnapshot) -> tuple[str | None, str, Any, Any, str | None]:
    return level.info.name, level.status.value, level.current, level.total, level.info.unit


def test_callback_recursive_get_has_a_level_per_file(memory: Any, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with ProgressCallback("dataset", bucket="source") as callback:
        memory.get("/source", str(tmp_path / "target"), recursive=True, callback=callback)
    root, *files = get_levels()
    count = len(files)  # the version of fsspec decides whether directories count
    assert count >= len(FILES)
    assert describe(root) == ("dataset", "completed", count, count, "file")
    assert (root.info.type, dict(root.metadata)) == ("transfer", {"bucket": "source"})
    by_name = {level.info.name: level for level in files}
    for path, size in FILES.items():
        level = by_name[path.rpartition("/")[2]]
        assert describe(level)[1:] == ("completed", size, size, "B")
        assert level.info.type == "file"
    assert (tmp_path / "target" / "b.bin").stat().st_size == FILES["b.bin"]


def test_callback_recursive_put_has_a_level_per_file(memory: Any, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    (tmp_path / "a.bin").write_bytes(bytes(100))
    (tmp_path / "b.bin").write_bytes(bytes(200))
    with ProgressCallback() as callback:
        memory.put(str(tmp_path) + "/", "/target", recursive=True, callback=callback)
    root, *files = get_levels()
    assert root.status is Status.COMPLETED
    assert root.current == root.total == len(files)
    assert {level.info.name: level.current for level in files}.items() >= {"a.bin": 100, "b.bin": 200}.items()


def test_callback_local_files_without_sizes_are_counted(tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    (tmp_path / "source").mkdir()
    for number in range(3):
        (tmp_path / "source" / f"{number}.bin").write_bytes(bytes(100))
    local = fsspec.filesystem("file")
    with ProgressCallback() as callback:
        local.get(str(tmp_path / "source"), str(tmp_path / "target"), recursive=True, callback=callback)
    root, *files = get_levels()
    assert root.status is Status.COMPLETED
    assert root.current == root.total == len(files)
    assert {level.info.name for level in files} >= {"0.bin", "1.bin", "2.bin"}
    assert {level.status for level in files} == {Status.COMPLETED}


def test_callback_get_file_counts_bytes(memory: Any, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with ProgressCallback("b.bin") as callback:
        memory.get_file("/source/b.bin", str(tmp_path / "b.bin"), callback=callback)
    (root,) = get_levels()
    assert describe(root) == ("b.bin", "completed", 200_000, 200_000, "B")
    assert (callback.size, callback.value) == (200_000, 200_000)


def test_callback_without_block_completes_after_the_last_file(
    memory: Any, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    memory.get("/source", str(tmp_path / "target"), recursive=True, callback=ProgressCallback())
    assert {level.status for level in get_levels()} == {Status.COMPLETED}


def test_callback_of_failed_file_fails_it_and_the_transfer(
    memory: Any, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "b.bin").mkdir()
    with pytest.raises(IsADirectoryError), ProgressCallback() as callback:
        memory.get(
            ["/source/a.bin", "/source/b.bin", "/source/sub/c.bin"],
            [str(tmp_path / "target" / name) for name in ("a.bin", "b.bin", "c.bin")],
            callback=callback,
        )
    root, first, second = get_levels()
    assert (root.status, root.current, root.total) == (Status.FAILED, 1, 3)
    assert (first.status, second.status) == (Status.COMPLETED, Status.FAILED)
    assert second.error is not None
    assert second.error.type == "IsADirectoryError"


def test_callback_of_async_file_system_has_a_level_per_file(tmp_path: Path, op: progress.Level) -> None:
    pytest.importorskip("aiohttp", reason="the HTTP file system needs it")
    assert op.recording
    with serving_downloads() as server:
        http = fsspec.filesystem("http", skip_instance_cache=True)
        urls = [f"{server.url}/{name}?token=secret" for name in ("one.bin", "two.bin", "three.bin")]
        targets = [str(tmp_path / str(number)) for number in range(3)]
        with ProgressCallback("downloads") as callback:
            http.get(urls, targets, callback=callback)
        root, *files = get_levels()
        assert describe(root) == ("downloads", "completed", 3, 3, "file")
        assert sorted(describe(level) for level in files) == [
            (f"{name}.bin", "completed", len(BODY), len(BODY), "B") for name in ("one", "three", "two")
        ]
        assert all(level.info.path.startswith(f"{root.info.path}/") for level in files)
        with pytest.raises(FileNotFoundError), ProgressCallback("broken") as callback:
            http.get([f"{server.url}/missing"], [str(tmp_path / "missing")], callback=callback)
    broken, missing = get_levels()[-2:]
    assert (broken.status, missing.status) == (Status.FAILED, Status.FAILED)
    assert missing.error is not None
    assert missing.error.type == "FileNotFoundError"


def test_callback_unusual_updates_are_valid(op: progress.Level) -> None:
    assert op.recording
    callback = ProgressCallback()
    callback.set_size(None)
    callback.absolute_update(50)
    callback.set_size(100)
    callback.relative_update(-10)
    callback.absolute_update(30)
    callback.absolute_update(-1)
    assert describe(get_levels()[0])[2:4] == (30, 100)
    callback.relative_update(500)
    assert describe(get_levels()[0])[2:4] == (530, None)
    callback.set_size(10)
    callback.undefined_method_of_newer_versions()
    callback.close()
    callback.close()
    callback.relative_update(1)
    assert describe(get_levels()[0])[1:4] == ("completed", 530, None)


def test_callback_branch_of_older_versions_adds_a_callback(op: progress.Level) -> None:
    assert op.recording
    arguments: dict[str, Any] = {}
    root = ProgressCallback()
    root.branch("s3://bucket/a.bin", "/tmp/a.bin", arguments)
    arguments["callback"].set_size(10)
    arguments["callback"].close()
    root.close()
    assert [level.info.name for level in get_levels()] == ["transfer 1", "a.bin"]


def test_callback_calls_hooks(op: progress.Level) -> None:
    assert op.recording
    calls: list[tuple[int | None, int]] = []
    with ProgressCallback(hooks={"print": lambda size, value: calls.append((size, value))}) as callback:
        callback.set_size(10)
        callback.relative_update(4)
    assert calls == [(10, 0), (10, 4)]


def test_callback_collected_without_close_ends_its_level(op: progress.Level) -> None:
    assert op.recording
    ProgressCallback().relative_update(1)
    gc.collect()
    assert get_levels()[0].status is Status.CANCELLED


def test_callback_without_operation_is_one(memory: Any, tmp_path: Path, recorder: Recorder) -> None:
    assert recorder.runtime is not None
    with ProgressCallback("dataset") as callback:
        memory.get("/source", str(tmp_path / "target"), recursive=True, callback=callback)
    (operation,) = progress.get_history()
    assert (operation.operation_type, operation.root.status) == ("transfer", Status.COMPLETED)


def test_callback_without_configuration_does_nothing(memory: Any, tmp_path: Path) -> None:
    with ProgressCallback() as callback:
        memory.get("/source", str(tmp_path / "target"), recursive=True, callback=callback)
    assert (tmp_path / "target" / "a.bin").stat().st_size == 1000
