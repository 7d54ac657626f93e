"""Hooks of yt-dlp with its generic extractor and a local server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.testing import Recorder
from tests.support.download_server import BODY, DownloadServer, serving_downloads

yt_dlp = pytest.importorskip("yt_dlp", reason="these tests run the real library")

from otel_progress.integrations.yt_dlp import ProgressHook  # noqa: E402 - needs yt-dlp

SIZE = len(BODY)


@pytest.fixture(scope="module")
def server() -> Iterator[DownloadServer]:
    with serving_downloads() as running:
        yield running


@pytest.fixture
def op(recorder: Recorder) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise."""
    assert recorder.runtime is not None
    with progress.operation("archive", id="archive-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


def get_levels() -> list[LevelSnapshot]:
    operation = progress.get_operation("archive-1")
    assert operation is not None
    return sorted(operation.levels, key=lambda level: (level.info.path.count("/"), level.info.order))


def describe(level: LevelSnapshot) -> tuple[str, str | None, Status, Any, Any]:
    return level.info.type, level.info.name, level.status, level.current, level.total


def make_downloader(hook: Any, folder: Path, **options: Any) -> Any:
    return yt_dlp.YoutubeDL(
        {
            "progress_hooks": [hook],
            "postprocessor_hooks": [hook],
            "outtmpl": str(folder / "%(id)s.%(ext)s"),
            "quiet": True,
            "noprogress": True,
            "no_warnings": True,
            "cachedir": False,
            "retries": 0,
            "proxy": "",
            "logger": Silent(),
            **options,
        }
    )


class Silent:
    """Logger that drops everything."""

    def debug(self, message: str) -> None:
        """Do nothing."""

    warning = error = debug


def make_playlist(server: DownloadServer, *names: str) -> dict[str, Any]:
    return {
        "_type": "playlist",
        "id": "talks",
        "title": "Talks",
        "extractor": "test",
        "extractor_key": "Generic",
        "webpage_url": server.url,
        "entries": [{"_type": "url", "url": f"{server.url}/{name}"} for name in names],
    }


def test_hook_of_download_counts_each_byte(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressHook(quality="best") as hook, make_downloader(hook, tmp_path) as downloader:
        assert downloader.download([f"{server.url}/video.mp4"]) == 0
    (level,) = get_levels()
    assert describe(level) == ("download", "video.mp4", Status.COMPLETED, SIZE, SIZE)
    assert (level.info.unit, dict(level.metadata)) == ("B", {"quality": "best"})


def test_hook_without_block_completes(server: DownloadServer, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with make_downloader(ProgressHook(), tmp_path) as downloader:
        downloader.process_ie_result(make_playlist(server, "a.mp4", "b.mp4"), download=True)
    assert {level.status for level in get_levels()} == {Status.COMPLETED}


def test_hook_of_playlist_has_a_level_per_video(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressHook() as hook, make_downloader(hook, tmp_path) as downloader:
        downloader.process_ie_result(make_playlist(server, "a.mp4", "b.mp4", "c.mp4"), download=True)
    playlist, *videos = get_levels()
    assert describe(playlist) == ("playlist", "Talks", Status.COMPLETED, 3, 3)
    assert [describe(video) for video in videos] == [
        ("download", f"{name}.mp4", Status.COMPLETED, SIZE, SIZE) for name in "abc"
    ]
    assert all(video.info.path.startswith(f"{playlist.info.path}/") for video in videos)


def test_hook_of_two_runs_with_one_hook_has_two_playlists(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressHook() as hook:
        for folder in ("one", "two"):
            with make_downloader(hook, tmp_path / folder) as downloader:
                downloader.process_ie_result(make_playlist(server, "a.mp4"), download=True)
    levels = [level for level in get_levels() if level.info.type == "playlist"]
    assert [describe(level)[2:] for level in levels] == [(Status.COMPLETED, 1, 1)] * 2


def test_hook_of_postprocessor_has_a_level(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    ran = []

    class CopyPP(yt_dlp.postprocessor.PostProcessor):  # type: ignore[misc]
        def run(self, info: Any) -> Any:
            ran.append(info["id"])
            return [], info

    with ProgressHook() as hook, make_downloader(hook, tmp_path) as downloader:
        downloader.add_post_processor(CopyPP())
        downloader.download([f"{server.url}/video.mp4"])
    assert ran == ["video"]
    assert [describe(level)[:3] for level in get_levels()] == [
        ("download", "video.mp4", Status.COMPLETED),
        ("postprocess", "Copy", Status.COMPLETED),
    ]


def test_hook_after_cancel_request_stops_all_downloads(
    server: DownloadServer, tmp_path: Path, recorder: Recorder
) -> None:
    assert recorder.runtime is not None

    def download() -> None:
        with progress.operation("archive", id="archive-1"), ProgressHook() as hook:
            cancelling = [lambda status: progress.request_cancel("archive-1"), hook]
            with make_downloader(hook, tmp_path, progress_hooks=cancelling) as downloader:
                downloader.process_ie_result(make_playlist(server, "a.mp4", "b.mp4"), download=True)

    with pytest.raises(yt_dlp.utils.DownloadCancelled):
        download()
    operation = progress.get_operation("archive-1")
    assert operation is not None
    assert operation.root.status is Status.CANCELLED
    assert {level.status for level in operation.levels} == {Status.CANCELLED}
    assert len(operation.levels) == 2  # the playlist and its first video


def test_hook_of_failed_download_fails(server: DownloadServer, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with (
        pytest.raises(yt_dlp.utils.DownloadError),
        ProgressHook() as hook,
        make_downloader(hook, tmp_path) as downloader,
    ):
        downloader.download([f"{server.url}/truncated"])
    (level,) = get_levels()
    assert level.status is Status.FAILED
    assert level.current <= SIZE // 2


def test_hook_of_ignored_error_fails_the_video_and_continues(
    server: DownloadServer, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressHook() as hook, make_downloader(hook, tmp_path, ignoreerrors=True) as downloader:
        playlist = make_playlist(server, "a.mp4", "truncated", "b.mp4")
        downloader.process_ie_result(playlist, download=True)
    playlist_level, *videos = get_levels()
    assert [video.status for video in videos] == [Status.COMPLETED, Status.FAILED, Status.COMPLETED]
    assert (playlist_level.status, playlist_level.total) == (Status.COMPLETED, 3)


def test_hook_of_continued_download_starts_at_the_earlier_part(op: progress.Level) -> None:
    assert op.recording
    status = {"status": "downloading", "filename": "/tmp/x.mp4", "info_dict": {"id": "x"}}
    with ProgressHook() as hook:
        hook(status | {"downloaded_bytes": 5_000_000, "total_bytes": 9_000_000})
        hook(status | {"downloaded_bytes": 6_000_000, "total_bytes": 9_000_000})
        (level,) = get_levels()
        assert (level.resumed_from, level.current, level.total) == (5_000_000, 6_000_000, 9_000_000)
        hook(status | {"status": "finished"})


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"status": "downloading"},
        {"status": "downloading", "filename": "x", "downloaded_bytes": -5, "total_bytes": "many"},
        {"status": "downloading", "filename": None, "total_bytes_estimate": 10.7, "downloaded_bytes": 30},
        {"status": "finished", "filename": "x", "total_bytes": 100},
        {"status": "error", "filename": "x"},
        {"status": "started", "postprocessor": None},
        {
            "status": "finished",
            "postprocessor": "MoveFiles",
            "info_dict": {"n_entries": "?", "playlist_id": 1},
        },
    ],
)
def test_hook_with_unusual_report_never_raises(status: dict[str, Any], op: progress.Level) -> None:
    assert op.recording
    with ProgressHook() as hook:
        hook(status)
        hook(status)
    assert all(level.status.finished for level in get_levels())


def test_hook_without_configuration_does_nothing(server: DownloadServer, tmp_path: Path) -> None:
    with ProgressHook() as hook, make_downloader(hook, tmp_path) as downloader:
        assert downloader.download([f"{server.url}/video.mp4"]) == 0
    assert (tmp_path / "video.mp4").read_bytes() == BODY
