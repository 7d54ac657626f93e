"""Progress bars of pooch with real downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.integrations.pooch import ProgressBar
from otel_progress.testing import Recorder
from tests.support.download_server import BODY, DownloadServer, serving_downloads

pooch = pytest.importorskip("pooch", reason="these tests run the real library")

SIZE = len(BODY)


@pytest.fixture(scope="module")
def server() -> Iterator[DownloadServer]:
    with serving_downloads() as running:
        yield running


@pytest.fixture
def op(recorder: Recorder) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise."""
    assert recorder.runtime is not None
    with progress.operation("fetch", id="fetch-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


def get_levels() -> list[LevelSnapshot]:
    operation = progress.get_operation("fetch-1")
    assert operation is not None
    return list(operation.levels)


def test_bar_of_retrieve_counts_each_byte_once(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressBar("data.bin", mirror="a") as bar:
        path = pooch.retrieve(f"{server.url}/file.bin", None, path=tmp_path, progressbar=bar)
    assert Path(path).read_bytes() == BODY
    (level,) = get_levels()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, SIZE, SIZE)
    assert (level.info.name, level.info.type, level.info.unit) == ("data.bin", "download", "B")
    assert dict(level.metadata) == {"mirror": "a"}


def test_bar_of_downloader_serves_many_downloads(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    bar = ProgressBar()
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=30_000)  # the last chunk is smaller
    for name in ("one", "two"):
        pooch.retrieve(f"{server.url}/{name}", None, path=tmp_path, downloader=downloader)
    assert [(level.status, level.current, level.total) for level in get_levels()] == [
        (Status.COMPLETED, SIZE, SIZE)
    ] * 2


def test_bar_without_length_counts(server: DownloadServer, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with ProgressBar() as bar:
        pooch.retrieve(f"{server.url}/chunked", None, path=tmp_path, progressbar=bar)
    (level,) = get_levels()
    assert (level.status, level.total) == (Status.COMPLETED, None)
    assert level.current >= SIZE  # pooch counts whole chunks


def test_bar_of_failed_download_fails(server: DownloadServer, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with pytest.raises(Exception, match=r"truncated|broken|Incomplete"), ProgressBar() as bar:
        pooch.retrieve(f"{server.url}/truncated", None, path=tmp_path, progressbar=bar)
    (level,) = get_levels()
    assert level.status is Status.FAILED
    assert level.current <= SIZE // 2 + 1024


def test_bar_of_failed_download_without_block_fails_with_the_next_one(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    bar = ProgressBar()
    with pytest.raises(Exception, match=r"truncated|broken|Incomplete"):
        pooch.retrieve(f"{server.url}/truncated", None, path=tmp_path, progressbar=bar)
    pooch.retrieve(f"{server.url}/file.bin", None, path=tmp_path, progressbar=bar)
    first, second = get_levels()
    assert (first.status, second.status) == (Status.FAILED, Status.COMPLETED)


def test_bar_with_unusual_calls_is_valid(op: progress.Level) -> None:
    assert op.recording
    bar = ProgressBar()
    bar.close()
    bar.update(5)
    bar.reset()
    bar.close()
    bar.update(3)
    bar.total = 10
    bar.update(100)
    bar.update(-1)
    bar.close()
    assert bar.total == 10
    assert [(level.status, level.current) for level in get_levels()] == [
        (Status.COMPLETED, 5),
        (Status.FAILED, 3),
        (Status.COMPLETED, 10),
    ]


def test_bar_filled_at_the_end_has_that_size(op: progress.Level) -> None:
    """pooch repeats the size after a reset, also if fewer or more bytes were counted."""
    assert op.recording
    bar = ProgressBar()
    for size in (5, 9):
        bar.total = None
        bar.update(size)
        bar.reset()
        bar.update(7)
        bar.close()
    assert [(level.status, level.current) for level in get_levels()] == [(Status.COMPLETED, 7)] * 2


def test_bar_without_configuration_does_nothing(server: DownloadServer, tmp_path: Path) -> None:
    with ProgressBar() as bar:
        path = pooch.retrieve(f"{server.url}/file.bin", None, path=tmp_path, progressbar=bar)
    assert Path(path).read_bytes() == BODY
