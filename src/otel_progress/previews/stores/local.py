"""Preview store in a local folder.

Each run has a folder. Only the owner can read its files. A file is written completely or not at
all.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from otel_progress.errors import PreviewError, UnavailableError
from otel_progress.previews.media import build_name, get_run_folder, is_folder, is_name
from otel_progress.previews.stores.base import MAX_READ_BYTES, foreign_location_error, relative_name

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


_PARTIAL_FILE: Final = re.compile(r"\.[0-9a-f]{16}\.part")


class LocalStore:
    """A folder, created at the first write.

    It ignores files with other names and follows no links. ``now`` returns Unix seconds. It is the
    clock of :meth:`touch`, of written files and of the caller of :meth:`sweep`.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._now = now
        try:
            self.folder = folder.absolute()
        except OSError as error:
            msg = (
                f"The folder of the previews {folder} has no place, because the current directory "
                f"cannot be read ({error.strerror}). Use an absolute path."
            )
            raise UnavailableError(msg) from error
        self.base = f"file://{quote(self.folder.as_posix())}"

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Store content: write a temporary file, then rename it."""
        name = build_name(run, digest, media_type)
        path = self.folder / name
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        part = path.parent / f".{secrets.token_hex(8)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            self._mark(part)
            part.replace(path)
            self._mark(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return f"{self.base}/{name}"

    def read(self, location: str) -> bytes:
        """Return content. Raises PreviewError if it is missing or not a regular file."""
        path = self.path_of(location)
        if path is None:
            raise foreign_location_error(location)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK)
        except OSError as error:
            raise PreviewError("the preview is no longer stored") from error
        try:
            if path.parent.is_symlink() or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PreviewError("preview path is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_READ_BYTES)
        finally:
            os.close(descriptor)

    def path_of(self, location: str) -> Path | None:
        """Return the file of a location, or None for a location of another store."""
        name = relative_name(self.base, location)
        return None if name is None else self.folder / name

    def delete(self, locations: Iterable[str]) -> int:
        """Delete content, and the folder of a run that is then empty."""
        deleted = 0
        paths = {path for path in map(self.path_of, locations) if path is not None}
        for path in (path for path in paths if not path.parent.is_symlink()):
            with suppress(FileNotFoundError):
                path.unlink()
                deleted += 1
            with suppress(OSError):
                path.parent.rmdir()
        return deleted

    def touch(self, runs: Iterable[str]) -> None:
        """Mark the folders of these runs as in use."""
        for run in runs:
            with suppress(FileNotFoundError):
                self._mark(self.folder / get_run_folder(run))

    def _mark(self, path: Path) -> None:
        """Set the time of a file or folder by the clock of :meth:`sweep`."""
        now = self._now()
        os.utime(path, (now, now))

    def sweep(self, before: float) -> int:
        """Delete runs whose folder and files are all older than ``before``.

        Partial files are deleted as well.
        """
        try:
            runs = [
                entry
                for entry in os.scandir(self.folder)
                if is_folder(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        except FileNotFoundError:
            return 0
        if not runs:
            return 0
        # Why: the clock of this process may be wrong, and files of other processes have their time.
        before = min(before, before + self._read_file_time() - self._now())
        return sum(self._sweep_run(Path(entry.path), before) for entry in runs)

    def _read_file_time(self) -> float:
        """Return the file system's time of a new file, in Unix seconds."""
        part = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            part.touch(mode=0o600, exist_ok=False)
            return part.stat().st_mtime
        finally:
            part.unlink(missing_ok=True)

    def _sweep_run(self, folder: Path, before: float) -> int:
        with suppress(FileNotFoundError):
            files = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
            own = [
                file
                for file in files
                if is_name(f"{folder.name}/{file.name}") or _PARTIAL_FILE.fullmatch(file.name)
            ]
            if folder.stat().st_mtime >= before or any(file.stat().st_mtime >= before for file in own):
                return 0
            for file in own:
                Path(file.path).unlink(missing_ok=True)
            with suppress(OSError):  # the folder contains foreign files
                folder.rmdir()
            return len(own)
        return 0


def parse_folder_url(url: str) -> Path:
    """Return the folder of a ``file:`` URL or a path."""
    if url.lower().startswith("file:"):
        path = url[5:].removeprefix("//").removeprefix("localhost")
        return Path(unquote(path))
    try:
        return Path(url).expanduser()
    except RuntimeError as error:
        msg = f"The folder of the previews {url} has no place: {error} Use an absolute path."
        raise UnavailableError(msg) from error
