"""Output files of commands: atomic replacement, links, devices and pipes."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_MAX_NAME_CHARS: Final = 100
"""Characters of a file name that its temporary file contains."""


_STREAM: Final = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/[^/]+/(task/[^/]+/)?fd/\d+")
"""Paths that name an open stream of a process."""


class StagedFile:
    """New content of a file. ``commit`` puts it in place, ``discard`` deletes it.

    A regular file is replaced atomically and keeps its mode and owner. The content of a device, a
    pipe, or a file with several names is written in place, and so is that of a file whose
    directory is not writable.
    """

    def __init__(self, path: Path, chunks: Sequence[bytes]) -> None:
        """Write ``chunks`` to a temporary file.

        They are written to ``path`` itself if it cannot be replaced. Raises OSError.
        """
        self._temporary: Path | None = None
        self._target = path
        found = _get_state(path)
        if found is not None and not _is_replaceable(path, found):
            _write_in_place(path, chunks, is_truncated=stat.S_ISREG(found.st_mode) and not _is_stream(path))
            return
        self._target = Path(os.path.realpath(path))
        name = f".{self._target.name[:_MAX_NAME_CHARS]}.{secrets.token_hex(4)}"
        temporary = self._target.with_name(name)
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except PermissionError:
            if found is None:
                raise
            _write_in_place(path, chunks, is_truncated=True)
            return
        self._temporary = temporary
        try:
            with os.fdopen(descriptor, "wb") as file:
                is_kept = found is None or _copy_state(file.fileno(), self._target, found)
                if is_kept:
                    file.writelines(chunks)
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            self.discard()
            raise
        if not is_kept:
            self.discard()
            _write_in_place(path, chunks, is_truncated=True)

    def set_mode(self, mode: int) -> None:
        """Set the mode of a new file independently of the umask."""
        if self._temporary is not None:
            self._temporary.chmod(mode)

    def commit(self) -> None:
        """Put the new content in place."""
        if self._temporary is not None:
            self._temporary.replace(self._target)
            self._temporary = None

    def discard(self) -> None:
        """Delete the new content if it is not in place."""
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.unlink()
            self._temporary = None


def write_file(path: Path, chunks: Sequence[bytes]) -> None:
    """Write a file. Raises OSError."""
    staged = StagedFile(path, chunks)
    try:
        staged.commit()
    finally:
        staged.discard()


def _get_state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_replaceable(path: Path, found: os.stat_result) -> bool:
    """Return True for a regular file with one name.

    Raises PermissionError if it is read-only.
    """
    if not stat.S_ISREG(found.st_mode) or _is_stream(path):
        return False
    # Why: replacing it needs no write permission for the file, but writing it does.
    os.close(os.open(path, os.O_WRONLY))
    return found.st_nlink == 1


def _is_stream(path: Path) -> bool:
    return _STREAM.fullmatch(os.path.normpath(path)) is not None


def _copy_state(descriptor: int, target: Path, found: os.stat_result) -> bool:
    """Give a new file the mode, owner and attributes of the file that it replaces.

    Return False if that is not permitted.
    """
    if hasattr(os, "fchown"):
        created = os.fstat(descriptor)
        if (created.st_uid, created.st_gid) != (found.st_uid, found.st_gid):
            try:
                os.fchown(descriptor, found.st_uid, found.st_gid)
            except OSError:
                return False
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
    if hasattr(os, "listxattr"):
        # Why suppress: some file systems have no attributes, and some attributes need privileges.
        with suppress(OSError):
            for name in os.listxattr(target):
                os.setxattr(descriptor, name, os.getxattr(target, name))
    return True


def _write_in_place(path: Path, chunks: Sequence[bytes], *, is_truncated: bool) -> None:
    flags = os.O_WRONLY | (os.O_TRUNC if is_truncated else os.O_APPEND)
    with os.fdopen(os.open(path, flags), "wb") as file:
        file.writelines(chunks)
