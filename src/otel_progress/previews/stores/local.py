"""Previews in a folder of this machine: one folder a run, files that only their owner reads, each written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from otel_progress.errors import PreviewError
from otel_progress.previews.media import folder_of, is_folder, is_name, name_of
from otel_progress.previews.stores.base import LARGEST, foreign_location_error, relative_name

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


_HALF_WRITTEN: Final = re.compile(r"\.[0-9a-f]{16}\.part")


class LocalStore:
    """A folder, made at the first write. Nothing below it is read, deleted or followed but what has a name of this package's making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.base = f"file://{quote(self.folder.as_posix())}"

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Keep content: written beside its place, then moved there."""
        name = name_of(run, digest, media_type)
        path = self.folder / name
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        part = path.parent / f".{secrets.token_hex(8)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return f"{self.base}/{name}"

    def read(self, location: str) -> bytes:
        """Return content. Raises PreviewError when it is not there, or is anything but a regular file."""
        path = self._path(location)
        if path is None:
            raise foreign_location_error(location)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK)
        except OSError as error:
            raise PreviewError("the preview is no longer kept") from error
        try:
            if path.parent.is_symlink() or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PreviewError("what stands in the place of the preview is no file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(LARGEST)
        finally:
            os.close(descriptor)

    def path_of(self, location: str) -> Path | None:
        """Return the file of a location; None when it is none of this folder."""
        return self._path(location)

    def delete(self, locations: Iterable[str]) -> int:
        """Forget content, and the folder of a run that is empty then."""
        deleted = 0
        for path in {
            path for path in map(self._path, locations) if path is not None and not path.parent.is_symlink()
        }:
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
                os.utime(self.folder / folder_of(run))

    def sweep(self, before: float) -> int:
        """Forget the runs whose folder and files are all older than ``before``, and parts of files that nobody finished."""
        try:
            runs = [
                entry
                for entry in os.scandir(self.folder)
                if is_folder(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        except FileNotFoundError:
            return 0
        return sum(self._sweep_run(Path(entry.path), before) for entry in runs)

    def _sweep_run(self, folder: Path, before: float) -> int:
        with suppress(FileNotFoundError):
            files = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
            own = [
                file
                for file in files
                if is_name(f"{folder.name}/{file.name}") or _HALF_WRITTEN.fullmatch(file.name)
            ]
            if folder.stat().st_mtime >= before or any(file.stat().st_mtime >= before for file in own):
                return 0
            for file in own:
                Path(file.path).unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it, which is not ours
                folder.rmdir()
            return len(own)
        return 0

    def _path(self, location: str) -> Path | None:
        name = relative_name(self.base, location)
        return None if name is None else self.folder / name


def folder_of_url(url: str) -> Path:
    """Return the folder of a ``file:`` URL or a path."""
    if url.lower().startswith("file:"):
        rest = url[5:]
        rest = rest[2:] if rest.startswith("//") else rest
        return Path(unquote(rest.removeprefix("localhost")))
    return Path(url).expanduser()
