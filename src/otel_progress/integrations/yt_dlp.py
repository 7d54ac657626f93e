"""Hook of yt-dlp for its downloads, playlists and postprocessors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import OperationCancelledError
from otel_progress.integrations.transfer import Transfer, find_parent, get_path_name
from otel_progress.interrupts import is_interrupt

if TYPE_CHECKING:
    from types import TracebackType

    from otel_progress.instrument.level import Level

try:
    from yt_dlp.utils import DownloadCancelled  # type: ignore[import-untyped]
except ImportError as error:
    _message = "otel_progress.integrations.yt_dlp needs yt-dlp. Install it with: pip install yt-dlp"
    raise ImportError(_message) from error


RESUMED_BYTES = 1024 * 1024
"""Bytes of a first report from which on the download continues an earlier one. yt-dlp reports a new
download after its first block, which is smaller.
"""


class DownloadCancelledError(DownloadCancelled, OperationCancelledError):  # type: ignore[misc]
    """Cancellation of the operation was requested. yt-dlp stops all its downloads."""


class ProgressHook:
    """Progress hook and postprocessor hook of yt-dlp that records downloads as levels.

    ``with ProgressHook() as hook: YoutubeDL({"progress_hooks": [hook], "postprocessor_hooks":
    [hook]}).download(urls)``. Each file is a level that counts bytes, and each postprocessor a
    level. A playlist is a level above them that counts videos. ``type`` is the kind of the levels
    of files, and further arguments are their metadata. All are children of the level that is
    current when the hook is created.

    If cancellation of the operation is requested, the hook raises DownloadCancelledError, which is
    a DownloadCancelled of yt-dlp. It raises nothing else. A download that yt-dlp gave up fails
    with the next video, or at the end of the block.
    """

    def __init__(self, *, type: str = "download", **metadata: object) -> None:
        self._type = type
        self._metadata = metadata
        self._parent: Level | None = find_parent()
        self._lock = threading.RLock()
        self._playlist: Transfer | None = None
        self._playlist_id: object = None
        self._video: object = None
        """Id of the current video. None between two of them."""
        self._files: dict[str, Transfer] = {}
        """Running downloads of the current video, by file."""
        self._step: Transfer | None = None
        """Running postprocessor."""

    def __call__(self, status: Mapping[str, Any]) -> None:
        """Process the report of a download or a postprocessor."""
        transfer = None
        try:
            with self._lock:
                transfer = self._process(status)
        except Exception as failure:  # The dict is that of another library.
            if is_interrupt(failure):
                raise
            report_internal_error("integration", "A report of yt-dlp was ignored.", error=failure)
        if transfer is not None and transfer.level.cancel_requested:
            try:
                transfer.level.check_cancelled()
            except OperationCancelledError as request:
                message = str(request)
            raise DownloadCancelledError(message)

    def _process(self, status: Mapping[str, Any]) -> Transfer | None:
        info, state = status.get("info_dict") or {}, status.get("status")
        if "postprocessor" in status:
            return self._process_step(str(status["postprocessor"]), state, info)
        self._select_video(info)
        path = str(status.get("filename") or status.get("tmpfilename") or info.get("title") or "")
        transfer = self._files.get(path)
        if transfer is None:
            transfer = self._files[path] = self._start_file(path, status)
        else:
            self._update_file(transfer, status)
        if state in ("finished", "error"):
            del self._files[path]
            if state == "error":
                transfer.fail("the download failed")
            else:
                transfer.end()
        return transfer

    def _start_file(self, path: str, status: Mapping[str, Any]) -> Transfer:
        transfer = Transfer(
            self._type, get_path_name(path), parent=self._get_parent(), metadata=self._metadata
        )
        done = status.get("downloaded_bytes")
        if status.get("status") == "downloading" and isinstance(done, int) and done >= RESUMED_BYTES:
            transfer.resume_from(done)
        self._update_file(transfer, status)
        return transfer

    def _update_file(self, transfer: Transfer, status: Mapping[str, Any]) -> None:
        done = status.get("downloaded_bytes")
        total = status.get("total_bytes") or status.get("total_bytes_estimate")
        if total is None and status.get("status") == "finished":
            total = done
        if done is None and status.get("status") == "finished":
            done = total
        transfer.set_total(total)
        transfer.set_done(done)

    def _process_step(self, name: str, state: object, info: Mapping[str, Any]) -> Transfer | None:
        self._select_video(info)
        if name == "MoveFiles":  # the last one of each video
            if state == "finished":
                self._finish_video()
            return self._playlist
        if self._step is not None:
            self._step.end()
            self._step = None
        if state == "started":
            self._step = Transfer(
                "postprocess", name, unit=None, parent=self._get_parent(), metadata=self._metadata
            )
        return self._step

    def _get_parent(self) -> Level | None:
        return self._parent if self._playlist is None else self._playlist.level

    def _select_video(self, info: Mapping[str, Any]) -> None:
        """Finish the current video if the report is of another one."""
        playlist_id = info.get("playlist_id") if info.get("n_entries") else None
        video = (playlist_id, info.get("playlist_autonumber"), info.get("id"))
        if video == self._video:
            return
        if self._video is not None:
            self._finish_video()
        if playlist_id != self._playlist_id:
            if self._playlist is not None:
                self._playlist.end()
            self._playlist = None if playlist_id is None else self._start_playlist(info)
            self._playlist_id = playlist_id
        self._video = video

    def _start_playlist(self, info: Mapping[str, Any]) -> Transfer:
        name, count = info.get("playlist_title") or info.get("playlist"), info.get("n_entries")
        return Transfer(
            "playlist",
            None if name is None else str(name),
            total=count if type(count) is int and count > 0 else None,
            unit="video",
            parent=self._parent,
        )

    def _finish_video(self) -> None:
        for transfer in self._files.values():
            transfer.fail("the download did not finish")
        self._files.clear()
        if self._playlist is not None and self._video is not None:
            self._playlist.add(1)
            if self._playlist.has_reached_total:
                self._playlist.end()
                self._playlist = self._playlist_id = None
        self._video = None

    def close(self) -> None:
        """End all levels that still run."""
        self._end(None)

    def __enter__(self) -> ProgressHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            running = [*self._files.values(), self._step, self._playlist]
            if error is None:
                self._finish_video()
            for transfer in running:
                if transfer is None:
                    continue
                if isinstance(error, DownloadCancelled):
                    transfer.cancel(str(error) or "cancelled")
                else:
                    transfer.end(error)
            self._files.clear()
            self._step = self._playlist = self._playlist_id = self._video = None
